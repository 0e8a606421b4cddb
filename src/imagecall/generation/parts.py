"""What a backend says, as parts of the answer to StreamImage."""

from collections.abc import Collection, Iterator

from imagecall.generation.backend import Part
from imagecall.generation.chunked_fields import detach_values
from imagecall.v1.chunk_pb2 import Chunk
from imagecall.v1.image_generation_service_pb2 import StreamEnd, StreamImageResponse
from imagecall.v1.stream_event_pb2 import StreamEvent
from imagecall.wire.chunks import RawChunk
from imagecall.wire.splice import serialized_with


def sendable(part: Part) -> StreamImageResponse | bytes:
    """A part as it can be sent. A chunk is serialized, with one copy of its data, not three."""
    if not isinstance(part, RawChunk):
        return part
    response = StreamImageResponse(chunk=Chunk(offset=part.offset, end=part.end))
    return serialized_with(response, "chunk.data", part.data) if part.data else response


def in_parts(message: StreamEvent | StreamEnd, sent: Collection[str] = ()) -> Iterator[Part]:
    """An event or end as parts of an answer: chunks of what is large, then what is left of it.

    `sent` are the paths of images whose chunks have been given already.
    """
    yield from detach_values(message, sent)
    if isinstance(message, StreamEvent):
        yield StreamImageResponse(event=message)
    else:
        yield StreamImageResponse(end=message)
