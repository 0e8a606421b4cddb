"""Splices large values into and out of serialized messages, without copies in message objects.

Walks a serialized message along the schema, field by field, and writes it again with new values for
some fields and new lengths for the fields around them. The path of a field decides, so that the
bytes are never searched for a value. Protobuf's wire format:
https://protobuf.dev/programming-guides/encoding/.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from imagecall.json.large_strings import Image, LargeBase64
from imagecall.json.pieces import Apart, join, size_of
from imagecall.sizes import APART
from imagecall.turns import take_turn
from imagecall.v1.image_result_pb2 import ImageResult
from imagecall.wire.varint import (
    FIXED_SIZES,
    LENGTH,
    MAX_LENGTH_BYTES,
    VARINT,
    read_varint,
    write_varint,
)

_MAX_FIELDS: Final = 1000
"""Most fields of a message that is walked, as each field takes long in Python."""

_Value: TypeAlias = bytes | memoryview | LargeBase64


class _Field(NamedTuple):
    """Field with a length: its number, and the offsets of its length, its value and its end."""

    number: int
    length_at: int
    start: int
    end: int


_Parts: TypeAlias = Sequence[_Value]
_Replace: TypeAlias = Callable[[str, FieldDescriptor, memoryview], _Parts | None]
"""Maps the path of a field, the field and its value to the parts of the new value. None: the value
stays."""


class _Edit(NamedTuple):
    """New values of a message's fields.

    Attributes:
        replace: returns a new value.
        walks: returns True for the path of a message whose fields are walked.
        least: the size of the smallest value that is replaced, or walked.
        most: most fields of a message.
    """

    replace: _Replace
    walks: Callable[[str], bool] = lambda path: True
    least: int = 0
    most: int = sys.maxsize


def attach_images(message: Message, images: Mapping[str, Image]) -> bytes:
    """Serializes the message with images in the image fields whose whole value is a marker."""
    descriptor: Any = message.DESCRIPTOR
    by_marker = {marker.encode(): image for marker, image in images.items()}

    def replace(path: str, field: FieldDescriptor, value: memoryview) -> _Parts | None:
        image = by_marker.get(bytes(value)) if _is_image(field) else None
        return None if image is None else (image,)

    return _edited(message.SerializeToString(), descriptor, _Edit(replace))


def attach_apart(message: Message, apart: Apart) -> bytes:
    """Serializes the message with the images that are kept beside it.

    Each image is copied once, into the result. Only the messages around the images are walked.
    """
    descriptor: Any = message.DESCRIPTOR
    around = {path[:end] for path in apart for end, mark in enumerate(path) if mark == "."}
    edit = _Edit(lambda path, field, value: apart.get(path), around.__contains__)
    return _edited(message.SerializeToString(), descriptor, edit)


def serialized_with(message: Message, path: str, value: bytes | memoryview) -> bytes:
    """Serializes the message with a value in the field at a path, such as "chunk.data"."""
    *names, last = path.split(".")
    owner: Any = message
    for name in names:
        owner = getattr(owner, name)
    # Protobuf does not serialize an empty value, so that it could not be replaced.
    setattr(owner, last, "-" if isinstance(getattr(owner, last), str) else b"-")
    return attach_apart(message, {path: (value,)})


def detach_text(wire: bytes, descriptor: Descriptor, name: str) -> tuple[bytes, bytes | None]:
    """Detaches the large text of a field. Returns the rest of the message, and the text or None.

    The text stays if the field is there twice, or if the text is not ASCII: protobuf then checks
    that it is UTF-8.
    """
    texts: list[bytes] = []

    def replace(path: str, field: FieldDescriptor, value: memoryview) -> _Parts | None:
        if path != name or not (text := bytes(value)).isascii():
            return None
        texts.append(text)
        return ()

    short = _without_large(wire, descriptor, replace)
    return short, texts[0] if texts else None


def detach_images(
    wire: bytes, descriptor: Descriptor
) -> tuple[bytes, dict[str, tuple[memoryview]]]:
    """Detaches large images. Returns the message with empty images, and the images by field path.

    An image stays if its field, or a field around it that is not repeated, is there twice: protobuf
    then decides between the two. Bytes that are no serialized message stay as they are.
    """
    images: dict[str, tuple[memoryview]] = {}

    def replace(path: str, field: FieldDescriptor, value: memoryview) -> _Parts | None:
        if not _is_image(field):
            return None
        images[path] = (value,)
        return ()

    return _without_large(wire, descriptor, replace), images


def _is_image(field: FieldDescriptor) -> bool:
    return field.type == field.TYPE_BYTES and field.containing_type is ImageResult.DESCRIPTOR


def _without_large(wire: bytes, descriptor: Descriptor, replace: _Replace) -> bytes:
    """Replaces the values of large fields. Returns bytes that are no message unchanged."""
    if len(wire) < APART:
        return wire
    try:
        return _edited(wire, descriptor, _Edit(replace, least=APART, most=_MAX_FIELDS))
    except (IndexError, ValueError):
        return wire


def _edited(wire: bytes, descriptor: Descriptor, edit: _Edit) -> bytes:
    """Returns a serialized message with new values.

    Raises IndexError or ValueError for bytes that are no message, or one of too many fields.
    """
    take_turn()
    pieces = _pieces(memoryview(wire), descriptor, "", edit)
    take_turn()
    return wire if pieces is None else join(pieces)


def _pieces(
    wire: memoryview, descriptor: Descriptor, path: str, edit: _Edit
) -> list[_Value] | None:
    """Pieces of the message at `path` with new values; None if all values stay.

    A repeated field has its index in its path, as in "calls[0]".
    """
    fields = list(_fields(wire, edit.most))
    occurrences = Counter(field.number for field in fields)
    before = Counter[int]()  # Elements of each repeated field before the current one.
    pieces: list[_Value] = []
    done = 0
    for number, length_at, start, end in fields:
        field = descriptor.fields_by_number.get(number)
        if field is None:
            continue
        value, place = wire[start:end], path + field.name
        if field.is_repeated:
            place += f"[{before[number]}]"
            before[number] += 1
        elif occurrences[number] > 1:
            continue
        if end - start < edit.least:
            continue
        new: _Parts | None = None
        if field.message_type is not None:
            if edit.walks(place):
                new = _pieces(value, field.message_type, place + ".", edit)
        elif not field.is_repeated:
            new = edit.replace(place, field, value)
        if new is not None:
            pieces += wire[done:length_at], write_varint(size_of(new)), *new
            done = end
    return [*pieces, wire[done:]] if pieces else None


def _fields(wire: memoryview, most: int) -> Iterator[_Field]:
    """Yields the fields with a length.

    Raises IndexError or ValueError for bytes that are no message, or one of more than `most`
    fields.
    """
    position = 0
    for _ in range(most):
        if position >= len(wire):
            return
        tag, position = read_varint(wire, position, MAX_LENGTH_BYTES)
        kind = tag & 7
        if kind == LENGTH:
            length_at = position
            length, value_at = read_varint(wire, position, MAX_LENGTH_BYTES)
            position = value_at + length
            if position > len(wire):
                raise ValueError("a field is longer than its message")
            yield _Field(tag >> 3, length_at, value_at, position)
        elif kind == VARINT:
            _, position = read_varint(wire, position)
        elif kind in FIXED_SIZES:
            position += FIXED_SIZES[kind]
        else:
            raise ValueError(f"wire type {kind} is a group, or none")
    if position < len(wire):
        raise ValueError(f"the message has more than {most} fields")
