"""Splits events and ends into the parts of an answer to StreamImage."""

from collections.abc import AsyncGenerator, Collection, Iterator

from imagecall.generation.backend import Part
from imagecall.generation.chunked_fields import detach_values, image_fields
from imagecall.generation.fairness import fair_turn
from imagecall.sizes import PIECE
from imagecall.v1.chunk_pb2 import Chunk
from imagecall.v1.image_generation_service_pb2 import StreamEnd, StreamImageResponse
from imagecall.v1.stream_event_pb2 import StreamEvent
from imagecall.wire.chunks import RawChunk, end_of_image, raw_chunks
from imagecall.wire.splice import serialized_with


def sendable(part: Part) -> StreamImageResponse | bytes:
    """Converts a part to a message that gRPC can send.

    A chunk is serialized here, with one copy of its data instead of three.
    """
    if not isinstance(part, RawChunk):
        return part
    response = StreamImageResponse(chunk=Chunk(offset=part.offset, end=part.end))
    return serialized_with(response, "chunk.data", part.data) if part.data else response


def in_parts(message: StreamEvent | StreamEnd, sent: Collection[str] = ()) -> Iterator[Part]:
    """Yields the chunks of an event's or end's large values, then the rest of the message.

    `sent` holds the paths of images whose chunks have been sent already.
    """
    yield from detach_values(message, sent)
    if isinstance(message, StreamEvent):
        yield StreamImageResponse(event=message)
    else:
        yield StreamImageResponse(end=message)


async def parts_with_image(
    message: StreamEvent | StreamEnd, image: bytes | None = None, sha256: bytes = b""
) -> AsyncGenerator[Part, None]:
    """Yields the parts of an event or end with empty images, in whose place `image` is sent.

    All images of the message are the same. None: the message has no image. `sha256` is the digest
    of the image, if it is known.
    """
    paths = [] if image is None else [place.path for place in image_fields(message)]
    for path in paths:
        for chunk in raw_chunks(image or b"", sha256=sha256, **end_of_image(image or b"", path)):
            if len(chunk.data) >= PIECE:
                await fair_turn()
            yield chunk
    for part in in_parts(message, paths):
        yield part
