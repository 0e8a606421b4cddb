"""Splits bytes of any size into chunks that fit into messages, and reassembles them.

The rules are those of proto/imagecall/v1/chunk.proto: chunks come in order and without a gap, and
the last one has the size of the whole in bytes, and its SHA-256 digest.
"""

import hashlib
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from imagecall.errors import ConversionError
from imagecall.formats import MAX_PROLOG_BYTES, media_type
from imagecall.sizes import CHUNK
from imagecall.v1.chunk_pb2 import Chunk, ChunkEnd

_FINAL: Final = "output_item_done_event."
"""Prefix of the paths of finished images."""


class RawChunk(NamedTuple):
    """Chunk that is not a message yet, so that its data is not copied."""

    offset: int
    data: bytes | memoryview
    end: ChunkEnd | None = None

    @classmethod
    def of(cls, chunk: Chunk) -> "RawChunk":
        """Makes a RawChunk of a message, with a copy of its data."""
        return cls(chunk.offset, chunk.data, chunk.end if chunk.HasField("end") else None)

    def message(self) -> Chunk:
        """Makes the message, with a copy of the data."""
        return Chunk(offset=self.offset, data=bytes(self.data), end=self.end)


def split(data: bytes) -> Iterator[Chunk]:
    """Splits bytes into chunks: at least one."""
    return (chunk.message() for chunk in raw_chunks(data))


def raw_chunks(data: bytes, *, sha256: bytes = b"", **end: Any) -> Iterator[RawChunk]:
    """Splits bytes into chunks that are not messages yet: at least one.

    `sha256` is the digest of the bytes, if it is known; `end` holds further fields of ChunkEnd.
    """
    view = memoryview(data)
    digest = None if sha256 else hashlib.sha256()
    for offset in range(0, len(data) or 1, CHUNK):
        part = view[offset : offset + CHUNK]
        if digest:  # Chunk by chunk, so that other work does not wait for the whole value.
            digest.update(part)
        last = None
        if offset + CHUNK >= len(data):
            whole = digest.digest() if digest else sha256
            last = ChunkEnd(size=len(data), sha256=whole, **end)
        yield RawChunk(offset, part, last)


def end_of_image(data: bytes, field: str) -> dict[str, Any]:
    """Fields of ChunkEnd for an image in the field `field`, from its first bytes or all."""
    final = field.startswith(_FINAL)
    return {"media_type": media_type(data), "field": field, "final_image": final}


class Chunker:
    """Splits an image into chunks while it arrives. Holds each chunk back until the next comes."""

    def __init__(self) -> None:
        self._offset = 0
        self._held = b""
        self._first = b""
        self._digest = hashlib.sha256()

    @property
    def size(self) -> int:
        """Bytes added so far."""
        return self._offset + len(self._held)

    def add(self, data: bytes) -> RawChunk | None:
        """Adds the next bytes, which become a chunk. Returns the chunk before them, if any."""
        self._digest.update(data)
        self._first += data[: MAX_PROLOG_BYTES - len(self._first)]
        held, self._held = self._held, data
        if not held:
            return None
        chunk = RawChunk(self._offset, held)
        self._offset += len(held)
        return chunk

    def finish(self, field: str) -> RawChunk:
        """Returns the last chunk of the image, which is in the field `field`."""
        end = ChunkEnd(
            size=self._offset + len(self._held),
            sha256=self._digest.digest(),
            **end_of_image(self._first, field),
        )
        return RawChunk(self._offset, self._held, end)


class Assembly:
    """Reassembles the bytes of chunks while they arrive. The inverse of `split`.

    Attributes:
        size: bytes added so far.
        end: the end of the last chunk. None: the last chunk was not added yet.
    """

    def __init__(self, max_bytes: int) -> None:
        self.size = 0
        self.end: ChunkEnd | None = None
        self._max_bytes = max_bytes
        self._chunks: list[bytes | memoryview] = []
        self._digest = hashlib.sha256()
        self._checks_digest = True

    def put(self, data: bytes, end: ChunkEnd) -> None:
        """Puts the whole bytes in place of chunks, by reference; their digest is not checked."""
        self.size, self.end = len(data), end
        self._chunks, self._checks_digest = [data], False

    def add(self, chunk: RawChunk) -> None:
        """Adds the next chunk. Drops all bytes once they are more than `max_bytes`.

        Raises ConversionError (CHUNKS_DAMAGED) for a chunk that is not the next one.
        """
        if self.end is not None:
            raise damaged("a chunk comes after the last one", "chunk-order")
        if chunk.offset != self.size:
            message = f"a chunk begins at byte {chunk.offset:,} instead of {self.size:,}"
            raise damaged(message, "chunk-order")
        if not chunk.data and (chunk.end is None or self.size):
            raise damaged(f"the chunk at byte {chunk.offset:,} is empty", "chunk-order")
        self.size += len(chunk.data)
        if self.size > self._max_bytes:
            self._chunks.clear()
        else:
            self._keep(chunk.data)
            self._digest.update(chunk.data)
        self.end = chunk.end

    def _keep(self, data: bytes | memoryview) -> None:
        self._chunks.append(data)

    def whole(self) -> bytes:
        """Returns the complete bytes, once only. Raises ConversionError as `check` does."""
        data = b"".join(self.chunks())
        self._chunks = []  # Else the bytes would be in memory twice.
        return data

    def chunks(self) -> list[bytes | memoryview]:
        """Returns the complete bytes, in chunks as they came. Raises ConversionError as `check`."""
        self.check()
        return self._chunks

    def check(self) -> None:
        """Checks that the bytes are complete.

        Raises ConversionError: CHUNKS_DAMAGED if the end is missing or has another size or digest;
        TOO_LARGE for more than `max_bytes` bytes.
        """
        if self.end is None:
            raise damaged("the chunks end before their last one", "chunk-end")
        if self.end.size != self.size:
            message = f"the chunks have {self.size:,} bytes instead of {self.end.size:,}"
            raise damaged(message, "chunk-size")
        if self.size > self._max_bytes:
            message = f"the chunks have {self.size:,} bytes; the limit is {self._max_bytes:,}"
            raise ConversionError("TOO_LARGE", "", message)
        digest = self._digest.digest()
        if self._checks_digest and self.end.sha256 != digest:
            expected = self.end.sha256[: len(digest)].hex() or "none"
            message = (
                f"the SHA-256 digest of the chunks is {digest.hex()}; their end has {expected}"
            )
            raise damaged(message, "chunk-digest")


def damaged(message: str, rule: str = "") -> ConversionError:
    """Error for chunks that were lost, repeated, reordered or changed, and the broken rule."""
    error = ConversionError("CHUNKS_DAMAGED", "", message)
    error.rule = rule
    return error
