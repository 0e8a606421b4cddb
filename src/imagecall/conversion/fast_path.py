"""Fast path between plain objects and serialized messages, with the same result as by the plan.

Most items are plain objects: each member is a string that its field can hold, or null or canonical
base64 where the field is an image, or an extra field. A plain message has such fields, and integers
of one byte, each once and in order. For anything else the fast path raises one of FAILURES, and the
plan converts it.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from google.protobuf.descriptor import FieldDescriptor

from imagecall.conversion.images import decode_base64, is_canonical_base64
from imagecall.json.pieces import Piece, image_piece
from imagecall.json.text import are_members, check_depth, join_members, quote
from imagecall.json.text import members as members_of
from imagecall.sizes import COUNTED_TEXT
from imagecall.v1.extra_field_pb2 import ExtraField
from imagecall.v1.image_result_pb2 import ImageResult
from imagecall.wire.varint import (
    MAX_LENGTH_BYTES,
    ONE_BYTE,
    FieldStarts,
    read_varint,
    start_of,
    tag_of,
)

PlainRead: TypeAlias = Callable[[dict[str, Any], bytes], bytes]
"""Serializes an object, whose raw text is the last argument, as the message of a union."""

PlainWrite: TypeAlias = Callable[[bytes | memoryview, int], list[Piece]]
"""Pieces of the JSON text of a serialized message, which begins at a position."""

FAILURES: Final = (ValueError, TypeError, LookupError, AttributeError)
"""Errors that converting what is not plain may raise."""

_NULL, _IMAGE, _TEXT = (
    tag_of(ImageResult.DESCRIPTOR.fields_by_name[name]) for name in ("null_value", "image", "text")
)
_NULL_RESULT: Final = bytes((_NULL, 0))


class Member(NamedTuple):
    """Member of a plain object, and its field.

    Attributes:
        kind: the kind of the value.
        key: the JSON key.
        tag: the tag of the field.
        start: the start of the member in JSON, up to the value.
        numbers: the numbers of an enum or integer, by value in JSON.
    """

    kind: Literal["string", "image", "enum", "integer"]
    key: str
    tag: int
    start: bytes
    numbers: Mapping[Any, int]


def _start_of_image(tag: int, size: int) -> bytes:
    inner = start_of(_IMAGE, size)
    return start_of(tag, len(inner) + size) + inner


class ExtraFields:
    """Field for the keys that no other field of a message holds, with their raw values.

    Attributes:
        tag: the tag of the field.
    """

    def __init__(self, field: FieldDescriptor) -> None:
        self.tag = tag_of(field)
        name, json = (tag_of(inner) for inner in ExtraField.DESCRIPTOR.fields)
        self._starts = [FieldStarts(partial(start_of, tag)) for tag in (self.tag, name, json)]
        self._starts[1][0] = b""  # Protobuf leaves out an empty name.
        self._tags = name, json

    def serialized(self, raws: Mapping[str, bytes], names: Iterable[str]) -> bytes:
        """Serializes these keys with their raw values."""
        outer, key_starts, raw_starts = self._starts
        wires: list[bytes] = []
        for name in names:
            key, raw = name.encode(), raws[name]
            start, middle = key_starts[len(key)], raw_starts[len(raw)]
            size = len(start) + len(key) + len(middle) + len(raw)
            wires += outer[size], start, key, middle, raw
        return b"".join(wires)

    def add(self, wire: bytes | memoryview, raws: dict[str, bytes]) -> None:
        """Adds one serialized key and its raw value to `raws`: the inverse of `serialized`."""
        key_tag, raw_tag = self._tags
        size, start = wire[1], 2
        if size >= ONE_BYTE:
            size, start = read_varint(wire, 1, MAX_LENGTH_BYTES)
        at = start + size
        name = str(wire[start:at], "utf-8")
        size, start = wire[at + 1], at + 2
        if size >= ONE_BYTE:
            size, start = read_varint(wire, at + 1, MAX_LENGTH_BYTES)
        if wire[0] != key_tag or wire[at] != raw_tag or name in raws or start + size != len(wire):
            raise ValueError("the extra field is not plain")
        raws[name] = bytes(wire[start:])


def plain_read(
    members: Iterable[Member],
    keys: Iterable[str],
    extras: ExtraFields,
    type_key: str,
    tag: str,
    variant: int,
) -> PlainRead:
    """Returns the fast path of reading objects of type `tag` as the variant with this tag."""
    fields: dict[str, Any] = dict.fromkeys(keys, (0, {}, None, False))  # No value is plain.
    plain = [member for member in members if member.kind != "integer"]  # It has many spellings.
    order = sorted([extras.tag, *(member.tag for member in plain)])
    for member in plain:
        start = partial(_start_of_image if member.kind == "image" else start_of, member.tag)
        known = {value: start(number) for value, number in member.numbers.items()}
        if member.kind == "image":
            known = {None: start_of(member.tag, len(_NULL_RESULT)) + _NULL_RESULT}
        starts = None if member.kind == "enum" else FieldStarts(start)
        place = order.index(member.tag) + 1
        fields[member.key] = place, known, starts, member.kind == "image"
    fields[type_key] = 0, {tag: b""}, None, False
    unset = [b""] * (len(order) + 1)
    extras_place = order.index(extras.tag) + 1
    union_starts = FieldStarts(partial(start_of, variant))

    def read(value: dict[str, Any], text: bytes) -> bytes:
        wires = unset.copy()
        names = []
        for key, item in value.items():
            if key not in fields:
                names.append(key)
                continue
            place, known, starts, is_image = fields[key]
            if starts is None:
                wires[place] = known[item]
            elif item is None:
                wires[place] = known[None]
            else:
                data = decode_base64(item) if is_image else item.encode()
                wires[place] = starts[len(data)] + data
        if names:
            wires[extras_place] = extras.serialized(members_of(check_depth(text)), names)
        message = b"".join(wires)
        return union_starts[len(message)] + message

    return read


def plain_write(
    members: Iterable[Member], keys: frozenset[str], extras: ExtraFields, start: bytes
) -> PlainWrite:
    """Returns the fast path of writing a message as an object with this start in JSON."""
    fields = {
        member.tag: (
            member.start,
            {n: member.start + quote(value) for value, n in member.numbers.items()} or None,
            member.kind == "image",
        )
        for member in members
    }
    fields[extras.tag] = b"", None, False

    def write(wire: bytes | memoryview, position: int) -> list[Piece]:
        pieces: list[Piece] = [start]
        raws: dict[str, bytes] = {}
        last = 0
        while position < len(wire):
            tag, size = wire[position], wire[position + 1]
            if tag <= last and not tag == last == extras.tag:
                raise ValueError("a field occurs twice, or out of order")
            last = tag
            position += 2
            member, known, is_image = fields[tag]
            if known is not None:
                pieces.append(known[size])
                continue
            if size >= ONE_BYTE:
                size, position = read_varint(wire, position - 1, MAX_LENGTH_BYTES)
            value = wire[position : position + size]
            position += size
            if is_image:
                pieces += member, *_result(value)
            elif tag != extras.tag:
                pieces.append(member + quote(str(value, "utf-8")))
            elif len(wire) - position > COUNTED_TEXT:
                raise ValueError("the extra fields may be too many")
            else:
                extras.add(value, raws)
        if position > len(wire):
            raise ValueError("a field is longer than its message")
        if raws:
            text = join_members(raws)
            if not keys.isdisjoint(raws) or not are_members(text, raws):
                raise ValueError("the extra fields are not plain")
            pieces += b",", text[1:-1]
        pieces.append(b"}")
        return pieces

    return write


def _result(result: bytes | memoryview) -> tuple[Piece, ...]:
    """Pieces of the JSON of a serialized ImageResult."""
    if result == _NULL_RESULT:
        return (b"null",)
    tag, size, position = result[0], result[1], 2
    if size >= ONE_BYTE:
        size, position = read_varint(result, 1, MAX_LENGTH_BYTES)
    if position + size == len(result):
        value = result[position:]
        if tag == _IMAGE:
            return b'"', image_piece(value), b'"'
        if tag == _TEXT and not is_canonical_base64(text := str(value, "utf-8")):
            return (quote(text),)
    raise ValueError("the result is not plain")
