"""A response object of the API as an ImageResponse, and the Document that it was."""

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, TypeAlias

from imagecall.conversion.document import document_from_json
from imagecall.conversion.fields import key_of, spellings
from imagecall.conversion.plan import object_plan
from imagecall.generation.words import put_words, words_of
from imagecall.json.large_strings import NO_SPANS
from imagecall.json.pieces import Piece, join
from imagecall.json.text import MAX_BYTES, join_members, members, parse
from imagecall.v1.document_pb2 import Document
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall
from imagecall.v1.image_generation_service_pb2 import StreamEnd, StreamEnding
from imagecall.v1.image_response_pb2 import ImageResponse

_PLAN: Final = object_plan(ImageResponse.DESCRIPTOR)
_OPTIONS: Final = {f.name: key_of(f) for f in ImageResponse.DESCRIPTOR.fields}
_KEYS: Final = [option.name for option in _OPTIONS.values() if option.name]
_NO_KEYS: Final = [name for name, key in _OPTIONS.items() if not (key.name or key.role)]
OUTPUT: Final = "/output/"
"""Start of the pointers of the calls of a response."""

_MESSAGE: Final = b'"message"'


class ReadResponse(NamedTuple):
    """A response that was read.

    Attributes:
        response: what it has beside its calls.
        document: all of it.
    """

    response: ImageResponse
    document: Document

    def calls(self) -> Iterator[tuple[int, ImageGenerationCall]]:
        """The calls of its output, by their index there."""
        for call in self.document.calls:
            if call.pointer.startswith(OUTPUT):
                yield int(call.pointer.removeprefix(OUTPUT)), call.call


def response_from_json(text: bytes | str, *, max_bytes: int = MAX_BYTES) -> ReadResponse:
    """Reads a response object. Raises ConversionError."""
    document = document_from_json(text, kind="response", max_bytes=max_bytes)
    raws = members(document.json.encode())
    known = {key: raws[key] for key in _KEYS if raws.get(key, b"null") != b"null"}
    response = ImageResponse()
    summary = join_members(known)
    _PLAN.read(response, summary, parse(summary), NO_SPANS, False)
    if _MESSAGE in raws.get("output", b""):
        put_words(response, words_of(parse(raws["output"])))
    return ReadResponse(response, document)


def response_to_json(response: ImageResponse) -> bytes:
    """The fields of a response that are JSON keys, as a JSON object."""
    summary = ImageResponse()
    summary.CopyFrom(response)
    for name in _NO_KEYS:
        summary.ClearField(name)  # type: ignore[arg-type]  # a name of its fields
    pieces: list[Piece] = []
    _PLAN.write(summary, pieces)
    return join(pieces, MAX_BYTES)


ENDINGS: Final = {tag: number for tag, number in spellings(StreamEnding.DESCRIPTOR).items() if tag}
"""By the type of the event that ends a stream: the ending."""

Delivered: TypeAlias = Callable[[int, ImageGenerationCall], bool]
"""Whether a call, at an index of the output, was given before."""


def end_of(
    read: ReadResponse,
    ending: int,
    include_document: bool,
    delivered: Delivered = lambda index, call: False,
) -> StreamEnd:
    """The end of a stream that ends with a response."""
    end = StreamEnd(ending=ending, response=read.response)  # type: ignore[arg-type]  # a number of StreamEnding
    for index, call in read.calls():
        if not delivered(index, call):
            end.response.calls.add().CopyFrom(call)
    if include_document:
        end.response.document.CopyFrom(read.document)
    return end


def ending_of(response: ImageResponse) -> int:
    """The ending that goes with the status of a response that came without a stream."""
    return ENDINGS.get(f"response.{response.status}", 0)
