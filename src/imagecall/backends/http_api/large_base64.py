"""One large base64 string inside JSON, decoded piece by piece while the string arrives.

A marker, itself canonical base64, replaces the string in the JSON text, so that the parser reads a
short text and leaves the marker where the image belongs. A string that turns out not to be
canonical base64 (RFC 4648 section 4) is restored as text, as long as no piece was streamed;
therefore the first pieces are held, which for most images is all of them.
"""

import secrets
import string
from collections.abc import Iterator
from enum import Enum
from typing import Final

from pybase64 import b64decode, b64encode

from imagecall.errors import ConversionError
from imagecall.json.text import parse
from imagecall.sizes import HELD, SLICE

_PIECE: Final = SLICE // 3 * 4
"""Size in base64 of each decoded piece; the last may be shorter."""

_ALPHABET: Final = (string.ascii_letters + string.digits + "+/=").encode()
_LONGEST_ESCAPE: Final = len(rb"\u002b")
_BACKSLASH: Final = b"\\"


class Use(Enum):
    """Use of a large string."""

    STREAM = "STREAM"
    """Streams the pieces as they are decoded."""
    HOLD = "HOLD"
    """Keeps the pieces until the string ends."""
    SKIP = "SKIP"
    """Discards the string."""


class NotBase64(Exception):
    """Raised for a string that is not canonical base64.

    `text` is the string so far; None if pieces of the string were streamed already.
    """

    def __init__(self, text: bytes | None) -> None:
        super().__init__()
        self.text = text


class LargeBase64:
    """Decoder of one string: `add` each part of the string, then `end`.

    Attributes:
        use: use of the string.
        marker: random bytes, whose base64 replaces the string in the JSON text.
        image: decoded image after the end. None: the use is not HOLD.
        size: bytes of base64 so far.
    """

    def __init__(self, use: Use) -> None:
        self.use = use
        self.marker = secrets.token_bytes(18)
        self.image: bytes | None = None
        self.size = 0
        self._held: list[bytes] = []
        self._streamed = False
        self._text: list[bytes] = []
        self._text_size = 0

    @property
    def text_marker(self) -> bytes:
        """Marker in the place of the string in the text."""
        return b64encode(self.marker)

    @property
    def text(self) -> bytes:
        """Whole string after its end; only for the use HOLD."""
        return b64encode(self.image or b"")

    def add(self, text: bytes) -> Iterator[bytes]:
        """Adds the next part of the string; yields pieces to stream. Raises NotBase64."""
        self.size += len(text)
        if self.use is Use.SKIP:
            return
        self._text.append(text)
        self._text_size += len(text)
        while self._text_size > _PIECE:
            pending, held_back = self._pending()
            if len(pending) <= _PIECE:
                self._restore(pending + held_back)
                return
            piece = self._decoded(pending[:_PIECE], last=False)
            self._restore(pending[_PIECE:] + held_back)
            yield from self._use(piece)

    def end(self) -> Iterator[bytes]:
        """Ends the string; yields the last pieces to stream. Raises NotBase64."""
        if self.use is Use.SKIP:
            return
        self._held.append(self._decoded(self._plain(b"".join(self._text)), last=True))
        if self.use is Use.STREAM:
            yield from self._held
        else:
            self.image = b"".join(self._held)
        self._held = []

    def _use(self, piece: bytes) -> Iterator[bytes]:
        self._held.append(piece)
        if self.use is Use.STREAM and (self._streamed or len(self._held) * SLICE > HELD):
            self._streamed = True
            yield from self._held
            self._held = []

    def _pending(self) -> tuple[bytes, bytes]:
        """Text not decoded yet, without escapes; and its end, which may be half an escape."""
        text = b"".join(self._text)
        at = text.rfind(_BACKSLASH)
        cut = at if 0 <= len(text) - _LONGEST_ESCAPE < at else len(text)
        return self._plain(text[:cut]), text[cut:]

    def _plain(self, text: bytes) -> bytes:
        """Text without JSON escapes, such as `\\/` for a slash. Raises NotBase64."""
        if _BACKSLASH not in text:
            return text
        try:
            plain: str = parse(b'"' + text + b'"')
            decoded = plain.encode("ascii")
        except (ConversionError, UnicodeEncodeError):
            decoded = _BACKSLASH
        if decoded.translate(None, _ALPHABET):
            raise NotBase64(self._so_far(b"".join(self._text)))
        return decoded

    def _restore(self, text: bytes) -> None:
        self._text = [text]
        self._text_size = len(text)

    def _decoded(self, text: bytes, last: bool) -> bytes:
        try:
            if not last and text.endswith(b"="):
                raise ValueError("padding in the middle")
            return b64decode(text, None, True, canonical=True)
        except ValueError:
            raise NotBase64(self._so_far(b"".join(self._text))) from None

    def _so_far(self, rest: bytes) -> bytes | None:
        if self._streamed:
            return None
        return b64encode(b"".join(self._held)) + rest
