"""Bytes of any size in chunks that fit into messages, and back.

The rules are those of proto/imagecall/v1/chunk.proto: chunks come in order and without a gap, and
the last one says how many bytes there are and what their SHA-256 digest is.
"""

import hashlib
from collections.abc import Iterator
from typing import Final

from imagecall.errors import ConversionError
from imagecall.v1.chunk_pb2 import Chunk, ChunkEnd

CHUNK_BYTES: Final = 1024 * 1024
"""The size of each chunk but the last: 1 MiB."""


def split(data: bytes) -> Iterator[Chunk]:
    """The chunks of some bytes: at least one."""
    view = memoryview(data)
    for offset in range(0, len(data), CHUNK_BYTES):
        chunk = Chunk(offset=offset, data=bytes(view[offset : offset + CHUNK_BYTES]))
        if offset + CHUNK_BYTES >= len(data):
            chunk.end.CopyFrom(_end(data))
        yield chunk
    if not data:
        yield Chunk(end=_end(data))


def _end(data: bytes) -> ChunkEnd:
    return ChunkEnd(size=len(data), sha256=hashlib.sha256(data).digest())


class Assembly:
    """The bytes of a sequence of chunks, while they arrive. The inverse of `split`."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._pieces: list[bytes] = []
        self._size = 0
        self._end: ChunkEnd | None = None

    @property
    def complete(self) -> bool:
        """Whether the last chunk was added."""
        return self._end is not None

    def add(self, chunk: Chunk) -> None:
        """Takes the next chunk.

        Raises ConversionError (CHUNKS_DAMAGED) for a chunk that is not the next one. Of more than
        `max_bytes` bytes nothing is kept.
        """
        if chunk.offset != self._size or self.complete:
            raise _damaged(f"a chunk begins at byte {chunk.offset:,} instead of {self._size:,}")
        if not chunk.data and not (chunk.HasField("end") and self._size == 0):
            raise _damaged(f"the chunk at byte {chunk.offset:,} is empty")
        self._size += len(chunk.data)
        if self._size > self._max_bytes:
            self._pieces.clear()
        else:
            self._pieces.append(chunk.data)
        if chunk.HasField("end"):
            self._end = chunk.end

    def whole(self) -> bytes:
        """The bytes, once complete.

        Raises ConversionError: CHUNKS_DAMAGED if they are not what their end says, TOO_LARGE if
        there are more than `max_bytes`.
        """
        if self._end is None:
            raise _damaged("the chunks end before their last one")
        if self._end.size != self._size:
            raise _damaged(f"the chunks have {self._size:,} bytes instead of {self._end.size:,}")
        if self._size > self._max_bytes:
            message = f"the chunks have {self._size:,} bytes; the limit is {self._max_bytes:,}"
            raise ConversionError("TOO_LARGE", "", message)
        whole = b"".join(self._pieces)
        if self._end.sha256 != hashlib.sha256(whole).digest():
            raise _damaged("the SHA-256 digest of the chunks is not that of their end")
        return whole


def _damaged(message: str) -> ConversionError:
    return ConversionError("CHUNKS_DAMAGED", "", message)
