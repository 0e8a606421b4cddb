"""Large values put into serialized messages and taken out, with no message object that copies them.

Putting in: a message is made with a marker of a few bytes where a value belongs, and serialized;
then the value takes the marker's place, and the lengths of the fields around it grow. Taking out is
the reverse, after which the short rest can be parsed. See the encoding of protobuf's wire format:
https://protobuf.dev/programming-guides/encoding/.
"""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from imagecall.v1.image_result_pb2 import ImageResult

MIN_APART: Final = 262144
"""The size from which it is quicker to keep a value apart than to copy it."""

_FIXED: Final = {1: 8, 5: 4}
"""The sizes of values by their wire type, for those of a fixed size."""
_MAX_IMAGES: Final = 4
"""How many images are taken out; further ones stay. An item has two at the most."""

_MAX_FIELDS: Final = 1000
"""Behind how many fields of a message nothing is looked for, as that takes long in Python."""

_MARKER: Final = secrets.token_hex(16)

_MAX_LENGTH_BYTES: Final = 5  # of a tag or a length; protobuf refuses longer ones
_MAX_VARINT_BYTES: Final = 10


@dataclass(frozen=True)
class _Field:
    """A field with a length: its number, where the length and the value begin, where it ends."""

    number: int
    length_at: int
    start: int
    end: int


def put_in(message: Message, values: Mapping[str, bytes | memoryview]) -> bytes:
    """The serialized message, with values in the place of fields that hold their markers."""
    wire = message.SerializeToString()
    for marker, value in values.items():
        at = wire.index(marker.encode())
        wire = _replace(wire, _fields_around(wire, at), value)
    return wire


def serialized_with(message: Message, owner: Any, name: str, value: bytes | memoryview) -> bytes:
    """The serialized message with a value in a field of `owner`, which is it or a message in it."""
    is_text = isinstance(getattr(owner, name), str)
    setattr(owner, name, _MARKER if is_text else _MARKER.encode())
    return put_in(message, {_MARKER: value})


def take_text(wire: bytes, descriptor: Descriptor, name: str) -> tuple[bytes, bytes | None]:
    """A serialized message without the large text of a field, and that text; None: it stays.

    It is taken if it is there once and all ASCII, as what else it may be is protobuf's to check.
    """
    if len(wire) < MIN_APART:
        return wire, None
    number = descriptor.fields_by_name[name].number
    try:
        found = list(_fields(wire, 0, len(wire), _MAX_FIELDS))
    except (IndexError, ValueError):
        return wire, None
    fields = [field for field in found if field.number == number]
    if len(fields) != 1 or fields[0].end - fields[0].start < MIN_APART:
        return wire, None
    text = wire[fields[0].start : fields[0].end]
    return (_replace(wire, fields, b""), text) if text.isascii() else (wire, None)


def take_out(wire: bytes, descriptor: Descriptor) -> tuple[bytes, dict[bytes, memoryview]]:
    """A serialized message with markers in the place of large images, and those, by marker.

    What is no serialized message stays as it is.
    """
    images: dict[bytes, memoryview] = {}
    while len(wire) >= MIN_APART and len(images) < _MAX_IMAGES:
        try:
            fields = next(_large_images(wire, descriptor, 0, len(wire)), None)
        except (IndexError, ValueError):
            break
        if fields is None:
            break
        marker = secrets.token_bytes(16)
        images[marker] = memoryview(wire)[fields[-1].start : fields[-1].end]
        wire = _replace(wire, fields, marker)
    return wire, images


def _large_images(
    wire: bytes, descriptor: Descriptor, start: int, end: int
) -> Iterator[Sequence[_Field]]:
    """The large images in a message at a place: each as the fields around it, outermost first."""
    for field in _fields(wire, start, end, _MAX_FIELDS):
        if field.end - field.start < MIN_APART:
            continue
        found = descriptor.fields_by_number.get(field.number)
        if found is None or found.is_repeated:
            continue
        if found.message_type is not None:
            for inner in _large_images(wire, found.message_type, field.start, field.end):
                yield (field, *inner)
        elif found.type == FieldDescriptor.TYPE_BYTES and descriptor is ImageResult.DESCRIPTOR:
            yield (field,)


def _fields_around(wire: bytes, at: int) -> Sequence[_Field]:
    """The fields that hold the value that begins at a place, outermost first."""
    around: list[_Field] = []
    start, end = 0, len(wire)
    while not around or around[-1].start != at:
        fields = _fields(wire, start, end, len(wire))
        around.append(next(field for field in fields if field.start <= at < field.end))
        start, end = around[-1].start, around[-1].end
    return around


def _replace(wire: bytes, fields: Sequence[_Field], value: bytes | memoryview) -> bytes:
    """The wire bytes with another value for the innermost of these fields."""
    growth = len(value) - (fields[-1].end - fields[-1].start)
    lengths = []
    for field in reversed(fields):
        lengths.append(_varint(field.end - field.start + growth))
        growth += len(lengths[-1]) - (field.start - field.length_at)
    view = memoryview(wire)
    pieces: list[bytes | memoryview] = []
    done = 0
    for field, length in zip(fields, reversed(lengths), strict=True):
        pieces += view[done : field.length_at], length
        done = field.start
    return b"".join((*pieces, value, view[fields[-1].end :]))


def _fields(wire: bytes, start: int, end: int, max_fields: int) -> Iterator[_Field]:
    """The fields with a length of the message at a place.

    Raises IndexError or ValueError if it is no message, or has more than `max_fields` fields.
    """
    position = start
    for _ in range(max_fields):
        if position >= end:
            return
        tag, position = _read_varint(wire, position, _MAX_LENGTH_BYTES)
        match tag & 7:
            case 0:
                _, position = _read_varint(wire, position, _MAX_VARINT_BYTES)
            case 1 | 5 as kind:
                position += _FIXED[kind]
            case 2:
                length_at = position
                length, value_at = _read_varint(wire, position, _MAX_LENGTH_BYTES)
                position = value_at + length
                if position > end:
                    raise ValueError("a field is longer than its message")
                yield _Field(tag >> 3, length_at, value_at, position)
            case kind:
                raise ValueError(f"wire type {kind} is a group, or none")
    if position < end:
        raise ValueError(f"the message has more than {max_fields} fields")


def _read_varint(wire: bytes, position: int, max_bytes: int) -> tuple[int, int]:
    """A number, and the position after it."""
    number = 0
    for index in range(max_bytes):
        byte = wire[position + index]
        number |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return number, position + index + 1
    raise ValueError(f"a number is longer than {max_bytes} bytes")


def _varint(number: int) -> bytes:
    """The inverse of `_read_varint`."""
    data = bytearray()
    while number >= 0x80:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    data.append(number)
    return bytes(data)
