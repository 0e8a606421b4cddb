"""Short reprs: an image, or a long text, is shown as its size.

The repr of protobuf shows each byte of an image, so that a notebook or a log would show megabytes.
The messages of the schema that can hold an image get the repr of this module; `str()` of them is
still the text format of protobuf.
"""

from collections.abc import Iterator
from typing import Any, Final, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from imagecall.v1.document_pb2 import Document
from imagecall.v1.image_generation_service_pb2 import (
    GenerateImageRequest,
    GenerateImageResponse,
    StreamImageResponse,
)

_LONGEST_SHOWN: Final = 100
"""Longest text that is shown, in characters."""

_ROOTS: Final[tuple[type[Message], ...]] = (
    GenerateImageRequest,
    GenerateImageResponse,
    StreamImageResponse,
    Document,
)
"""Messages in which all others with images can stand."""

_PACKAGE: Final = Document.DESCRIPTOR.file.package


def short_repr(value: object) -> str:
    """Returns the repr of a value; the size instead, for bytes and for a long text."""
    match value:
        case bytes():
            return f"<{len(value):,} bytes>"
        case str() if len(value) > _LONGEST_SHOWN:
            return f"<{len(value):,} characters>"
        case _:
            return repr(value)


def shorten_messages() -> None:
    """Gives the messages of the schema their short repr."""
    for root in _ROOTS:
        _shorten(cast("Descriptor", root.DESCRIPTOR))


def _shorten(kind: Descriptor) -> None:
    """Gives a message of the schema, and those in its fields, their short repr."""
    message_class: Any = GetMessageClass(kind)
    if kind.file.package == _PACKAGE and message_class.__repr__ is not _message_repr:
        message_class.__repr__ = _message_repr
        for field in kind.fields:
            if field.message_type:
                _shorten(field.message_type)


def _message_repr(message: Message) -> str:
    return f"{type(message).__name__}({', '.join(_fields(message))})"


def _fields(message: Message) -> Iterator[str]:
    for field, value in message.ListFields():
        if field.is_repeated:
            yield f"{field.name}=[{', '.join(_value(field, each) for each in value)}]"
        else:
            yield f"{field.name}={_value(field, value)}"


def _value(field: FieldDescriptor, value: Any) -> str:
    if field.enum_type and value in field.enum_type.values_by_number:
        return field.enum_type.values_by_number[value].name
    return short_repr(value)
