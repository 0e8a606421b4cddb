"""Image of a stream that is passed on by reference, inside the process, in place of its chunks."""

from collections.abc import Iterator
from typing import NamedTuple

from imagecall.v1.chunk_pb2 import ChunkEnd
from imagecall.wire.chunks import RawChunk, end_of_image, raw_chunks


class WholeImage(NamedTuple):
    """Image of the event or end that follows.

    Attributes:
        field: path of its field, as in ChunkEnd.field.
        data: the image.
        sha256: the digest of the image. Empty: not known, and computed where chunks are made. Who
            changes `data` empties it; only clients of gRPC check it.
    """

    field: str
    data: bytes
    sha256: bytes = b""

    def chunks(self) -> Iterator[RawChunk]:
        """Splits the image into chunks."""
        return raw_chunks(self.data, sha256=self.sha256, **end_of_image(self.data, self.field))

    def end(self) -> ChunkEnd:
        """Returns the end of the last chunk, without a digest that is not known."""
        end = end_of_image(self.data, self.field)
        return ChunkEnd(size=len(self.data), sha256=self.sha256, **end)
