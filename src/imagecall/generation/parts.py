"""Splits events and ends into the parts of an answer to StreamImage."""

from collections.abc import Collection, Iterator

from imagecall.generation.backend import Part, SmallPart
from imagecall.generation.chunked_fields import detach_values, image_fields
from imagecall.generation.whole_image import WholeImage
from imagecall.v1.chunk_pb2 import Chunk
from imagecall.v1.image_generation_service_pb2 import StreamEnd, StreamImageResponse
from imagecall.v1.stream_event_pb2 import StreamEvent
from imagecall.wire.chunks import RawChunk
from imagecall.wire.splice import serialized_with


def in_chunks(part: Part) -> Iterator[SmallPart]:
    """Yields a part, or the chunks of a whole image."""
    if isinstance(part, WholeImage):
        yield from part.chunks()
    else:
        yield part


def sendable(part: SmallPart) -> StreamImageResponse | bytes:
    """Converts a part to a message that gRPC can send.

    A chunk is serialized here, with one copy of its data instead of three.
    """
    if not isinstance(part, RawChunk):
        return part
    response = StreamImageResponse(chunk=Chunk(offset=part.offset, end=part.end))
    return serialized_with(response, "chunk.data", part.data) if part.data else response


def in_parts(message: StreamEvent | StreamEnd, sent: Collection[str] = ()) -> Iterator[Part]:
    """Yields an event's or end's images and the chunks of other large values, then the rest.

    `sent` holds the paths of images that have been sent already.
    """
    yield from detach_values(message, sent)
    if isinstance(message, StreamEvent):
        yield StreamImageResponse(event=message)
    else:
        yield StreamImageResponse(end=message)


def parts_with_image(
    message: StreamEvent | StreamEnd, image: bytes | None = None, sha256: bytes = b""
) -> Iterator[Part]:
    """Yields the parts of an event or end with empty images, in whose place `image` is sent.

    All images of the message are the same. None: the message has no image. `sha256` is the digest
    of the image, if it is known.
    """
    paths = []
    if image is not None:
        paths = [place.path for place in image_fields(message)]
        yield from (WholeImage.with_digest(path, image, sha256) for path in paths)
    yield from in_parts(message, paths)
