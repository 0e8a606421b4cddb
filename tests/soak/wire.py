"""Protobuf's wire format by hand: messages that no library would write."""

from typing import Final

_LENGTH: Final = 2


def varint(number: int) -> bytes:
    """A number as it stands in tags, lengths and values."""
    data = bytearray()
    while number >= 0x80:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    data.append(number)
    return bytes(data)


def field(number: int, value: bytes) -> bytes:
    """A field with a length: a string, bytes, or a message."""
    return varint(number << 3 | _LENGTH) + varint(len(value)) + value


def nested(number: int, levels: int) -> bytes:
    """A field in a field in a field."""
    value = b""
    for _ in range(levels):
        value = field(number, value)
    return value
