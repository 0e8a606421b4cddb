"""Fast path for plain objects, with the same result as reading by the plan.

Most items are plain objects: each member is a string that its field can hold, or null or canonical
base64 where the field is an image; no key occurs twice, and no string has an escaped quote. For
any other object the fast path returns False or raises one of FAILURES, and the plan reads it.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, TypeAlias

from google.protobuf.message import Message

from imagecall.conversion.fields import decode_base64

PlainRead: TypeAlias = Callable[[Message, dict[str, Any], bytes], bool]
"""Puts an object, with its JSON text, into a union. Returns False if the object is not plain."""

Member: TypeAlias = tuple[Literal["tag", "string", "enum", "image"], str, Mapping[str, int]]
"""Kind of a member, name of its field, and for an enum its numbers by spelling."""

FAILURES: Final = (ValueError, TypeError, KeyError)
"""Errors that reading an object that is not plain may raise."""


def plain_read(variant: str, members: Mapping[str, Member]) -> PlainRead:
    """Returns the fast path for a variant of a union, whose members are given by key."""

    def read(union: Message, value: dict[str, Any], text: bytes) -> bool:
        target = getattr(union, variant)
        nulls = 0
        for key, item in value.items():
            kind, field, numbers = members[key]
            if kind == "string":
                setattr(target, field, item)
            elif kind == "enum":
                setattr(target, field, numbers[item])
            elif kind == "image" and item is None:
                getattr(target, field).null_value = 0
                nulls += 1
            elif kind == "image":
                getattr(target, field).image = decode_base64(item)
        if len(value) == 1:
            target.SetInParent()
        return text.count(b'"') == 4 * len(value) - 2 * nulls

    return read
