"""Codecs between one JSON value and one protobuf field, for each kind of field.

The read and the write of a kind are side by side and are inverses: `read` puts a value into the
field of a message, or returns False if the field cannot hold the value exactly; `write` writes the
field's value as JSON text, and refuses a value that `read` would not have put there.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from imagecall.errors import ConversionError, pointer_to, quoted
from imagecall.json.large_strings import Spans
from imagecall.json.pieces import Apart, Piece
from imagecall.json.text import JsonValue, join_elements, quote, type_name
from imagecall.v1 import options_pb2

INTEGERS: Final = {
    FieldDescriptor.TYPE_INT32: range(-(2**31), 2**31),
    FieldDescriptor.TYPE_UINT32: range(2**32),
    FieldDescriptor.TYPE_INT64: range(-(2**63), 2**63),
    FieldDescriptor.TYPE_UINT64: range(2**64),
}
"""Range of each integer type of protobuf."""

Read = Callable[[Message, JsonValue, Spans], bool]
"""Puts a parsed value into its field. Returns False if the field cannot hold the value.

May raise ConversionError.
"""

ReadRaw = Callable[[Message, bytes, JsonValue, Spans, bool], bool]
"""Read of a value whose raw text is needed. The last argument: the profile is STRICT."""

Write = Callable[[Any, list[Piece], Apart], None]
"""Appends a field's value as a JSON member, such as `,"id":"a"`, to the pieces of a text.

The last argument holds the images that are kept beside the message of the field.
"""


@dataclass(frozen=True)
class Codec:
    """Read and write of a field. Either `read` or `read_raw` is set."""

    write: Write
    read: Read | None = None
    read_raw: ReadRaw | None = None


def key_of(field: FieldDescriptor) -> options_pb2.JsonKey:
    """JSON key of a field, from the field's options."""
    option: options_pb2.JsonKey = field.GetOptions().Extensions[options_pb2.json_key]
    return option


def holds_other_spellings(field: FieldDescriptor) -> bool:
    """True for a string field with the spellings that the enum field of the same key lacks."""
    return key_of(field).role == options_pb2.FIELD_ROLE_UNKNOWN_SPELLING


def enum_of(field: FieldDescriptor) -> EnumDescriptor:
    """Enum of an enum field."""
    assert field.enum_type is not None
    return field.enum_type


def message_of(field: FieldDescriptor) -> Descriptor:
    """Message type of a message field."""
    assert field.message_type is not None
    return field.message_type


def member_start(field: FieldDescriptor) -> bytes:
    """Start of the JSON member of a field: `,"id":`."""
    return b",%b:" % quote(key_of(field).name)


def refuse_unknown_fields(message: Message, pointer: str) -> None:
    """Raises UNKNOWN_FIELD if the message has a field that this schema does not name."""
    if len(unknown := UnknownFieldSet(message)):
        number = unknown[0].field_number
        text = f"the message has a field with number {number}, which this schema does not name"
        raise ConversionError("UNKNOWN_FIELD", pointer, f"{text}; JSON would lose it")


def mismatch_of(field: FieldDescriptor, expected: str) -> Callable[[JsonValue], bool]:
    """Handler of values of the wrong JSON type.

    Returns False for a lenient key, whose value then becomes an extra field; raises ConversionError
    (WRONG_TYPE) for any other key.
    """
    key = key_of(field)
    if key.lenient:
        return lambda value: False

    def refuse(value: JsonValue) -> bool:
        message = f"{quoted(key.name)} must be {expected}, not {type_name(value)}"
        raise ConversionError("WRONG_TYPE", pointer_to(key.name), message)

    return refuse


def simple_codec(field: FieldDescriptor, kind: type, expected: str) -> Codec:
    """Codec of a JSON value of one type and a field that can hold every value of that type."""
    name, start = field.name, member_start(field)
    mismatch = mismatch_of(field, expected)

    def read(target: Message, value: JsonValue, spans: Spans) -> bool:
        if value.__class__ is not kind:
            return mismatch(value)
        setattr(target, name, value)
        return True

    def write(value: str | bool, pieces: list[Piece], apart: Apart) -> None:
        pieces.append(start + quote(value))

    return Codec(write, read)


