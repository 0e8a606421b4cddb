"""Bytes of any size in chunks that fit into messages, and back.

The rules are those of proto/imagecall/v1/chunk.proto: chunks come in order and without a gap, and
the last one says how many bytes there are and what their SHA-256 digest is.
"""

import hashlib
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from imagecall.errors import ConversionError
from imagecall.formats import MAX_PROLOG_BYTES, media_type
from imagecall.sizes import CHUNK
from imagecall.v1.chunk_pb2 import Chunk, ChunkEnd

_FINAL: Final = "output_item_done_event."
"""How the paths of finished images begin."""

_DIGEST_BYTES: Final = 32


class RawChunk(NamedTuple):
    """A chunk that is no message yet, so that its data need not be copied."""

    offset: int
    data: bytes | memoryview
    end: ChunkEnd | None = None

    @classmethod
    def of(cls, chunk: Chunk) -> "RawChunk":
        """That of a message, with a copy of its data."""
        return cls(chunk.offset, chunk.data, chunk.end if chunk.HasField("end") else None)

    def chunk(self) -> Chunk:
        """The message."""
        return Chunk(offset=self.offset, data=bytes(self.data), end=self.end)


def split(data: bytes) -> Iterator[Chunk]:
    """The chunks of some bytes: at least one."""
    return (piece.chunk() for piece in pieces(data))


def pieces(data: bytes, *, sha256: bytes = b"", **end: Any) -> Iterator[RawChunk]:
    """The same, not yet as messages.

    `sha256` is the digest of the bytes, if it is known; `end` what else is said at their end.
    """
    view = memoryview(data)
    digest = None if sha256 else hashlib.sha256()
    for offset in range(0, len(data) or 1, CHUNK):
        part = view[offset : offset + CHUNK]
        if digest:  # Piece by piece, so that others need not wait for all of it.
            digest.update(part)
        last = None
        if offset + CHUNK >= len(data):
            whole = digest.digest() if digest else sha256
            last = ChunkEnd(size=len(data), sha256=whole, **end)
        yield RawChunk(offset, part, last)


def end_of_image(data: bytes, field: str) -> dict[str, Any]:
    """What is said at the end of an image, which is the value of `field`, by its first bytes."""
    final = field.startswith(_FINAL)
    return {"media_type": media_type(data), "field": field, "final_image": final}


class Chunker:
    """The chunks of an image, while it arrives. Each is held back until the next comes."""

    def __init__(self) -> None:
        self._offset = 0
        self._held = b""
        self._first = b""
        self._digest = hashlib.sha256()

    @property
    def size(self) -> int:
        """How many bytes there are."""
        return self._offset + len(self._held)

    def add(self, data: bytes) -> RawChunk | None:
        """Takes the next bytes, which become a chunk; gives the one before them, if any."""
        self._digest.update(data)
        self._first += data[: MAX_PROLOG_BYTES - len(self._first)]
        held, self._held = self._held, data
        if not held:
            return None
        piece = RawChunk(self._offset, held)
        self._offset += len(held)
        return piece

    def finish(self, field: str) -> RawChunk:
        """The last chunk; the image is the value of `field`."""
        end = ChunkEnd(
            size=self._offset + len(self._held),
            sha256=self._digest.digest(),
            **end_of_image(self._first, field),
        )
        return RawChunk(self._offset, self._held, end)


class Assembly:
    """The bytes of a sequence of chunks, while they arrive. The inverse of `split`."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._pieces: list[bytes | memoryview] = []
        self._size = 0
        self._digest = hashlib.sha256()
        self._end: ChunkEnd | None = None

    @property
    def size(self) -> int:
        """How many bytes there are."""
        return self._size

    @property
    def end(self) -> ChunkEnd | None:
        """The end that the last chunk had. None: it was not added yet."""
        return self._end

    @property
    def complete(self) -> bool:
        """Whether the last chunk was added."""
        return self._end is not None

    def add(self, piece: RawChunk) -> None:
        """Takes the next chunk.

        Raises ConversionError (CHUNKS_DAMAGED) for a chunk that is not the next one. Of more than
        `max_bytes` bytes nothing is kept.
        """
        if self._end is not None:
            raise damaged("a chunk comes after the last one")
        if piece.offset != self._size:
            raise damaged(f"a chunk begins at byte {piece.offset:,} instead of {self._size:,}")
        data = piece.data
        if not data and not (piece.end is not None and self._size == 0):
            raise damaged(f"the chunk at byte {piece.offset:,} is empty")
        self._size += len(data)
        if self._size > self._max_bytes:
            self._pieces.clear()
        else:
            self._keep(data)
            self._digest.update(data)
        self._end = piece.end

    def _keep(self, data: bytes | memoryview) -> None:
        self._pieces.append(data)

    @property
    def digest(self) -> bytes:
        """The SHA-256 digest of the bytes so far."""
        return self._digest.digest()

    def whole(self) -> bytes:
        """The bytes, once complete; once only. Raises ConversionError as `check` does."""
        data = b"".join(self.pieces())
        self._pieces = []  # Or all would be there twice for as long as this is.
        return data

    def pieces(self) -> list[bytes | memoryview]:
        """The bytes, once complete, as they came. Raises ConversionError as `check` does."""
        self.check()
        return self._pieces

    def check(self) -> None:
        """Raises ConversionError unless all bytes are there: CHUNKS_DAMAGED, TOO_LARGE.

        They must be what their end says, and no more than `max_bytes`.
        """
        if self._end is None:
            raise damaged("the chunks end before their last one")
        if self._end.size != self._size:
            raise damaged(f"the chunks have {self._size:,} bytes instead of {self._end.size:,}")
        if self._size > self._max_bytes:
            message = f"the chunks have {self._size:,} bytes; the limit is {self._max_bytes:,}"
            raise ConversionError("TOO_LARGE", "", message)
        if self._end.sha256 != self.digest:
            expected, found = self._end.sha256[:_DIGEST_BYTES].hex() or "none", self.digest.hex()
            raise damaged(f"the SHA-256 digest of the chunks is {found}; their end has {expected}")


def damaged(message: str) -> ConversionError:
    """The error for chunks that are not what was split."""
    return ConversionError("CHUNKS_DAMAGED", "", message)
