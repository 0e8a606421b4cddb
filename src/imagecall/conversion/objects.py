"""Plans for one JSON object and one message, which holds the keys in fields, or all as text.

`read` and `write` are inverses. `write` refuses a message that `read` would not have made, as
reading its JSON would give another message.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from imagecall.conversion.fast_path import ExtraFields, PlainRead, PlainWrite
from imagecall.conversion.fields import Read, ReadRaw, Write, refuse_unknown_fields
from imagecall.errors import ConversionError, pointer_to, quoted
from imagecall.json.diagnosis import MAX_DEPTH
from imagecall.json.large_strings import NO_SPANS, Spans
from imagecall.json.pieces import NOTHING_APART, Apart, Piece
from imagecall.json.text import (
    MAX_KEYS,
    MAX_VALUES,
    JsonValue,
    are_members,
    count_values,
    join_members,
    members,
    parse,
    too_many_keys,
    too_many_values,
    type_name,
)
from imagecall.turns import take_turn
from imagecall.v1.extra_field_pb2 import ExtraField

TYPE: Final = "type"
"""Key of the type of an object."""

_WHITE_SPACE: Final = " \t\n\r"

JsonObject: TypeAlias = dict[str, JsonValue]


def as_object(value: JsonValue) -> JsonObject:
    """Returns the value if it is an object. Raises ConversionError (WRONG_TYPE) otherwise."""
    if isinstance(value, dict):
        return value
    raise ConversionError("WRONG_TYPE", "", f"it must be an object, not {type_name(value)}")


def type_of(value: JsonObject) -> str:
    """Value of an object's "type". Raises ConversionError: MISSING_KEY, WRONG_TYPE."""
    tag = value.get(TYPE)
    if isinstance(tag, str):
        return tag
    if TYPE not in value:
        raise ConversionError("MISSING_KEY", pointer_to(TYPE), 'the object has no "type"')
    message = f'"type" must be a string, not {type_name(tag)}'
    raise ConversionError("WRONG_TYPE", pointer_to(TYPE), message)


def raw_value(json: str, pointer: str, max_depth: int) -> tuple[bytes, JsonValue]:
    """Checks raw JSON text that is copied into JSON; returns its bytes and its value.

    Raises ConversionError: NOT_CANONICAL for white space around it, and as `parse` does.
    """
    if json and (json[0] in _WHITE_SPACE or json[-1] in _WHITE_SPACE):
        message = "raw JSON text must not begin or end with white space"
        raise ConversionError("NOT_CANONICAL", pointer, message)
    raw = json.encode()
    take_turn()
    try:
        return raw, parse(raw, max_depth)
    except ConversionError as error:
        raise error.under(pointer) from None


