"""The quick reading of plain objects, for which it gives what the plan's own reading gives.

An object is plain if its members are strings that their fields carry, or null or canonical base64
where the field is an image, no key stands twice, and no string holds an escaped quote. Most items
are. For each type of object a function is written out from its fields, because a loop over a table
takes half as long again. Whatever is not plain makes it return False or raise one of FAILURES, and
is then read by the plan.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from google.protobuf.message import Message
from pybase64 import b64decode

from imagecall.conversion.fields import CANONICAL_ENDS

PlainRead = Callable[[Message, dict[str, Any], bytes], bool]
"""Puts an object, and its JSON text, into a union; whether it was plain."""

FAILURES: Final = (ValueError, TypeError, KeyError)
"""What the reading of an object that is not plain may raise."""

_STRING: Final = """
    if (item := value.get({key!r})) is not None:
        target.{field} = item
        found += 1
"""
_ENUM: Final = """
    if (item := value.get({key!r})) is not None:
        target.{field} = numbers_of_{field}[item]
        found += 1
"""
_IMAGE: Final = """
    if (item := value.get({key!r})) is not None:
        target.{field}.image = b64decode(item, None, True)
        if item[-1:] == "=" and not item.endswith(canonical_ends):
            return False
        found += 1
    elif {key!r} in value:
        target.{field}.null_value = 0
        found += 1
        nulls += 1
"""
_ENOUGH: Final = """
    if found == len(value):
        if found == 1:
            target.SetInParent()
        return text.count(b'"') == 4 * found - 2 * nulls
"""


def compile_plain_read(
    variant: str,
    strings: Mapping[str, str],
    enums: Mapping[str, tuple[str, Mapping[str, int]]],
    images: Mapping[str, str],
    rare_strings: Mapping[str, str],
) -> PlainRead:
    """The function for the objects of a union's variant.

    The further arguments map keys to fields: of strings, of enums with their numbers by spelling,
    of images, and of strings that are looked for only if there are further keys. "type" is one more
    key.
    """
    source = "def read(union, value, text):\n    found, nulls = 1, 0\n"
    source += f"    target = union.{variant}\n"
    source += "".join(_STRING.format(key=key, field=field) for key, field in strings.items())
    source += "".join(_ENUM.format(key=key, field=field) for key, (field, _) in enums.items())
    source += "".join(_IMAGE.format(key=key, field=field) for key, field in images.items())
    source += _ENOUGH
    source += "".join(_STRING.format(key=key, field=field) for key, field in rare_strings.items())
    source += _ENOUGH + "    return False\n"
    names: dict[str, Any] = {f"numbers_of_{field}": n for field, n in enums.values()}
    names |= {"b64decode": b64decode, "canonical_ends": CANONICAL_ENDS}
    exec(source, names)
    read: PlainRead = names["read"]
    return read
