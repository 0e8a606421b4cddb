"""Large base64 strings of a JSON text that is read, kept out of the way of its parser.

A large string after one of the given keys is replaced by a random marker of a few bytes. The short
text that is left is then parsed properly, and the string is used only where its marker comes out as
the value of a key that takes an image, and only if it is canonical base64, which proves that it
holds no quote, no escape, and nothing else that means something to JSON. In every other case (a key
of that name inside another string, a decoy in a nested object, a URL, an escape) a marker is left
over, and the caller parses the whole text instead. So the result never differs from a plain parse.
"""

import re
import secrets
from collections.abc import Iterable, Iterator
from typing import Final

from imagecall.sizes import ASIDE, TAIL


class Spans(dict[str, memoryview]):
    """The strings that were set aside, by marker. A reader removes those that it uses.

    Attributes:
        images: where a reader is to put an image, by marker, setting the marker in its stead.
            None: it is to set the image.
    """

    images: dict[str, bytes] | None = None


NO_SPANS: Final = Spans()
"""Nothing was set aside."""


def key_pattern(keys: Iterable[str]) -> re.Pattern[bytes]:
    """What stands before the string value of one of these keys."""
    names = b"|".join(re.escape(key).encode() for key in sorted(keys))
    return re.compile(rb'"(?:' + names + rb')"[ \t\n\r]*:[ \t\n\r]*"')


def set_aside(text: bytes, pattern: re.Pattern[bytes]) -> Iterator[tuple[bytes, Spans]]:
    """The text with markers in the place of large strings, and those strings, in up to two ways.

    The first way takes it that only one string is large and ends near the end of the text, which
    saves looking for its end. What is wrong with a guess shows in its use.
    """
    for first_end in (len(text) - TAIL, 0):
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
        if end - start < ASIDE:
            continue
        marker = f"{nonce}{len(spans):08x}"
        spans[marker] = view[start:end]
        pieces += view[done:start], marker.encode()
        done = position = end
    pieces.append(view[done:])
    return pieces, spans
