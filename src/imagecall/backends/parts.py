"""What a backend says, as parts of the answer to StreamImage."""

from collections.abc import Iterator

from imagecall.large_values import take_out
from imagecall.v1.image_generation_service_pb2 import StreamEnd, StreamImageResponse
from imagecall.v1.stream_event_pb2 import StreamEvent


def in_parts(message: StreamEvent | StreamEnd, sent: str = "") -> Iterator[StreamImageResponse]:
    """An event or end as parts of an answer: chunks of what is large, then what is left of it.

    `sent` is the path of an image whose chunks have been given already.
    """
    for chunk in take_out(message, sent):
        yield StreamImageResponse(chunk=chunk)
    if isinstance(message, StreamEvent):
        yield StreamImageResponse(event=message)
    else:
        yield StreamImageResponse(end=message)
