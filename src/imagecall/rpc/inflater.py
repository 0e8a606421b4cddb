"""gzip and deflate (RFC 1952, 1950, 1951), decoded in pieces of bounded size while they arrive."""

import zlib
from collections.abc import Iterator
from typing import Final

PIECE_BYTES: Final = 256 * 1024
"""Largest size of a decoded piece."""

_GZIP_FIRST: Final = 0x1F
_ZLIB_METHOD: Final = 8
"""Low half of the first byte of a zlib stream; no encoder begins a raw deflate stream so."""


class Inflater:
    """Decoder of a body.

    The first byte decides between gzip, zlib and raw deflate, as the last two are both sent as
    deflate. A gzip body may have several members.
    """

    def __init__(self) -> None:
        self._decoder: zlib._Decompress | None = None
        self.ended = False
        """Tells whether the body is whole."""

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """Yields what the bytes that arrived decode to. Raises ValueError if they are damaged.

        A piece can be empty, so that the reader has a turn after each step.
        """
        has_more = False
        while data or has_more:
            decoder = self._decoder = self._decoder or self._begin(data[0])
            try:
                piece = decoder.decompress(data, PIECE_BYTES)
            except zlib.error:
                raise ValueError("it is not compressed so") from None
            has_more = len(piece) == PIECE_BYTES and not decoder.eof
            data = decoder.unused_data if decoder.eof else decoder.unconsumed_tail
            if decoder.eof:
                self._decoder, self.ended = None, True
            yield piece

    def _begin(self, first: int) -> "zlib._Decompress":
        if self.ended and first != _GZIP_FIRST:
            raise ValueError("it goes on after its end")
        self.ended = False
        if first == _GZIP_FIRST:
            return zlib.decompressobj(16 + zlib.MAX_WBITS)
        is_zlib = first & 0x0F == _ZLIB_METHOD
        return zlib.decompressobj(zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS)
