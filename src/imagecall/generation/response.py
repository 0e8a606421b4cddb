"""Converts a response object of the API to an ImageResponse and a Document, and back."""

from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias

from imagecall.conversion.document import document_from_json
from imagecall.conversion.fields import key_of, spellings
from imagecall.conversion.plan import object_plan
from imagecall.generation.backend import WithResponse
from imagecall.generation.calls_once import output_calls
from imagecall.generation.words import put_words, words_of
from imagecall.json.large_strings import NO_SPANS
from imagecall.json.pieces import Piece, join
from imagecall.json.text import MAX_BYTES, join_members, members, parse
from imagecall.turns import take_turn
from imagecall.v1.document_pb2 import Document
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall
from imagecall.v1.image_generation_service_pb2 import (
    CancelImageResponseRequest,
    GenerateImageRequest,
    GetImageResponseRequest,
    StreamEnd,
    StreamEnding,
    StreamImageRequest,
)
from imagecall.v1.image_response_pb2 import ImageResponse

_PLAN: Final = object_plan(ImageResponse.DESCRIPTOR)
_OPTIONS: Final = {f.name: key_of(f) for f in ImageResponse.DESCRIPTOR.fields}
_KEYS: Final = [option.name for option in _OPTIONS.values() if option.name]
_NO_KEYS: Final = [name for name, key in _OPTIONS.items() if not (key.name or key.role)]

ForResponse: TypeAlias = (
    GenerateImageRequest | StreamImageRequest | GetImageResponseRequest | CancelImageResponseRequest
)
"""Request with include_document and calls_once."""

_MESSAGE: Final = b'"message"'


class ReadResponse(NamedTuple):
    """Response that was read.

    Attributes:
        response: the response without its calls.
        document: the whole response object.
    """

    response: ImageResponse
    document: Document

    def calls(self) -> list[ImageGenerationCall]:
        """Returns the calls of the response's output."""
        return [place.call for _, place in output_calls(self.document)]


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
"""True for a call, at an index of the output, that an earlier event of the stream had."""


def end_of(
    read: ReadResponse,
    ending: int,
    request: StreamImageRequest,
    delivered: Delivered = lambda index, call: False,
) -> StreamEnd:
    """End of a stream whose last event has a response, which is used up."""
    end = StreamEnd(ending=ending)  # type: ignore[arg-type]  # a number of StreamEnding
    _fill(end.response, read, request, delivered)
    return end


def whole_of(kind: type[WithResponse], read: ReadResponse, request: ForResponse) -> WithResponse:
    """Answer that is one response, which is used up."""
    answer = kind()
    _fill(answer.response, read, request, lambda index, call: False)
    return answer


def _fill(
    response: ImageResponse, read: ReadResponse, request: ForResponse, delivered: Delivered
) -> None:
    response.CopyFrom(read.response)
    for index, place in output_calls(read.document):
        if not delivered(index, place.call):
            response.calls.add().CopyFrom(place.call)
            take_turn()
            if request.calls_once:
                place.ClearField("call")
                place.call_index = len(response.calls) - 1
    if request.include_document:
        response.document.CopyFrom(read.document)


def ending_of(response: ImageResponse) -> int:
    """Ending that matches the status of a response."""
    return ENDINGS.get(f"response.{response.status}", 0)
