"""Tags and varints of serialized protobuf: https://protobuf.dev/programming-guides/encoding/."""

from collections.abc import Callable
from typing import Final

from google.protobuf.descriptor import FieldDescriptor

MAX_BYTES: Final = 10
"""Longest varint."""

MAX_LENGTH_BYTES: Final = 5
"""Longest varint of a tag or a length; protobuf refuses longer ones."""

VARINT, FIXED64, LENGTH, GROUP, GROUP_END, FIXED32 = range(6)
"""Wire types."""

FIXED_SIZES: Final = {FIXED64: 8, FIXED32: 4}
"""Sizes of values, for the wire types of a fixed size."""

_WIRE_TYPES: Final = {
    FieldDescriptor.TYPE_STRING: LENGTH,
    FieldDescriptor.TYPE_BYTES: LENGTH,
    FieldDescriptor.TYPE_MESSAGE: LENGTH,
    FieldDescriptor.TYPE_DOUBLE: FIXED64,
    FieldDescriptor.TYPE_FIXED64: FIXED64,
    FieldDescriptor.TYPE_SFIXED64: FIXED64,
    FieldDescriptor.TYPE_FLOAT: FIXED32,
    FieldDescriptor.TYPE_FIXED32: FIXED32,
    FieldDescriptor.TYPE_SFIXED32: FIXED32,
}

ONE_BYTE: Final = 0x80
"""First number that takes two bytes."""

_MAX_KEPT_SIZE: Final = 1024


def wire_type(field: FieldDescriptor) -> int:
    """Wire type of each value of a field."""
    return _WIRE_TYPES.get(field.type, VARINT)


def tag_of(field: FieldDescriptor) -> int:
    """Tag of a field, for a value by itself."""
    return field.number << 3 | wire_type(field)


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


def write_varint(number: int, *before: int) -> bytes:
    """Writes a varint after these bytes: the inverse of `read_varint`."""
    data = [*before]
    while number >= ONE_BYTE:
        data.append(number & 0x7F | ONE_BYTE)
        number >>= 7
    data.append(number)
    return bytes(data)


def start_of(tag: int, number: int) -> bytes:
    """Writes the tag, of one byte, and the number of a field: its value, or the value's size."""
    return write_varint(number, tag)


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