@dataclass(frozen=True)
class ObjectPlan:
    """Plan of a message whose fields are the keys of an object."""

    tag: str
    message_class: type[Message]
    plain_read: Callable[[int], PlainRead]
    """Compiles the fast path of reading for the tag of a variant with this plan."""
    plain_write: PlainWrite
    reads: Mapping[str, Read]
    raw_reads: Mapping[str, ReadRaw]
    keys: Mapping[FieldDescriptor, str]
    """JSON key of each field, and of the field for an enum's other spellings."""
    writes: Mapping[FieldDescriptor, Write]
    other_writes: Mapping[FieldDescriptor, tuple[FieldDescriptor, Write]]
    """Enum field and write, by the field for the enum's other spellings."""
    start: bytes
    """Start of the object in JSON: `{"type":"image_generation_call"`."""
    own_keys: frozenset[str]
    """Keys that are never among the extra fields."""
    extra_fields: ExtraFields
    required: tuple[str, ...]
    closed: tuple[tuple[str, str, str], ...]
    """For each key with a closed list of spellings: key, field for other spellings, the list."""
    image_keys: frozenset[str]

    def read(
        self, target: Message, text: bytes, value: JsonObject, spans: Spans, strict: bool
    ) -> None:
        """Puts the object `value`, whose raw text is `text`, into an empty message."""
        if self.tag:
            del value[TYPE]
        if not value:
            target.SetInParent()
        unread = []  # Keys that need their raw text, or have no field.
        for name, item in value.items():
            read = self.reads.get(name)
            if read is None or not read(target, item, spans):
                unread.append(name)
        if strict:
            self._enforce(target, value)
        if not unread:
            return
        raws = members(text)
        extras = []
        for name in unread:
            read_raw = self.raw_reads.get(name)
            if read_raw is None or not read_raw(target, raws[name], value[name], spans, strict):
                extras.append(name)
        take_turn()
        target.MergeFromString(self.extra_fields.serialized(raws, extras))
        take_turn()

    def _enforce(self, target: Message, value: JsonObject) -> None:
        """Raises ConversionError for a key or spelling that the STRICT profile refuses."""
        for name in self.required:
            if name not in value:
                message = f"the STRICT profile requires the key {quoted(name)}"
                raise ConversionError("MISSING_KEY", pointer_to(name), message)
        for name, other, spellings in self.closed:
            if target.HasField(other):
                message = f"{quoted(name)} is {quoted(value[name])}; choose one of {spellings}"
                raise ConversionError("UNKNOWN_STATUS", pointer_to(name), message)

    def write(self, message: Message, pieces: list[Piece], apart: Apart = NOTHING_APART) -> None:
        """Appends the JSON text of a message, with the images kept beside it, to the pieces."""
        refuse_unknown_fields(message, "")
        pieces.append(self.start)
        first = len(pieces)
        extras: Sequence[ExtraField] = ()
        for field, value in message.ListFields():
            if write := self.writes.get(field):
                write(value, pieces, apart)
            elif field in self.other_writes:
                self._write_other(message, field, value, pieces)
            else:
                extras = value
        if extras:
            self._write_extras(message, extras, pieces)
        if not self.tag and len(pieces) > first:
            comma = pieces[first]
            assert isinstance(comma, bytes)
            pieces[first] = comma[1:]
        pieces.append(b"}")

    def _write_other(
        self, message: Message, field: FieldDescriptor, value: str, pieces: list[Piece]
    ) -> None:
        enum, write = self.other_writes[field]
        if getattr(message, enum.name):
            key = self.keys[enum]
            text = f"{field.name} is set, and so is {enum.name}, for the same key {quoted(key)}"
            raise ConversionError("NOT_CANONICAL", pointer_to(key), text)
        write(value, pieces, NOTHING_APART)

    def _write_extras(
        self, message: Message, extras: Sequence[ExtraField], pieces: list[Piece]
    ) -> None:
        if len(extras) > MAX_KEYS:
            raise too_many_keys()
        written = {self.keys[field] for field, _ in message.ListFields() if field in self.keys}
        own = len(written) + bool(self.tag)
        raws = {extra.name: extra.json.encode() for extra in extras}
        text = join_members(raws)
        if (
            len(raws) < len(extras)
            or not raws.keys().isdisjoint(written | self.own_keys)
            or any(len(UnknownFieldSet(extra)) for extra in extras)
            or not are_members(text, raws)
        ):
            self._check_extras(extras, written)
        if own + len(extras) > MAX_KEYS:
            raise too_many_keys()
        # A shorter text cannot have so many values.
        if len(text) > MAX_VALUES and own + count_values(text) > MAX_VALUES:
            raise too_many_values()
        pieces += b",", text[1:-1]

    def _check_extras(self, extras: Sequence[ExtraField], written: set[str]) -> None:
        """Raises ConversionError for the first extra field that `read` would not have made."""
        for extra in extras:
            name, pointer = extra.name, pointer_to(extra.name)
            refuse_unknown_fields(extra, pointer)
            if name in self.own_keys:
                text = f"an extra field has the key {quoted(name)}, which has a field of its own"
                raise ConversionError("NOT_CANONICAL", pointer, text)
            if name in written:
                text = f"an extra field has the key {quoted(name)}, which the object has already"
                raise ConversionError("DUPLICATE_KEY", pointer, text)
            written.add(name)
            raw_value(extra.json, pointer, MAX_DEPTH - 1)


@dataclass(frozen=True)
class RawObjectPlan:
    """Plan of a message that keeps an object as text, beside a copy of its type."""

    type_field: str
    json_field: str
    others: Mapping[str, ObjectPlan]
    """Plans, by type, of objects that an older schema kept as text."""
    tag: str = ""
    image_keys: frozenset[str] = frozenset()

    def read(
        self, target: Message, text: bytes, value: JsonObject, spans: Spans, strict: bool
    ) -> None:
        take_turn()
        raw = text.decode().strip(_WHITE_SPACE)
        take_turn()
        setattr(target, self.type_field, value[TYPE])
        setattr(target, self.json_field, raw)
        take_turn()

    def write(self, message: Message, pieces: list[Piece], apart: Apart = NOTHING_APART) -> None:
        pieces.append(self.checked(message)[0])

    def checked(self, message: Message) -> tuple[bytes, JsonObject]:
        """Returns the JSON text of a message, and its value. Raises ConversionError."""
        refuse_unknown_fields(message, "")
        fields: Any = message
        raw, value = raw_value(getattr(fields, self.json_field), "", MAX_DEPTH)
        tag, copy = type_of(as_object(value)), getattr(fields, self.type_field)
        if tag != copy:
            text = f'"type" is {quoted(tag)} in the raw JSON text and {quoted(copy)} beside it'
            raise ConversionError("NOT_CANONICAL", pointer_to(TYPE), text)
        if other := self.others.get(tag):
            # The value is parsed again, as `read` removes keys from it.
            other.read(other.message_class(), raw, as_object(parse(raw)), NO_SPANS, False)
        return raw, value
