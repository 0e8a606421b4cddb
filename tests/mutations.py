"""Texts with a few bytes changed, for tests that compare two readings of the same text."""

import random
from collections.abc import Iterator

PIECES = (b'"', b"\\", b"{", b"}", b",", b'"id":', b'"result":', b"null", b"\\u0041", b"\xff", b"[")


def mutations(text: bytes, source: random.Random, count: int = 150) -> Iterator[bytes]:
    """The text with some bytes changed, taken out, doubled or put in."""
    for _ in range(count):
        data = bytearray(text)
        for _ in range(source.randint(1, 3)):
            start = source.randint(0, len(data))
            end = min(len(data), start + source.randint(0, 12))
            data[start:end] = source.choice(
                (b"", data[start:end] * 2, source.choice(PIECES), source.randbytes(1))
            )
        yield bytes(data)
