"""Converts a response object of the API to an ImageResponse and a Document, and back."""

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, TypeAlias

from imagecall.conversion.document import document_from_json
from imagecall.conversion.fields import key_of, spellings
from imagecall.conversion.plan import object_plan
from imagecall.generation.words import put_words, words_of
from imagecall.json.large_strings import NO_SPANS
from imagecall.json.pieces import Piece, join
from imagecall.json.text import MAX_BYTES, join_members, members, parse
from imagecall.turns import take_turn
from imagecall.v1.document_pb2 import Document
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall
from imagecall.v1.image_generation_service_pb2 import (
    GenerateImageResponse,
    StreamEnd,
    StreamEnding,
)
from imagecall.v1.image_response_pb2 import ImageResponse

_PLAN: Final = object_plan(ImageResponse.DESCRIPTOR)
_OPTIONS: Final = {f.name: key_of(f) for f in ImageResponse.DESCRIPTOR.fields}
_KEYS: Final = [option.name for option in _OPTIONS.values() if option.name]
_NO_KEYS: Final = [name for name, key in _OPTIONS.items() if not (key.name or key.role)]
OUTPUT: Final = "/output/"
"""Prefix of the JSON Pointers of the calls of a response."""

_MESSAGE: Final = b'"message"'


class ReadResponse(NamedTuple):
    """Response that was read.

    Attributes:
        response: the response without its calls.
        document: the whole response object.
    """

    response: ImageResponse
    document: Document

    def calls(self) -> Iterator[tuple[int, ImageGenerationCall]]:
        """Yields each call of the response's output, with its index there."""
        for call in self.document.calls:
            if call.pointer.startswith(OUTPUT):
                yield int(call.pointer.removeprefix(OUTPUT)), call.call


def response_from_json(text: bytes | str, *, max_bytes: int = MAX_BYTES) -> ReadResponse:
    """Reads a response object. Raises ConversionError."""
    document = document_from_json(text, kind="response", max_bytes=max_bytes)
    json = document.json
    take_turn()
    raws = members(json.encode())
    values = {key: raws[key] for key in _KEYS if raws.get(key, b"null") != b"null"}
    response = ImageResponse()
    summary = join_members(values)
    _PLAN.read(response, summary, parse(summary), NO_SPANS, False)
    if _MESSAGE in raws.get("output", b""):
        put_words(response, words_of(parse(raws["output"])))
    return ReadResponse(response, document)


def response_to_json(response: ImageResponse) -> bytes:
    """Writes the fields of a response that are JSON keys, as a JSON object."""
    values = {field.name: value for field, value in response.ListFields()}
    for name in _NO_KEYS:  # Such as calls, which are large.
        values.pop(name, None)
    summary = ImageResponse(**values)
    pieces: list[Piece] = []
    _PLAN.write(summary, pieces)
    return join(pieces, MAX_BYTES)


ENDINGS: Final = {tag: number for tag, number in spellings(StreamEnding.DESCRIPTOR).items() if tag}
"""Endings of a stream, by the type of its last event."""

Delivered: TypeAlias = Callable[[int, ImageGenerationCall], bool]
"""Reports a call, at an index of the output, that an earlier event of the stream had."""


def end_of(
    read: ReadResponse,
    ending: int,
    include_document: bool,
    delivered: Delivered = lambda index, call: False,
) -> StreamEnd:
    """End of a stream whose last event has a response."""
    end = StreamEnd(ending=ending)  # type: ignore[arg-type]  # a number of StreamEnding
    _fill(end.response, read, include_document, delivered)
    return end


def whole_of(read: ReadResponse, include_document: bool) -> GenerateImageResponse:
    """Answer that is one response."""
    answer = GenerateImageResponse()
    _fill(answer.response, read, include_document, lambda index, call: False)
    return answer


def _fill(
    response: ImageResponse, read: ReadResponse, include_document: bool, delivered: Delivered
) -> None:
    response.CopyFrom(read.response)
    for index, call in read.calls():
        if not delivered(index, call):
            response.calls.add().CopyFrom(call)
            take_turn()
    if include_document:
        response.document.CopyFrom(read.document)


def ending_of(response: ImageResponse) -> int:
    """Ending that matches the status of a response."""
    return ENDINGS.get(f"response.{response.status}", 0)
