"""A JSON text that is written, as a list of pieces in the order of the text.

A piece is bytes, or a large image, which becomes base64 only when the text is joined or sent. An
image thus stands where its piece stands, and nothing in the text is ever searched for its place.
"""

import io
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from pybase64 import b64encode

from imagecall.json.text import check_depth, quote, too_large
from imagecall.sizes import PIECE, SLICE

Data: TypeAlias = Sequence[bytes | memoryview]
"""The bytes of one image, in parts of any length."""


@dataclass(frozen=True)
class LargeImage:
    """An image that becomes base64 in the text."""

    data: Data

    @property
    def size(self) -> int:
        """Number of bytes of its base64."""
        return 4 * -(-sum(map(len, self.data)) // 3)

    def slices(self) -> Iterator[bytes]:
        """Its base64, of at most 1 MiB and a little at a time."""
        rest = b""
        for part in self.data:
            for start in range(0, len(part), SLICE):
                data: bytes | memoryview = part[start : start + SLICE]
                if rest:
                    data = rest + data
                whole = len(data) // 3 * 3
                rest = bytes(data[whole:])
                yield b64encode(data[:whole])
        if rest:
            yield b64encode(rest)


Piece: TypeAlias = bytes | LargeImage
"""A piece of a text."""

Apart: TypeAlias = Mapping[str, Data]
"""The large images that stand beside a message, which has no bytes in their place.

The key is the path of the field: names from the message on, as ChunkEnd.field has them.
"""

NOTHING_APART: Final[Apart] = {}
"""All images are in the message."""


def under(apart: Apart, prefix: str) -> Apart:
    """The images of the message at a path, which is the prefix of theirs."""
    if not apart:
        return apart
    start = prefix + "."
    return {path[len(start) :]: data for path, data in apart.items() if path.startswith(start)}


def image_piece(image: bytes) -> Piece:
    """An image as a piece of a text."""
    return b64encode(image) if len(image) < PIECE else LargeImage((image,))


def join_member_pieces(values: Mapping[str, Sequence[Piece]]) -> list[Piece]:
    """The object that has these values: `join_members` for pieces."""
    pieces: list[Piece] = []
    for name, value in values.items():
        pieces += b"," if pieces else b"{", quote(name), b":", *value
    return [*pieces, b"}"] if pieces else [b"{}"]


def join_element_pieces(values: Iterable[Sequence[Piece]]) -> list[Piece]:
    """The array that has these values: `join_elements` for pieces."""
    pieces: list[Piece] = []
    for value in values:
        pieces += b"," if pieces else b"[", *value
    return [*pieces, b"]"] if pieces else [b"[]"]


def check_depth_of(pieces: list[Piece]) -> list[Piece]:
    """The same pieces, which are those of a text that was put together.

    Raises ConversionError if it is nested too deep, or has too many values; an image changes
    neither, as it stands between quotes.
    """
    check_depth(b"".join([piece for piece in pieces if isinstance(piece, bytes)]))
    return pieces


def size_of(pieces: Iterable[Piece]) -> int:
    """Number of bytes of the text that these pieces make up."""
    return sum(len(piece) if isinstance(piece, bytes) else piece.size for piece in pieces)


def slices_of(pieces: Iterable[Piece]) -> Iterator[bytes]:
    """The text that these pieces make up, of at most 1 MiB and a little at a time."""
    texts: list[bytes] = []
    for piece in pieces:
        if isinstance(piece, bytes):
            texts.append(piece)
        else:
            yield from _cut(b"".join(texts))
            texts = []
            yield from piece.slices()
    yield from _cut(b"".join(texts))


def _cut(text: bytes) -> Iterator[bytes]:
    return (text[start : start + SLICE] for start in range(0, len(text), SLICE))


def join(pieces: Sequence[Piece], max_bytes: int = sys.maxsize) -> bytes:
    """The text that these pieces make up. Raises ConversionError: TOO_LARGE."""
    try:
        text = b"".join(pieces)  # type: ignore[arg-type]  # a LargeImage makes it raise TypeError
    except TypeError:
        if (size := size_of(pieces)) > max_bytes:
            raise too_large(size, max_bytes) from None
        return _join_large(pieces)
    if len(text) > max_bytes:
        raise too_large(len(text), max_bytes)
    return text


def _join_large(pieces: Iterable[Piece]) -> bytes:
    text = io.BytesIO()
    for piece in pieces:
        if isinstance(piece, bytes):
            text.write(piece)
        else:
            text.writelines(piece.slices())
    return text.getvalue()
