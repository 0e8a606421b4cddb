"""Large base64 strings, kept out of the way of JSON: of its parser, and of the joining of a text.

Reading: a large string after one of the given keys is replaced by a random marker of a few bytes.
The short text that is left is then parsed properly, and the string is used only where its marker
comes out as the value of a key that takes an image, and only if it is canonical base64, which
proves that it holds no quote, no escape, and nothing else that means something to JSON. In every
other case (a key of that name inside another string, a decoy in a nested object, a URL, an escape)
a marker is left over, and the caller parses the whole text instead. So the result never differs
from a plain parse.

Writing: an image is encoded a piece at a time into the text, which saves a copy of it.
"""

import io
import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from pybase64 import b64encode

from imagecall.json.text import too_large


class Spans(dict[str, memoryview]):
    """The strings that were set aside, by marker. A reader removes those that it uses.

    Attributes:
        images: where a reader is to put an image, by marker, setting the marker in its stead.
            None: it is to set the image.
    """

    images: dict[str, bytes] | None = None


NO_SPANS: Final = Spans()
"""Nothing was set aside."""


@dataclass(frozen=True)
class LargeImage:
    """An image that becomes base64 in the text."""

    data: bytes | memoryview


Piece: TypeAlias = bytes | LargeImage
"""A piece of a text."""

MIN_BYTES: Final = 2048
"""The length from which a string is set aside, and below which a text is not searched."""

_TAIL: Final = 4096
_MIN_IMAGE: Final = 65536
_IMAGE_STEP: Final = 393216  # A multiple of 3, so that only the last piece has padding.


def key_pattern(keys: Iterable[str]) -> re.Pattern[bytes]:
    """What stands before the string value of one of these keys."""
    names = b"|".join(re.escape(key).encode() for key in sorted(keys))
    return re.compile(rb'"(?:' + names + rb')"[ \t\n\r]*:[ \t\n\r]*"')


def set_aside(text: bytes, pattern: re.Pattern[bytes]) -> Iterator[tuple[bytes, Spans]]:
    """The text with markers in the place of large strings, and those strings, in up to two ways.

    The first way takes it that only one string is large and ends near the end of the text, which
    saves looking for its end. What is wrong with a guess shows in its use.
    """
    for first_end in (len(text) - _TAIL, 0):
        pieces, spans = _set_aside(text, pattern, first_end)
        if spans:
            yield b"".join(pieces), spans


def _set_aside(
    text: bytes, pattern: re.Pattern[bytes], first_end: int
) -> tuple[list[bytes | memoryview], Spans]:
    """The pieces of the text with markers, and the strings."""
    nonce = secrets.token_hex(16)
    view = memoryview(text)
    pieces: list[bytes | memoryview] = []
    spans = Spans()
    done = position = 0
    while match := pattern.search(text, position):
        start = position = match.end()
        end = text.find(b'"', max(start, first_end))
        if end - start < MIN_BYTES:
            continue
        marker = f"{nonce}{len(spans):08x}"
        spans[marker] = view[start:end]
        pieces += view[done:start], marker.encode()
        done = position = end
    pieces.append(view[done:])
    return pieces, spans


def encode_image(image: bytes) -> Piece:
    """An image as a piece of a text."""
    return b64encode(image) if len(image) < _MIN_IMAGE else LargeImage(image)


def join(pieces: list[Piece], max_bytes: int) -> bytes:
    """The text that these pieces make up. Raises ConversionError: TOO_LARGE."""
    try:
        text = b"".join(pieces)  # type: ignore[arg-type]  # a LargeImage makes it raise TypeError
    except TypeError:
        text = _join_large(pieces)
    if len(text) > max_bytes:
        raise too_large(len(text), max_bytes)
    return text


def _join_large(pieces: list[Piece]) -> bytes:
    text = io.BytesIO()
    for piece in pieces:
        if isinstance(piece, bytes):
            text.write(piece)
            continue
        image = memoryview(piece.data)
        for start in range(0, len(image), _IMAGE_STEP):
            text.write(b64encode(image[start : start + _IMAGE_STEP]))
    return text.getvalue()
