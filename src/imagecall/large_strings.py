"""Large base64 strings, set aside before a text is parsed, so that no copy of them is made.

A large string after one of the given keys is replaced by a random marker of a few bytes. The short
text that is left is then parsed properly, and the string is used only where its marker comes out as
the value of a key that takes an image, and only if it is canonical base64, which proves that it holds
no escape, no quote and no other character that means something to JSON. In every other case (a key
of that name inside another string, a decoy in a nested object, a URL, an escape) a marker is left
over, and the caller parses the whole text instead. So the result never differs from a plain parse.
"""

import re
import secrets
from collections.abc import Iterable
from typing import Final, TypeAlias

Spans: TypeAlias = dict[str, memoryview]
"""The strings that were set aside, by marker. A reader removes those it uses."""

MIN_BYTES: Final = 2048
"""The length from which a string is set aside, and below which a text is not searched."""


def key_pattern(keys: Iterable[str]) -> re.Pattern[bytes]:
    """What stands before the string value of one of these keys."""
    names = b"|".join(re.escape(key).encode() for key in sorted(keys))
    return re.compile(rb'"(?:' + names + rb')"[ \t\n\r]*:[ \t\n\r]*"')


def set_aside(text: bytes, pattern: re.Pattern[bytes]) -> tuple[bytes, Spans]:
    """The text with markers in the place of large strings, and those strings."""
    nonce = secrets.token_hex(16)
    view = memoryview(text)
    pieces: list[bytes | memoryview] = []
    spans: Spans = {}
    done = position = 0
    while match := pattern.search(text, position):
        start = position = match.end()
        end = text.find(b'"', start)
        if end - start < MIN_BYTES:
            continue
        marker = f"{nonce}-{len(spans)}"
        spans[marker] = view[start:end]
        pieces += view[done:start], marker.encode()
        done = position = end
    pieces.append(view[done:])
    return b"".join(pieces), spans
