"""JSON text to be written, as a list of pieces in the order of the text.

A piece is bytes, or a large image, which is encoded as base64 only when the text is joined or sent.
The order of the pieces gives each image its place, so that the text is never searched for it.
"""

import io
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from pybase64 import b64encode

from imagecall.json.large_strings import LargeBase64
from imagecall.json.text import check_depth, quote, too_large
from imagecall.sizes import PIECE, SLICE
from imagecall.turns import take_turn

Data: TypeAlias = Sequence[bytes | memoryview]
"""Bytes of one image, in parts of any length."""


@dataclass(frozen=True)
class LargeImage:
    """Image that is encoded as base64 when the text is joined or sent."""

    data: Data

    @property
    def size(self) -> int:
        """Length of the base64, in bytes."""
        return 4 * -(-sum(map(len, self.data)) // 3)

    def slices(self) -> Iterator[bytes]:
        """Yields the base64, in slices of little more than 1 MiB at most."""
        rest = b""
        for part in self.data:
            view = memoryview(part)
            for start in range(0, len(part), SLICE):
                data: bytes | memoryview = view[start : start + SLICE]
                if rest:
                    data = rest + data
                whole = len(data) // 3 * 3
                rest = bytes(data[whole:])
                take_turn()
                yield b64encode(data[:whole])
        if rest:
            yield b64encode(rest)


Piece: TypeAlias = bytes | LargeImage
"""Piece of a text."""

_Joined: TypeAlias = bytes | memoryview | LargeImage | LargeBase64
"""Piece of a text, or of a serialized message."""

_BYTES: Final = (bytes, memoryview)

Apart: TypeAlias = Mapping[str, Data]
"""Large images kept beside a message, in which their fields are empty.

The key is the path of the field: names from the message on, as in ChunkEnd.field.
"""

NOTHING_APART: Final[Apart] = {}
"""Value of `apart` for a message that holds all its images itself."""


def under(apart: Apart, prefix: str, separator: str = ".") -> Apart:
    """Images of the inner message at the path `prefix`, by their paths within that message."""
    if not apart:
        return apart
    start = prefix + separator
    return {path[len(start) :]: data for path, data in apart.items() if path.startswith(start)}


def under_each(apart: Apart, name: str) -> defaultdict[int, Apart]:
    """Images of the elements of the repeated field `name`, by index, as `under` returns them."""
    found: defaultdict[int, Any] = defaultdict(dict)
    for path, data in under(apart, name, "[").items():
        index, _, inner = path.partition("].")
        found[int(index)][inner] = data
    return found


def image_piece(image: bytes | memoryview) -> Piece:
    """Piece of a text for an image."""
    return b64encode(image) if len(image) < PIECE else LargeImage((image,))


def join_member_pieces(values: Mapping[str, Sequence[Piece]]) -> list[Piece]:
    """Object that has these values: `join_members` for pieces."""
    pieces: list[Piece] = []
    for name, value in values.items():
        pieces += b"," if pieces else b"{", quote(name), b":", *value
    return [*pieces, b"}"] if pieces else [b"{}"]


def join_element_pieces(values: Iterable[Sequence[Piece]]) -> list[Piece]:
    """Array that has these values: `join_elements` for pieces."""
    pieces: list[Piece] = []
    for value in values:
        pieces += b"," if pieces else b"[", *value
    return [*pieces, b"]"] if pieces else [b"[]"]


def check_depth_of(pieces: list[Piece]) -> list[Piece]:
    """Returns the pieces unchanged if the text that they make up is within the limits.

    Raises ConversionError if the text is nested too deep, or has too many values; an image changes
    neither, as an image is inside quotes.
    """
    take_turn()
    check_depth(b"".join([piece for piece in pieces if isinstance(piece, bytes)]))
    return pieces


def size_of(pieces: Iterable[_Joined]) -> int:
    """Length of what these pieces make up, in bytes."""
    return sum(len(piece) if isinstance(piece, _BYTES) else piece.size for piece in pieces)


def slices_of(pieces: Iterable[Piece]) -> Iterator[bytes]:
    """Yields the text that these pieces make up, in slices of little more than 1 MiB at most."""
    for piece in merged(pieces):
        if isinstance(piece, bytes):
            yield from (piece[start : start + SLICE] for start in range(0, len(piece), SLICE))
        else:
            yield from piece.slices()


def merged(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Yields the pieces, with the texts between the images joined."""
    texts: list[bytes] = []
    for piece in pieces:
        if isinstance(piece, bytes):
            texts.append(piece)
        else:
            yield b"".join(texts)
            texts = []
            yield piece
    yield b"".join(texts)


def join(pieces: Sequence[_Joined], max_bytes: int = sys.maxsize) -> bytes:
    """Joins pieces to the text that they make up. Raises ConversionError: TOO_LARGE.

    The pieces of a serialized message are joined likewise.
    """
    take_turn()
    try:
        text = b"".join(pieces)  # type: ignore[arg-type]  # a large image makes it raise TypeError
    except TypeError:
        if (size := size_of(pieces)) > max_bytes:
            raise too_large(size, max_bytes) from None
        whole = io.BytesIO(bytes(size))  # Of the final size: a buffer that grows is slower.
        for piece in pieces:
            if isinstance(piece, _BYTES):
                whole.write(piece)
            else:
                whole.writelines(piece.slices())
        return whole.getvalue()
    if len(text) > max_bytes:
        raise too_large(len(text), max_bytes)
    return text
