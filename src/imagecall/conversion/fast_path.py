"""Fast path between plain objects and serialized messages, with the same result as by the plan.

Most items are plain objects: each member is a string that its field can hold, or null or canonical
base64 where the field is an image. A plain message has such fields, and integers of one byte, each
once and in order. For anything else the fast path raises one of FAILURES, and the plan converts it.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from imagecall.conversion.fields import decode_base64, is_canonical_base64
from imagecall.json.pieces import Piece, image_piece
from imagecall.json.text import quote
from imagecall.v1.image_result_pb2 import ImageResult
from imagecall.wire.varint import (
    MAX_LENGTH_BYTES,
    ONE_BYTE,
    FieldStarts,
    read_varint,
    start_of,
    tag_of,
)

PlainRead: TypeAlias = Callable[[dict[str, Any]], bytes]
"""Serializes an object as the message of a union."""

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


def _known(member: Member) -> dict[Any, bytes]:
    """Serialized field of each value that needs no encoding."""
    if member.kind == "image":
        return {None: start_of(member.tag, len(_NULL_RESULT)) + _NULL_RESULT}
    return {value: start_of(member.tag, number) for value, number in member.numbers.items()}


def _starts(member: Member) -> FieldStarts | None:
    """Starts of the values that are encoded. None: there are no such values."""
    if member.kind == "image":
        return FieldStarts(partial(_start_of_image, member.tag))
    return FieldStarts(partial(start_of, member.tag)) if member.kind == "string" else None


def plain_read(members: Iterable[Member], type_key: str, tag: str, variant: int) -> PlainRead:
    """Returns the fast path of reading objects of type `tag` as the variant with this tag."""
    fields = {
        member.key: (place, _known(member), _starts(member), member.kind == "image")
        for place, member in enumerate(sorted(members, key=lambda member: member.tag), 1)
        if member.kind != "integer"  # A number has several spellings in JSON.
    }
    fields[type_key] = 0, {tag: b""}, None, False
    unset = [b""] * (max(place for place, *_ in fields.values()) + 1)
    union_starts = FieldStarts(partial(start_of, variant))

    def read(value: dict[str, Any]) -> bytes:
        wires = unset.copy()
        for key, item in value.items():
            place, known, starts, is_image = fields[key]
            if starts is None:
                wires[place] = known[item]
            elif item is None:
                wires[place] = known[None]
            else:
                data = decode_base64(item) if is_image else item.encode()
                wires[place] = starts[len(data)] + data
        message = b"".join(wires)
        return union_starts[len(message)] + message

    return read


def plain_write(members: Iterable[Member], start: bytes) -> PlainWrite:
    """Returns the fast path of writing a message as an object with this start in JSON."""
    fields = {
        member.tag: (
            member.start,
            {n: member.start + quote(value) for value, n in member.numbers.items()} or None,
            member.kind == "image",
        )
        for member in members
    }

    def write(wire: bytes | memoryview, position: int) -> list[Piece]:
        pieces: list[Piece] = [start]
        last = 0
        while position < len(wire):
            tag, size = wire[position], wire[position + 1]
            member, known, is_image = fields[tag]
            if tag <= last:
                raise ValueError("a field occurs twice, or out of order")
            last = tag
            position += 2
            if known is not None:
                pieces.append(known[size])
                continue
            if size >= ONE_BYTE:
                size, position = read_varint(wire, position - 1, MAX_LENGTH_BYTES)
            value = wire[position : position + size]
            position += size
            if is_image:
                pieces += member, *_result(value)
            else:
                pieces.append(member + quote(str(value, "utf-8")))
        if position > len(wire):
            raise ValueError("a field is longer than its message")
        pieces.append(b"}")
        return pieces

    return write


def _result(result: bytes | memoryview) -> tuple[Piece, ...]:
    """Pieces of the JSON of a serialized ImageResult."""
    tag, size, position = result[0], result[1], 2
    if size >= ONE_BYTE:
        size, position = read_varint(result, 1, MAX_LENGTH_BYTES)
    if position + size == len(result):
        value = result[position:]
        if tag == _IMAGE:
            return b'"', image_piece(value), b'"'
        if tag == _TEXT and not is_canonical_base64(text := str(value, "utf-8")):
            return (quote(text),)
        if tag == _NULL:
            return (b"null",)
    raise ValueError("the result is not plain")
