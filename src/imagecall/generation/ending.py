"""Sentences about the end of a stream: its failure, and the words of the model."""

from collections.abc import Iterator

from imagecall.errors import printable
from imagecall.v1.image_generation_service_pb2 import StreamEnd, StreamEnding
from imagecall.v1.image_response_pb2 import ImageResponse


def failure_of(end: StreamEnd) -> str:
    """Failure that the end of a stream reports; "" for none."""
    if end.ending in (StreamEnding.STREAM_ENDING_COMPLETED, StreamEnding.STREAM_ENDING_UNSPECIFIED):
        return ""
    response = end.response
    cause = response.error.message or response.error.code or response.incomplete_details.reason
    if end.ending not in StreamEnding.values():
        return f"the response ended in an unknown way: {end.ending}"
    word = StreamEnding.Name(end.ending).removeprefix("STREAM_ENDING_").lower()
    return printable(f"the response ended as {word}" + (f": {cause}" if cause else ""))


def model_lines(response: ImageResponse) -> Iterator[str]:
    """Yields lines that the model wrote beside an image, or instead of one."""
    for verb, text in (("wrote", response.output_text), ("refused", response.refusal)):
        for line in text.strip().splitlines():
            yield f"the model {verb}: {line}"
