"""Large images put into serialized messages, without a message object that holds a copy of them.

A message is made with a marker of a few bytes where the image belongs, and serialized; then the
image takes the marker's place, and the lengths of the fields around it grow. See the encoding of
protobuf's wire format: https://protobuf.dev/programming-guides/encoding/.
"""

from collections.abc import Mapping
from typing import Final

from google.protobuf.message import Message

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_FIXED: Final = {_FIXED64: 8, _FIXED32: 4}


def serialize(message: Message, images: Mapping[str, bytes]) -> bytes:
    """The serialized message, with images in the place of fields that hold their markers."""
    wire = message.SerializeToString()
    for marker, image in images.items():
        wire = _put(wire, marker.encode(), image)
    return wire


def _put(wire: bytes, marker: bytes, value: bytes) -> bytes:
    """The wire bytes with `value` in the place of the field value `marker`, which occurs once."""
    at = wire.index(marker)
    fields = _fields_around(wire, at)
    growth = len(value) - len(marker)
    lengths = []
    for length_at, start, length in reversed(fields):
        lengths.append(_varint(length + growth))
        growth += len(lengths[-1]) - (start - length_at)
    pieces: list[bytes] = []
    done = 0
    for (length_at, start, _), length_bytes in zip(fields, reversed(lengths), strict=True):
        pieces += wire[done:length_at], length_bytes
        done = start
    return b"".join((*pieces, value, wire[at + len(marker) :]))


def _fields_around(wire: bytes, at: int) -> list[tuple[int, int, int]]:
    """The fields that hold the byte `at`, outermost first: where length and value begin; length."""
    found = []
    position = 0
    while True:
        tag, position = _read_varint(wire, position)
        if tag & 7 in _FIXED:
            position += _FIXED[tag & 7]
        elif tag & 7 == _VARINT:
            _, position = _read_varint(wire, position)
        else:
            length, start = _read_varint(wire, position)
            if at < start + length:
                found.append((position, start, length))
                if at == start:
                    return found
                position = start
            else:
                position = start + length


def _read_varint(wire: bytes, position: int) -> tuple[int, int]:
    """A number, and the position after it."""
    number = shift = 0
    while True:
        byte = wire[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
        shift += 7


def _varint(number: int) -> bytes:
    """The inverse of `_read_varint`."""
    data = bytearray()
    while number >= 0x80:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    data.append(number)
    return bytes(data)
