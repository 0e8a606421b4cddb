"""Refuses serialized messages that would cost too much memory or time, before they are parsed.

A message in a message can be two bytes long, and then takes protobuf sixty bytes of memory. A field
that the schema does not name can be three bytes long, and takes microseconds to look up. So fields
are counted, in messages that are large enough to matter. Protobuf's wire format:
https://protobuf.dev/programming-guides/encoding/.
"""

from contextlib import suppress
from functools import cache
from typing import Any, Final, TypeVar

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message

from imagecall.errors import ConversionError, malformed
from imagecall.sizes import APART
from imagecall.turns import take_turn
from imagecall.wire.varint import (
    FIXED_SIZES,
    GROUP,
    GROUP_END,
    LENGTH,
    VARINT,
    read_varint,
    wire_type,
)

_Message = TypeVar("_Message", bound=Message)

MAX_FIELDS: Final = 1_000_000
"""Most fields of a message, at all depths together."""

MAX_UNKNOWN: Final = 10_000
"""Most fields of a message, at all depths together, that the schema does not name."""


class _Shape(dict[int, "_Shape | None"]):
    """Fields of a message by tag: the shape of a message field, None for any other field."""


_OF_GROUP: Final = _Shape()
"""Shape of a group; this schema has no groups."""


@cache
def _shape(descriptor: Descriptor) -> _Shape:
    shape = _Shape()
    for field in descriptor.fields:
        value = _shape(field.message_type) if field.message_type else None
        for kind in {wire_type(field), LENGTH} if field.is_repeated else {wire_type(field)}:
            shape[field.number << 3 | kind] = value
    return shape


def check_cost(descriptor: Descriptor, data: bytes) -> None:
    """Raises ConversionError (TOO_MANY_VALUES) for a message of too many fields.

    Accepts bytes that are no message: the parser refuses them before it reads further.
    """
    if len(data) >= APART:
        with suppress(IndexError):
            _count(_shape(descriptor), data)


def _count(shape: _Shape, data: bytes) -> None:
    """Counts the fields in order. Raises IndexError where the bytes are cut off."""
    count = unknown = position = 0
    end = len(data)
    enclosing: list[tuple[_Shape, int]] = []
    while True:
        while position >= end:
            if not enclosing:
                return
            shape, end = enclosing.pop()
        count += 1
        if count > MAX_FIELDS:
            raise _too_many(MAX_FIELDS, "fields")
        tag = data[position]
        position += 1
        if tag >= 0x80:
            tag, position = read_varint(data, position - 1)
        kind = tag & 7
        inner = shape.get(tag)
        if inner is None and tag not in shape:
            unknown += 1
            if unknown > MAX_UNKNOWN:
                raise _too_many(MAX_UNKNOWN, "fields that this schema does not name")
        if kind == LENGTH:
            length = data[position]
            position += 1
            if length >= 0x80:
                length, position = read_varint(data, position - 1)
            if inner is None:
                position += length
                continue
            enclosing.append((shape, end))
            shape, end = inner, min(end, position + length)
        elif kind == VARINT:
            while data[position] >= 0x80:
                position += 1
            position += 1
        elif kind == GROUP:
            enclosing.append((shape, end))
            shape = _OF_GROUP
        elif kind == GROUP_END:
            if shape is not _OF_GROUP:
                return  # Not a message.
            shape, _ = enclosing.pop()
        else:
            position += FIXED_SIZES[kind] if kind in FIXED_SIZES else len(data)


def _too_many(limit: int, subject: str) -> ConversionError:
    return ConversionError("TOO_MANY_VALUES", "", f"the message has more than {limit:,} {subject}")


def parsed(kind: type[_Message], data: bytes, name: str = "") -> _Message:
    """Parses a message, unless it would cost too much.

    Raises ConversionError as `check_cost` does, and MALFORMED_PROTOBUF, with `name` as the name of
    the message (default: the name of its type).
    """
    descriptor: Any = kind.DESCRIPTOR
    take_turn()
    check_cost(descriptor, data)
    take_turn()
    try:
        return kind.FromString(data)
    except DecodeError:
        raise malformed(name or descriptor.name) from None