def strings_codec(field: FieldDescriptor) -> Codec:
    """Codec of a JSON array of strings and a repeated string field.

    A repeated field cannot hold an empty array.
    """
    name, start = field.name, member_start(field)
    mismatch = mismatch_of(field, "an array of strings that is not empty")

    def read(target: Message, value: JsonValue, spans: Spans) -> bool:
        if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
            return mismatch(value)
        getattr(target, name).extend(value)
        return True

    def write(values: Iterable[str], pieces: list[Piece], apart: Apart) -> None:
        pieces.append(start + join_elements(map(quote, values)))

    return Codec(write, read)


def number_codec(field: FieldDescriptor) -> Codec:
    """Codec of a JSON number and an integer or double field.

    The field holds only numbers in the spelling that Python's `repr` gives.
    """
    name, start = field.name, member_start(field)
    numbers = INTEGERS.get(field.type)
    kind = float if numbers is None else int
    expected = "a number in its usual spelling"
    if numbers is not None:
        expected = (
            f"an integer from {numbers.start} to {numbers.stop - 1}, without point or exponent"
        )
    mismatch = mismatch_of(field, expected)

    def read_raw(target: Message, raw: bytes, value: JsonValue, spans: Spans, strict: bool) -> bool:
        fits = value.__class__ is kind and (numbers is None or value in numbers)
        if not fits or raw.decode() != repr(value):
            return mismatch(value)
        setattr(target, name, value)
        return True

    def write(value: float, pieces: list[Piece], apart: Apart) -> None:
        if value - value != 0:
            message = f"{quoted(key_of(field).name)} is {value}, which JSON cannot express"
            raise ConversionError("NON_FINITE_NUMBER", pointer_to(key_of(field).name), message)
        pieces.append(start + repr(value).encode())

    return Codec(write, read_raw=read_raw)


def spellings(enum: EnumDescriptor) -> dict[str, int]:
    """Numbers of an enum's values by their spelling in JSON."""
    spelling = options_pb2.json_spelling
    return {v.GetOptions().Extensions[spelling]: v.number for v in enum.values if v.number}


def enum_codec(field: FieldDescriptor, other: FieldDescriptor) -> Codec:
    """Codec of a JSON string and an enum field, or `other` for spellings that the enum lacks."""
    name = field.name
    pointer = pointer_to(key_of(field).name)
    numbers = spellings(enum_of(field))
    members = {n: member_start(field) + quote(spelling) for spelling, n in numbers.items()}
    mismatch = mismatch_of(field, "a string")

    def read(target: Message, value: JsonValue, spans: Spans) -> bool:
        if value.__class__ is not str:
            return mismatch(value)
        if value in numbers:
            setattr(target, name, numbers[value])
        else:
            setattr(target, other.name, value)
        return True

    def write(number: int, pieces: list[Piece], apart: Apart) -> None:
        if number not in members:
            message = f"{name} has the number {number}, which this schema does not name"
            raise ConversionError("UNKNOWN_ENUM_NUMBER", pointer, message)
        pieces.append(members[number])

    return Codec(write, read)


def other_spelling_write(field: FieldDescriptor, other: FieldDescriptor) -> Write:
    """Write of `other`, the field for spellings that the enum lacks; `enum_codec` reads it."""
    start = member_start(field)
    pointer = pointer_to(key_of(field).name)
    numbers = spellings(enum_of(field))

    def write(spelling: str, pieces: list[Piece], apart: Apart) -> None:
        if spelling in numbers:
            message = f"{other.name} is {quoted(spelling)}, which belongs in {field.name}"
            raise ConversionError("NOT_CANONICAL", pointer, message)
        pieces.append(start + quote(spelling))

    return write
