"""Sets large base64 strings of a JSON text aside, so that the JSON parser does not copy them.

A large string after one of the given keys is replaced by a random marker of a few bytes. The short
text is then parsed as usual, and the string is used only if its marker is the value of a key for an
image, and if the string is canonical base64 or, between quotes, JSON. In every other case (a key of
that name inside another string, a decoy in a nested object) a marker is left unused, and the caller
parses the whole text instead. So the result never differs from that of a plain parse.
"""

import re
import secrets
from collections.abc import Iterable, Iterator
from typing import Final, TypeAlias

from pybase64 import b64decode

from imagecall.sizes import ASIDE, SCANNED, SLICE
from imagecall.turns import take_turn

_MAX_TRIES: Final = 10_000
"""Most strings after a key that are looked at: a text may have nothing else."""

_KEY_BYTES: Final = 64
"""Overlap of two slices: a key, and the white space to its string. A key that is missed is read
with the whole text."""


class LargeBase64:
    """Image whose base64 is decoded each time that its slices are read.

    Attributes:
        size: bytes of the image.
    """

    def __init__(self, text: memoryview) -> None:
        """Checks the text. Raises ValueError unless it is canonical base64."""
        self._text = text
        self.size = sum(map(len, self.slices()))
        if self.size != len(text) // 4 * 3 - bytes(text[-2:]).count(b"="):
            raise ValueError("there is padding within the text")

    def slices(self) -> Iterator[bytes]:
        """Yields the image, in slices of at most 768 KiB."""
        step = SLICE // 3 * 4
        for start in range(0, len(self._text), step):
            take_turn()
            yield b64decode(self._text[start : start + step], None, True, canonical=True)


Image: TypeAlias = bytes | LargeBase64
"""Image of a string that was set aside."""


class Spans(dict[str, memoryview]):
    """Strings that were set aside, by marker. A reader removes each string that it uses.

    Attributes:
        images: receives the images by marker; the reader then sets the marker in the message.
            None: the reader sets the image itself in the message.
    """

    images: dict[str, Image] | None = None


NO_SPANS: Final = Spans()
"""Spans of a text from which nothing was set aside."""


def key_pattern(keys: Iterable[str]) -> re.Pattern[bytes]:
    """Pattern of one of these keys, up to the opening quote of its string value."""
    names = b"|".join(re.escape(key).encode() for key in sorted(keys))
    return re.compile(rb'"(?:' + names + rb')"[ \t\n\r]*:[ \t\n\r]*"')


def set_aside(text: bytes, pattern: re.Pattern[bytes]) -> tuple[bytes, Spans]:
    """Returns the text with markers in place of large strings, and those strings."""
    if len(text) < ASIDE:
        return text, Spans()
    nonce = secrets.token_hex(16)
    view = memoryview(text)
    pieces: list[bytes | memoryview] = []
    spans = Spans()
    done = end = 0
    for _ in range(_MAX_TRIES):
        start = _next_string(text, pattern, end)
        if start < 0 or (end := text.find(b'"', start)) < 0:
            break
        if end - start >= ASIDE:
            marker = f"{nonce}{len(spans):08x}"
            spans[marker] = view[start:end]
            pieces += view[done:start], marker.encode()
            done = end
    return b"".join([*pieces, view[done:]]) if spans else text, spans


def _next_string(text: bytes, pattern: re.Pattern[bytes], position: int) -> int:
    """Offset of the next string after a key, searched in slices; -1 if there is none."""
    while position < len(text):
        take_turn()
        end = position + SCANNED
        if match := pattern.search(text, position, end):
            return match.end()
        position = end - _KEY_BYTES
    return -1
