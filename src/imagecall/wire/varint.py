"""Tags and varints of serialized protobuf: https://protobuf.dev/programming-guides/encoding/."""

from collections.abc import Callable
from typing import Final

from google.protobuf.descriptor import FieldDescriptor

MAX_BYTES: Final = 10
"""Longest varint."""

MAX_LENGTH_BYTES: Final = 5
"""Longest varint of a tag or a length; protobuf refuses longer ones."""

_LENGTH: Final = 2
_OF_LENGTH: Final = frozenset(
    {FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_MESSAGE}
)

ONE_BYTE: Final = 0x80
"""First number that takes two bytes."""

_MAX_KEPT_SIZE: Final = 1024


def tag_of(field: FieldDescriptor) -> int:
    """Tag of a field whose value has a length, or is a varint."""
    return field.number << 3 | (_LENGTH if field.type in _OF_LENGTH else 0)


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
        if byte < ONE_BYTE:
            return number, position + index + 1
    raise IndexError(f"a number is longer than {max_bytes} bytes")


def write_varint(number: int) -> bytes:
    """Writes a varint: the inverse of `read_varint`."""
    data = bytearray()
    while number >= ONE_BYTE:
        data.append(number & 0x7F | ONE_BYTE)
        number >>= 7
    data.append(number)
    return bytes(data)


def start_of(tag: int, number: int) -> bytes:
    """Writes the tag, of one byte, and the number of a field: its value, or the value's size."""
    return bytes((tag,)) + write_varint(number)


class FieldStarts(dict[int, bytes]):
    """Starts of a field by the size of its value: those of small values are kept."""

    def __init__(self, start: Callable[[int], bytes]) -> None:
        super().__init__()
        self._start = start

    def __missing__(self, size: int) -> bytes:
        start = self._start(size)
        if size < _MAX_KEPT_SIZE:
            self[size] = start
        return start
