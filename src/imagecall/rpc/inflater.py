"""Decodes gzip and deflate (RFC 1952, 1950, 1951) in pieces of bounded size, as bytes arrive."""

import zlib
from collections.abc import Iterator
from typing import Final

from imagecall.sizes import FOLLOWED, SLICE

_GZIP_FIRST: Final = 0x1F
_GZIP: Final = 16 + zlib.MAX_WBITS
_ZLIB_METHOD: Final = 8
"""Low half of the first byte of a zlib stream; no encoder begins a raw deflate stream with it."""


class Inflater:
    """Decoder of a body.

    The first byte distinguishes gzip, zlib and raw deflate, as senders call any of them deflate.
    A gzip body may have several members.

    Args:
        strict: refuses bytes after the last member, which are skipped otherwise.

    Attributes:
        ended: True if the bytes so far end with a whole member.
    """

    def __init__(self, *, strict: bool) -> None:
        self._strict = strict
        self._decoder: zlib._Decompress | None = None
        self.ended = False

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """Yields the decoded bytes, in pieces of 768 KiB at most.

        A piece can be empty, so that the reader can interrupt after each step. Raises ValueError if
        the bytes are damaged.
        """
        view = memoryview(data)
        # In steps, as the decoder copies all bytes after the end of a member.
        for start in range(0, len(view), FOLLOWED):
            yield from self._decode(bytes(view[start : start + FOLLOWED]))

    def _decode(self, data: bytes) -> Iterator[bytes]:
        has_more = False
        while data or has_more:
            if self._decoder is None and not self._begin(data[0]):
                return
            assert self._decoder is not None
            try:
                piece = self._decoder.decompress(data, SLICE)
            except zlib.error:
                raise ValueError("it is not valid gzip or deflate") from None
            eof = self._decoder.eof
            has_more = len(piece) == SLICE and not eof
            data = self._decoder.unused_data if eof else self._decoder.unconsumed_tail
            if eof:
                self._decoder, self.ended = None, True
            yield piece

    def _begin(self, first: int) -> bool:
        """Begins a member. Returns False for bytes after the last member, which are skipped."""
        if self.ended and first != _GZIP_FIRST:
            if self._strict:
                raise ValueError("bytes follow its end")
            return False
        self.ended = False
        is_zlib = first & 0x0F == _ZLIB_METHOD
        window = zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS
        self._decoder = zlib.decompressobj(_GZIP if first == _GZIP_FIRST else window)
        return True
