"""Strict JSON text: parsing, splitting into raw values without changing them, and joining.

Refuses malformed text (RFC 8259), and also: a byte order mark, NaN and Infinity, a key twice in an
object, half a surrogate pair, numbers of more than 4,300 digits before the decimal point, nesting
deeper than 100, objects of more than 10,000 keys, more than 100,000 values or 4,000,000 escapes,
and texts larger than a limit, which are refused without reading. A refused text is read a second
time, more slowly, in imagecall.json.diagnosis, which finds the reason and the place.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, TypeAlias

import jiter
import msgspec

from imagecall.errors import ConversionError
from imagecall.json.diagnosis import MAX_DEPTH, diagnose
from imagecall.sizes import COUNTED_TEXT, SCANNED
from imagecall.turns import take_turn

JsonValue: TypeAlias = Any
"""Parsed JSON value: dict, list, str, int, float, bool or None."""

MAX_BYTES: Final = 128 * 1024 * 1024
"""Default limit of a JSON text, in bytes of UTF-8: 128 MiB."""

MAX_KEYS: Final = 10_000
"""Most keys of an object."""

MAX_VALUES: Final = 100_000
"""Most members and elements of all objects and arrays of a text together."""

MAX_ESCAPES: Final = 4_000_000
"""Most backslashes of a text. A base64 string of 128 MiB with each slash escaped has 2,000,000."""

_RARE: Final = 48
"""Most times that a byte is looked for. Twice as many brackets are not nested too deep."""

_MEMBERS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ELEMENTS: Final = msgspec.json.Decoder(list[msgspec.Raw])
_TYPE_NAMES: Final = {
    dict: "an object",
    list: "an array",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "a boolean",
    type(None): "null",
}

_MARK: Final = re.compile(rb"[][{},:]")
_REST_OF_ESCAPE: Final = re.compile(rb"\\*+.?", re.DOTALL)
_SPACES: Final = b" \t\n\r"
_NO_MARKS: Final = bytes(byte for byte in range(256) if byte not in b"[]{},:")
_OBJECTS_TO_ARRAYS: Final = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in b"[]{}")

quote: Final = msgspec.json.Encoder().encode
"""Writes a string, or true or false, as JSON text in UTF-8."""


def type_name(value: JsonValue) -> str:
    """JSON type of a value, for a sentence: "a number"."""
    return _TYPE_NAMES[type(value)]


def too_large(size: int, max_bytes: int) -> ConversionError:
    """Error for a text of `size` bytes."""
    message = f"the JSON text has {size:,} bytes; the limit is {max_bytes:,}"
    return ConversionError("TOO_LARGE", "", message)


def encode(text: bytes | str, max_bytes: int) -> bytes:
    """Encodes the text as UTF-8. Raises ConversionError: TOO_LARGE, LONE_SURROGATE."""
    if len(text) > max_bytes:
        raise too_large(len(text), max_bytes)
    take_turn()
    if isinstance(text, bytes):
        return text
    if not isinstance(text, str):
        raise TypeError(f"the text must be bytes or str, not {type(text).__name__}")
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise diagnose(text.encode(errors="surrogatepass")) from None
    take_turn()
    if len(data) > max_bytes:
        raise too_large(len(data), max_bytes)
    return data


def parse(text: bytes, max_depth: int = MAX_DEPTH) -> JsonValue:
    """Parses the text. Raises ConversionError with the reason and the place of the first fault.

    Numbers become int or float, which is not exact; `members` and `elements` keep their spelling.
    """
    check_values(text)
    try:
        value = jiter.from_json(
            text, allow_inf_nan=False, catch_duplicate_keys=True, cache_mode="keys"
        )
    except ValueError:
        raise diagnose(text) from None
    take_turn()
    if _is_deeper(text, max_depth):
        raise diagnose(text, max_depth)
    return value


def parse_string(text: bytes | memoryview) -> str:
    """Parses what stands between the quotes of a string. Raises ValueError for any other text."""
    quoted = b"".join((b'"', text, b'"'))
    _check_escapes(quoted)
    value: str = jiter.from_json(quoted)
    take_turn()
    return value


def check_depth(text: bytes) -> bytes:
    """Returns a text that was joined of others unchanged, if it is within the limits.

    Raises ConversionError if the text is nested too deep, or has too many values.
    """
    check_values(text)
    if _is_deeper(text, MAX_DEPTH):
        raise diagnose(text)
    return text


def check_values(text: bytes) -> None:
    """Raises ConversionError (TOO_MANY_VALUES) for a text that would cost much more than its bytes.

    The text need not be JSON.
    """
    if len(text) <= COUNTED_TEXT:
        return
    _check_escapes(text)
    if _are_rare(text, b":", b",", b"{", b"["):
        return
    marks = b"".join(part.translate(None, _NO_MARKS) for part in _slices(text))
    if marks.count(b":") > MAX_KEYS or len(marks) - marks.count(b":") > MAX_VALUES:
        count_values(text)


def _check_escapes(text: bytes) -> None:
    """Raises ConversionError (TOO_MANY_VALUES) for a text of too many escapes."""
    if len(text) <= 2 * MAX_ESCAPES or _are_rare(text, b"\\"):
        return
    if sum(part.count(b"\\") for part in _slices(text)) > MAX_ESCAPES:
        message = f"the text has more than {MAX_ESCAPES:,} escapes"
        raise ConversionError("TOO_MANY_VALUES", "", message)


def _are_rare(text: bytes, *marks: bytes) -> bool:
    """True for a text that has none of these bytes more than `_RARE` times.

    Finding a rare byte is far quicker than counting it.
    """
    for mark in marks:
        take_turn()
        position = -1
        for _ in range(_RARE + 1):
            position = text.find(mark, position + 1)
            if position < 0:
                break
        else:
            return False
    return True


def count_values(text: bytes) -> int:
    """Counts the members and elements of all objects and arrays of a text.

    Raises ConversionError (TOO_MANY_VALUES) past the limits.
    """
    commas = containers = colons = 0
    before = b""
    for skeleton in _skeletons(text):
        marks = before + skeleton.translate(None, _SPACES)
        before = marks[-1:]
        commas += skeleton.count(b",")
        colons += skeleton.count(b":")
        containers += skeleton.count(b"[") + skeleton.count(b"{")
        containers -= marks.count(b"[]") + marks.count(b"{}")
        # Each container that is not empty has one value more than commas.
        if commas + containers > MAX_VALUES:
            raise too_many_values()
    if colons > MAX_KEYS:
        _check_keys(text)
    return commas + containers


def _check_keys(text: bytes) -> None:
    """Raises ConversionError (TOO_MANY_VALUES) for an object of too many keys."""
    keys: list[int] = []  # Number of keys of each open object; 0 for an open array.
    for skeleton in _skeletons(text):
        for mark in _MARK.findall(skeleton):
            if mark in b"{[":
                keys.append(0)
            elif mark in b"}]" and keys:
                keys.pop()
            elif mark == b":" and keys:
                keys[-1] += 1
                if keys[-1] > MAX_KEYS:
                    raise too_many_keys()


def _skeletons(text: bytes) -> Iterator[bytes]:
    """Yields a text slice by slice, with one quote in place of each string.

    The text need not be JSON. Regular expressions take too long here, and hold the GIL.
    """
    inside = 0
    for part in _slices(text):
        unescaped = part.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in part else part
        pieces = unescaped.split(b'"')
        yield b'"' * inside + b'"'.join(pieces[inside::2])
        inside = (inside + len(pieces) - 1) % 2


def _slices(text: bytes) -> Iterator[bytes]:
    """Yields a text in slices that end in no escape."""
    start = 0
    while start < len(text):
        take_turn()
        end = start + SCANNED
        if text[end - 1 : end] == b"\\" and (rest := _REST_OF_ESCAPE.match(text, end)):
            end = rest.end()
        yield text[start:end]
        start = end


def too_many_keys() -> ConversionError:
    """Error for an object of more than MAX_KEYS keys."""
    return ConversionError("TOO_MANY_VALUES", "", f"an object has more than {MAX_KEYS:,} keys")


def too_many_values() -> ConversionError:
    """Error for a text of more than MAX_VALUES values."""
    message = f"the text has more than {MAX_VALUES:,} values"
    return ConversionError("TOO_MANY_VALUES", "", message)


def _is_deeper(text: bytes, max_depth: int) -> bool:
    """True for nesting deeper than `max_depth` in a text that is JSON otherwise."""
    if len(text) <= 2 * max_depth or _are_rare(text, b"{", b"["):
        return False
    brackets = _brackets(text).translate(_OBJECTS_TO_ARRAYS)
    for _ in range(max_depth):
        if not brackets:
            return False
        brackets = brackets.replace(b"[]", b"")
    return bool(brackets)


def _brackets(text: bytes) -> bytes:
    """Brackets of a text that are in no string."""
    return b"".join(part.translate(None, _NO_BRACKETS) for part in _skeletons(text))


def closing_brackets(text: bytes) -> bytes:
    """Brackets that close the objects and arrays left open by the start of a text."""
    closers = bytearray()
    for bracket in _brackets(text):
        if bracket in b"{[":
            closers.append(bracket + 2)  # In ASCII the closing bracket is the next but one.
        elif closers:
            closers.pop()
    return bytes(reversed(closers))


def members(text: bytes) -> dict[str, bytes]:
    """Raw JSON text of each value, by key, of an object that `parse` has accepted."""
    take_turn()
    raws = _MEMBERS.decode(text)
    take_turn()
    return {name: bytes(raw) for name, raw in raws.items()}


def join_members(raws: Mapping[str, bytes]) -> bytes:
    """Object that has these raw values: the inverse of `members`."""
    take_turn()
    pieces = [b"{"]
    for name, raw in raws.items():
        pieces += quote(name), b":", raw, b","
    pieces[-1:] = [b"}"] if raws else [b"{}"]
    return b"".join(pieces)


def are_members(text: bytes, raws: Mapping[str, bytes]) -> bool:
    """True for an object, joined of raw values, that is read as these values again."""
    try:
        parse(text)
    except ConversionError:
        return False
    return members(text) == raws


def elements(text: bytes) -> list[bytes]:
    """Raw JSON text of each value of an array that `parse` has accepted."""
    take_turn()
    raws = _ELEMENTS.decode(text)
    take_turn()
    return [bytes(raw) for raw in raws]


def join_elements(raws: Iterable[bytes]) -> bytes:
    """Array that has these raw values: the inverse of `elements`."""
    pieces = [b"["]
    for raw in raws:
        pieces += raw, b","
    pieces[-1:] = [b"]"] if len(pieces) > 1 else [b"[]"]
    take_turn()
    return b"".join(pieces)
