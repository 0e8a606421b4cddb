"""Forms of type multipart/form-data (RFC 7578), parsed while they arrive, within limits.

The names of files are not used: a part is a file if it has a name, whatever the name is.
"""

import logging
import re
from dataclasses import dataclass, field
from typing import Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.exceptions import HTTPException

from imagecall.errors import ConversionError, quoted

FORM: Final = "multipart/form-data"
"""Media type of a form."""

MAX_PARTS: Final = 100
"""Most parts of a form. The Images API has 16 images and some 20 further keys."""

_MAX_HEADERS: Final = 8
_MAX_HEADER_BYTES: Final = 4096
_BOUNDARY: Final = re.compile(rb"[\w'()+,./:=? -]{0,69}[\w'()+,./:=?-]", re.ASCII)
"""Boundary: RFC 2046, section 5.1.1."""

_DISPOSITION: Final = b"content-disposition"
_ENCODING: Final = b"content-transfer-encoding"
_IDENTITIES: Final = (b"binary", b"8bit", b"7bit")

# Its warnings about malformed forms would be lines for each request of an attacker.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)


@dataclass
class Part:
    """Part of a form.

    Attributes:
        name: name of the field.
        is_file: true for a part with the name of a file.
        pieces: content, as it arrived.
    """

    name: str = ""
    is_file: bool = False
    pieces: list[bytes] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes of the content."""
        return sum(map(len, self.pieces))

    def content(self) -> bytes:
        """Returns the whole content."""
        return b"".join(self.pieces)

    def text(self) -> str:
        """Returns the content as text. Raises ConversionError: NOT_UTF8."""
        try:
            return self.content().decode()
        except UnicodeDecodeError:
            message = f"the field {quoted(self.name)} is not UTF-8"
            raise ConversionError("NOT_UTF8", "", message) from None


class FormReader:
    """Reads a form from the pieces of a body.

    Raises HTTPException: 400 for a malformed form; ConversionError: TOO_MANY_VALUES.

    Args:
        content_type: value of the header, with the boundary.
    """

    def __init__(self, content_type: str) -> None:
        _, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if not _BOUNDARY.fullmatch(boundary):
            raise _malformed("its Content-Type has no boundary of 1 to 70 characters")
        self._boundary = b"--" + boundary
        self._boundaries = 0
        self._parts: list[Part] = []
        self._header = b""
        self._value = b""
        self._has_name = False
        self._ended = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._add_to_header,
                "on_header_value": self._add_to_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._end_headers,
                "on_part_data": self._add,
                "on_end": self._end,
            },
            max_header_count=_MAX_HEADERS,
            max_header_size=_MAX_HEADER_BYTES,
        )

    def write(self, data: bytes) -> None:
        """Parses the next piece of the body."""
        # Each boundary takes the parser a microsecond, even one that ends no part.
        self._boundaries += data.count(self._boundary)
        if self._boundaries > MAX_PARTS + 1:
            raise _too_many_parts()
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise _malformed(str(error)) from None

    def finish(self) -> list[Part]:
        """Returns the parts of the complete form."""
        if not self._ended:
            raise _malformed("it ends before its last boundary")
        return self._parts

    def _begin(self) -> None:
        if len(self._parts) == MAX_PARTS:
            raise _too_many_parts()
        self._parts.append(Part())
        self._has_name = False

    def _add_to_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _add_to_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        header, value = self._header.lower(), self._value
        self._header = self._value = b""
        if header == _ENCODING and value.strip().lower() not in _IDENTITIES:
            raise _malformed("a part has a Content-Transfer-Encoding: RFC 7578, section 4.7")
        if header != _DISPOSITION:
            return
        kind, options = parse_options_header(value)
        if kind != b"form-data" or b"name" not in options or self._has_name:
            raise _malformed("a part has no Content-Disposition with one name")
        try:
            self._parts[-1].name = options[b"name"].decode()
        except UnicodeDecodeError:
            raise _malformed("the name of a part is not UTF-8") from None
        self._parts[-1].is_file = not options.keys().isdisjoint((b"filename", b"filename*"))
        self._has_name = True

    def _end_headers(self) -> None:
        if not self._has_name:
            raise _malformed("a part has no Content-Disposition with one name")

    def _add(self, data: bytes, start: int, end: int) -> None:
        self._parts[-1].pieces.append(data[start:end])

    def _end(self) -> None:
        self._ended = True


def _too_many_parts() -> ConversionError:
    return ConversionError("TOO_MANY_VALUES", "", f"the form has more than {MAX_PARTS} parts")


def _malformed(fault: str) -> HTTPException:
    return HTTPException(400, f"the form is malformed: {fault}")
