"""Large images of answers, kept out of their JSON until it is sent, and then sent in pieces.

A marker stands for each in the message, itself bytes, so that the JSON that is made of the message
has the marker's base64, where the image's belongs.
"""

import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from google.protobuf.message import Message
from pybase64 import b64encode

from imagecall.generation.chunked_fields import images
from imagecall.wire.chunks import Assembly

_LARGE_BYTES: Final = 64 * 1024
_PIECE_BYTES: Final = 768 * 1024
"""What becomes 1 MiB of base64."""

_SECRET: Final = secrets.token_bytes(12)
"""How each marker begins; its number follows."""

_NUMBER_BYTES: Final = 6
_MARKERS: Final = re.compile(b"(%b[A-Za-z0-9+/]{8})" % re.escape(b64encode(_SECRET)))
"""The base64 of markers."""


class _Image(NamedTuple):
    pieces: Sequence[bytes | memoryview]
    size: int
    digest: bytes = b""
    """SHA-256; empty if it was not needed yet."""

    def is_as(self, other: "_Image") -> bool:
        if self.digest and other.digest:
            return self.digest == other.digest
        return self.size == other.size and b"".join(self.pieces) == b"".join(other.pieces)


class LargeImages:
    """The large images of one answer."""

    def __init__(self) -> None:
        self._images: dict[bytes, _Image] = {}  # By the base64 of the marker.

    def keep(self, image: Assembly) -> bytes:
        """What is to stand in a message for an image that came in chunks: itself, or a marker."""
        if image.size <= _LARGE_BYTES:
            return image.whole()
        return self._marker(_Image(image.pieces(), image.size, image.digest))

    def take(self, message: Message) -> None:
        """Puts markers in the place of the large images of a message."""
        for place in images(message):
            if len(place.value) > _LARGE_BYTES:
                image: bytes = place.value
                place.value = self._marker(_Image([image], len(image)))

    def _marker(self, image: _Image) -> bytes:
        marker = _SECRET + len(self._images).to_bytes(_NUMBER_BYTES)
        # An image often comes twice, in its event and at the end: one copy is enough.
        same = (known for known in self._images.values() if known.is_as(image))
        self._images[b64encode(marker)] = next(same, image)
        return marker

    def size(self, text: bytes) -> int:
        """How many bytes the text has with its images."""
        return sum(
            4 * -(-self._images[part].size // 3) if part in self._images else len(part)
            for part in self._parts(text)
        )

    def pieces(self, text: bytes) -> Iterator[bytes]:
        """The text with its images, in pieces."""
        for part in self._parts(text):
            image = self._images.get(part)
            if image is None:
                yield part
                continue
            yield from _base64(image.pieces)

    def _parts(self, text: bytes) -> list[bytes]:
        """What is between the markers, and the markers."""
        return [part for part in _MARKERS.split(text) if part] if self._images else [text]


def _base64(pieces: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    """The base64 of pieces of any size, in pieces."""
    rest = b""
    for piece in pieces:
        for start in range(0, len(piece), _PIECE_BYTES):
            data = rest + piece[start : start + _PIECE_BYTES]
            whole = len(data) // 3 * 3
            rest = data[whole:]
            yield b64encode(memoryview(data)[:whole])
    yield b64encode(rest)
