"""gzip and deflate (RFC 1952, 1950, 1951), decoded in pieces of bounded size while they arrive."""

import zlib
from typing import Final

from imagecall.errors import damaged_answer

PIECE_BYTES: Final = 256 * 1024
"""Largest size of a decoded piece."""

_STEP: Final = 16 * 1024
"""Size of what is given to the decoder at once: it copies what follows the end of a member."""

_GZIP_FIRST: Final = b"\x1f"
_GZIP: Final = 16 + zlib.MAX_WBITS
_ZLIB: Final = zlib.MAX_WBITS
_RAW: Final = -zlib.MAX_WBITS
_ZLIB_METHOD: Final = 8
"""Low half of the first byte of a zlib stream; no encoder begins a raw deflate stream so."""


class Inflater:
    """Decoder of a body: `add` what arrives, then take pieces until there is none.

    The first byte decides between gzip, zlib and raw deflate, as servers label each of them
    deflate. A gzip body may have several members; what follows the last one is passed over.
    """

    def __init__(self) -> None:
        self._pending = memoryview(b"")
        self._decoder: zlib._Decompress | None = None
        self._has_more = False
        self._has_ended = False

    @property
    def is_within(self) -> bool:
        """Whether a member has begun that has not ended."""
        return self._decoder is not None

    def add(self, data: bytes) -> None:
        """Takes bytes that arrived, once there is no piece of those before."""
        self._pending = memoryview(data)

    def piece(self) -> bytes:
        """Next decoded bytes; empty where more must arrive. Raises GenerationError: DAMAGED."""
        while self._pending or self._has_more:
            if self._decoder is None and not self._begin(bytes(self._pending[:1])):
                self._pending = memoryview(b"")
            elif piece := self._decode():
                return piece
        return b""

    def _begin(self, first: bytes) -> bool:
        """Begins a member; False for what follows the last one."""
        if self._has_ended and first != _GZIP_FIRST:
            return False
        is_zlib = first[0] & 0x0F == _ZLIB_METHOD
        self._decoder = zlib.decompressobj(
            _GZIP if first == _GZIP_FIRST else _ZLIB if is_zlib else _RAW
        )
        return True

    def _decode(self) -> bytes:
        assert self._decoder is not None
        given = self._pending[:_STEP]
        try:
            piece = self._decoder.decompress(given, PIECE_BYTES)
        except zlib.error:
            raise damaged_answer("its compression is") from None
        has_ended = self._decoder.eof
        left = self._decoder.unused_data if has_ended else self._decoder.unconsumed_tail
        self._pending = self._pending[len(given) - len(left) :]
        self._has_more = len(piece) == PIECE_BYTES and not has_ended
        if has_ended:
            self._decoder = None
            self._has_ended = True
        return piece
