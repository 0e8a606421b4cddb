"""Image of a stream that is passed on by reference, inside the process, in place of its chunks."""

import dataclasses
from collections.abc import Iterator

from imagecall.v1.chunk_pb2 import ChunkEnd
from imagecall.wire.chunks import RawChunk, end_of_image, raw_chunks


@dataclasses.dataclass(frozen=True)
class WholeImage:
    """Image of the event or end that follows.

    Attributes:
        field: path of its field, as in ChunkEnd.field.
        data: the image.
        sha256: the digest of the image. Empty: not known, and computed where chunks are made.
    """

    field: str
    data: bytes
    # No argument, so that dataclasses.replace() drops the digest of bytes that it replaces.
    sha256: bytes = dataclasses.field(default=b"", init=False)

    @classmethod
    def with_digest(cls, field: str, data: bytes, sha256: bytes) -> "WholeImage":
        """Returns an image whose digest is known."""
        image = cls(field, data)
        object.__setattr__(image, "sha256", sha256)
        return image

    def chunks(self) -> Iterator[RawChunk]:
        """Splits the image into chunks."""
        return raw_chunks(self.data, sha256=self.sha256, **end_of_image(self.data, self.field))

    def end(self) -> ChunkEnd:
        """Returns the end of the last chunk, without a digest that is not known."""
        end = end_of_image(self.data, self.field)
        return ChunkEnd(size=len(self.data), sha256=self.sha256, **end)
