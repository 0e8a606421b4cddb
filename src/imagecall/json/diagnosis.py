"""Finds the reason and the place for which the parser rejected a JSON text, by slow, exact reading.

The rules are those of imagecall.json.text. The first violation in the text is reported.
"""

import json
import re
from dataclasses import dataclass, field
from typing import Final

from imagecall.errors import ConversionError, pointer_to, quoted
from imagecall.sizes import SCANNED
from imagecall.turns import take_turn

MAX_DEPTH: Final = 100
"""Deepest nesting of arrays and objects in a text; the outermost counts as 1."""

MAX_DIGITS: Final = 4300
"""Most digits of the integer part of a number."""

_MAX_TOKENS: Final = 100_000
_TOKENS_OF_A_TURN: Final = 1000
_BYTE_ORDER_MARKS: Final = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")

_TOKEN: Final = re.compile(
    rb"[ \t\n\r]*+(?:"
    rb"(?P<mark>[{}\[\]:,])"
    rb'|(?P<string>")'
    rb"|(?P<number>-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?(?![0-9.a-zA-Z]))"
    rb"|(?P<literal>(?:true|false|null)(?![0-9a-zA-Z]))"
    rb"|(?P<infinite>-?(?:NaN|Infinity))"
    rb"|(?P<end>\Z))"
)
_AFTER_SPACES: Final = re.compile(rb"[ \t\n\r]*+.?", re.DOTALL)
_CHARACTERS: Final = re.compile(
    rb'[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*'
)
"""Characters of a string, up to its closing quote or its first fault.

No group is possessive, here or in _TOKEN: in Python 3.11.2, one keeps the start of what does not
match.
"""


@dataclass
class _Container:
    """Object or array that is open, and the place in it."""

    is_object: bool
    place: str | int | None
    """Key or index of the current value. None: no key has been read."""
    keys: set[str] = field(default_factory=set)


