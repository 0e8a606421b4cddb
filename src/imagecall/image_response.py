"""A response object of the API as an ImageResponse, and the Document that it was."""

from collections.abc import Iterator
from typing import Final, NamedTuple

from imagecall.codecs import key_of
from imagecall.document import document_from_json
from imagecall.json_text import MAX_BYTES, join_members, members, parse
from imagecall.large_strings import NO_SPANS
from imagecall.plan import object_plan
from imagecall.v1.document_pb2 import Document
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall
from imagecall.v1.image_response_pb2 import ImageResponse

_PLAN: Final = object_plan(ImageResponse.DESCRIPTOR)
_KEYS: Final = [key_of(field).name for field in ImageResponse.DESCRIPTOR.fields]
_OUTPUT: Final = "/output/"


class ReadResponse(NamedTuple):
    """A response that was read.

    Attributes:
        response: what it says of itself, without its calls.
        document: all of it.
    """

    response: ImageResponse
    document: Document

    def calls(self) -> Iterator[tuple[int, ImageGenerationCall]]:
        """The calls of its output, by their index there."""
        for call in self.document.calls:
            if call.pointer.startswith(_OUTPUT):
                yield int(call.pointer.removeprefix(_OUTPUT)), call.call


def response_from_json(text: bytes | str, *, max_bytes: int = MAX_BYTES) -> ReadResponse:
    """Reads a response object. Raises ConversionError."""
    document = document_from_json(text, kind="response", max_bytes=max_bytes)
    raws = members(document.json.encode())
    known = {key: raws[key] for key in _KEYS if raws.get(key, b"null") != b"null"}
    response = ImageResponse()
    summary = join_members(known)
    _PLAN.read(response, summary, parse(summary), NO_SPANS, False)
    return ReadResponse(response, document)
