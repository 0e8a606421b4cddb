"""Secrets of a backend, and their masking in its texts: servers quote a key that they reject.

In JSON, any character of a secret may be an escape such as `\\u002d`, with more backslashes where
the JSON is a string of other JSON.
"""

import re
from collections.abc import Iterable
from functools import cache
from typing import Final, TypeAlias

from imagecall.rpc.headers import Header

Secrets: TypeAlias = tuple[str, ...]
"""Words to mask in every text of a backend: its key, and the secrets in configured headers."""

MASK: Final = b"[key]"
_MIN_SECRET: Final = 16
"""Shortest word of a secret that is masked."""

_ESCAPE: Final = re.compile(rb"\\u00[2-7]|\\[/\"\\]")
"""Start of an escape that a secret may have."""

_BACKSLASHES: Final = 8
"""Most backslashes of an escape: JSON in a string of JSON, three times."""

WINDOW: Final = 64 * 1024
"""Bytes in which a secret is searched at once, while no other thread runs."""

LONGEST_CHARACTER: Final = _BACKSLASHES + len("u002d")
"""Longest spelling of a character, in bytes."""


def secrets_of(api_key: str, headers: Iterable[Header]) -> Secrets:
    """Returns the words to mask, without short ones, which also occur in harmless text."""
    values = [api_key, *(header.value for header in headers if header.is_secret)]
    words = {word for value in values for word in value.split() if len(word) >= _MIN_SECRET}
    return tuple(sorted(words, key=len, reverse=True))


def has_secret(data: bytes, secrets: Secrets) -> bool:
    """Returns true if the bytes contain a secret."""
    if any(secret.encode() in data for secret in secrets):
        return True
    return bool(secrets and _ESCAPE.search(data)) and any(_is_spelled(s, data) for s in secrets)


def without_secrets(data: bytes, secrets: Secrets) -> bytes:
    """Replaces secrets with "[key]" in a text."""
    if has_secret(data, secrets):
        for secret in secrets:
            data = _spelled(secret).sub(MASK, data)
    return data


def without_secrets_in_place(data: bytes, secrets: Secrets) -> bytes:
    """Masks secrets in serialized bytes, at equal length, so that no length before them changes."""
    if has_secret(data, secrets):
        for secret in secrets:
            data = _spelled(secret).sub(lambda found: MASK.ljust(len(found[0]), b"*"), data)
    return data


def _is_spelled(secret: str, data: bytes) -> bool:
    """Searches a secret in all its spellings."""
    pattern, overlap = _spelled(secret), len(secret) * LONGEST_CHARACTER
    starts = range(0, len(data), WINDOW)
    return any(pattern.search(data, start, start + WINDOW + overlap) for start in starts)


@cache
def _spelled(secret: str) -> re.Pattern[bytes]:
    """Returns the pattern of a secret, in all its spellings."""
    return re.compile(b"".join(map(_character, secret)))


def _character(character: str) -> bytes:
    """Returns the pattern of a printable ASCII character, plain or escaped.

    Each branch begins with a literal, by which Python finds candidates fast.
    """
    code = b"".join(
        b"[%c%c]" % (digit, digit - 32) if digit >= ord("a") else b"%c" % digit
        for digit in b"%02x" % ord(character)
    )
    more = rb"\\{0,%d}" % (_BACKSLASHES - 1)
    plain = re.escape(character).encode()
    escaped = rb"|\\" + more + plain if character in '"\\/' else b""
    return rb"(?:%b|\\%bu00%b%b)" % (plain, more, code, escaped)