@dataclass
class _Reader:
    """Reads tokens up to the first violation."""

    text: bytes
    max_depth: int
    stack: list[_Container] = field(default_factory=list)
    expected: str = "a value"
    offset: int = 0

    def error(self, reason: str, message: str) -> ConversionError:
        places = (container.place for container in self.stack)
        pointer = pointer_to(*(place for place in places if place is not None))
        return ConversionError(reason, pointer, message)

    def malformed(self) -> ConversionError:
        end = len(self.text.rstrip(b" \t\n\r"))
        where = f"at byte {self.offset}" if self.offset < end else "at its end"
        return self.error("NOT_JSON", f"the text is not JSON {where}: expected {self.expected}")

    def read(self) -> None:
        """Raises ConversionError at the first violation."""
        bad_utf8 = _first_bad_utf8(self.text)
        for number in range(_MAX_TOKENS):
            if number % _TOKENS_OF_A_TURN == 0:
                take_turn()
            kind, start, end = _token_at(self.text, self.offset)
            if bad_utf8 < end:
                raise self.encoding_error(bad_utf8)
            if not kind:
                raise self.malformed()
            self.offset = start
            self.take(kind, self.text[start:end])
            if kind == "end":
                return
            self.offset = end
        message = f"the text is refused at a place after its first {_MAX_TOKENS:,} tokens"
        raise ConversionError("NOT_JSON", "", message)

    def encoding_error(self, offset: int) -> ConversionError:
        if b"\xed\xa0" <= self.text[offset : offset + 2] <= b"\xed\xbf":
            return self.surrogate_error()
        return self.error("NOT_UTF8", f"the text is not UTF-8 at byte {offset}")

    def surrogate_error(self) -> ConversionError:
        return self.error("LONE_SURROGATE", "a string has half of a surrogate pair")

    def take(self, kind: str, token: bytes) -> None:
        """Checks one token against `expected`, and sets `expected` for the next."""
        if kind == "mark":
            self.take_mark(token)
        elif kind == "string" and self.expected in ("a key", "a key or }"):
            self.take_key(token)
        elif kind == "end":
            if self.expected != "the end":
                raise self.malformed()
        elif self.expected in ("a value", "a value or ]"):
            self.check_scalar(kind, token)
            self.after_value()
        else:
            raise self.malformed()

    def check_scalar(self, kind: str, token: bytes) -> None:
        if kind == "infinite":
            raise self.error("NON_FINITE_NUMBER", "NaN and Infinity are not JSON numbers")
        if kind == "number" and (digits := len(re.findall(rb"[0-9]+", token)[0])) > MAX_DIGITS:
            message = (
                f"a number has {digits:,} digits before its decimal point; "
                f"the limit is {MAX_DIGITS:,}"
            )
            raise self.error("NUMBER_TOO_LONG", message)
        if kind == "string" and b"\\u" in token and _is_lone_surrogate(json.loads(token)):
            raise self.surrogate_error()

    def after_value(self) -> None:
        if not self.stack:
            self.expected = "the end"
        else:
            self.expected = "a comma or }" if self.stack[-1].is_object else "a comma or ]"

    def take_key(self, token: bytes) -> None:
        key = json.loads(token)
        if _is_lone_surrogate(key):
            raise self.surrogate_error()
        top = self.stack[-1]
        top.place = key
        if key in top.keys:
            raise self.error("DUPLICATE_KEY", f"an object has the key {quoted(key)} twice")
        top.keys.add(key)
        self.expected = "a colon"

    def take_mark(self, mark: bytes) -> None:
        match mark, self.expected:
            case ((b"{" | b"["), ("a value" | "a value or ]")):
                if len(self.stack) == self.max_depth:
                    message = f"arrays and objects are nested deeper than {MAX_DEPTH}"
                    raise self.error("TOO_DEEP", message)
                self.stack.append(_Container(mark == b"{", None if mark == b"{" else 0))
                self.expected = "a key or }" if mark == b"{" else "a value or ]"
            case b":", "a colon":
                self.expected = "a value"
            case b",", "a comma or }":
                self.stack[-1].place = None
                self.expected = "a key"
            case b",", "a comma or ]":
                self.stack[-1].place = int(self.stack[-1].place or 0) + 1
                self.expected = "a value"
            case (b"}", "a key or }" | "a comma or }") | (b"]", "a value or ]" | "a comma or ]"):
                self.stack.pop()
                self.after_value()
            case _:
                raise self.malformed()


def _first_bad_utf8(text: bytes) -> int:
    """Offset of the first byte that is not UTF-8, or the length of the text."""
    try:
        text.decode()
    except UnicodeDecodeError as error:
        return error.start
    return len(text)


def _token_at(text: bytes, offset: int) -> tuple[str, int, int]:
    """Kind, start and end of the token at `offset`; kind "" and its first fault if malformed."""
    match = _TOKEN.match(text, offset)
    if match is None:
        return "", offset, _AFTER_SPACES.match(text, offset).end()  # type: ignore[union-attr]  # matches anywhere
    kind = match.lastgroup or ""
    start, end = match.span(kind)
    if kind == "string":
        end = _end_of_characters(text, end)
        if text[end : end + 1] != b'"':
            return "", offset, end
        end += 1
    return kind, start, end


def _end_of_characters(text: bytes, position: int) -> int:
    """End of the characters of a string, which are read in slices."""
    end = -1
    while end != position:
        take_turn()
        end = position
        match = _CHARACTERS.match(text, position, position + SCANNED)
        position = match.end() if match else position
    return end


def _is_lone_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def diagnose(text: bytes, max_depth: int = MAX_DEPTH) -> ConversionError:
    """Error for a text that the parser rejected."""
    if text.startswith(_BYTE_ORDER_MARKS):
        return ConversionError("BYTE_ORDER_MARK", "", "the text begins with a byte order mark")
    try:
        _Reader(text, max_depth).read()
    except ConversionError as error:
        return error
    return ConversionError("NOT_JSON", "", "the text is not JSON that can be read")
