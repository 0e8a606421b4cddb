"""Varints of serialized protobuf: https://protobuf.dev/programming-guides/encoding/#varints."""

from typing import Final

MAX_BYTES: Final = 10
"""Longest varint."""


def read_varint(
    wire: bytes | memoryview, position: int, max_bytes: int = MAX_BYTES
) -> tuple[int, int]:
    """Reads a varint. Returns the number, and the position after it.

    Raises IndexError where the bytes end within it, or it is longer than `max_bytes`.
    """
    number = 0
    for index in range(max_bytes):
        byte = wire[position + index]
        number |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return number, position + index + 1
    raise IndexError(f"a number is longer than {max_bytes} bytes")


def write_varint(number: int) -> bytes:
    """Writes a varint: the inverse of `read_varint`."""
    data = bytearray()
    while number >= 0x80:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    data.append(number)
    return bytes(data)
