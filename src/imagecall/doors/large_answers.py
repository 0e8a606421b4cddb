"""Large images of answers, kept out of their JSON until it is sent, and then sent in pieces.

A marker stands for each in the message, itself bytes, so that the JSON that is made of the message
has the marker's base64, where the image's belongs.
"""

import re
import secrets
from collections.abc import Iterator
from typing import Final

from google.protobuf.message import Message
from pybase64 import b64encode

from imagecall.large_values import images

_LARGE_BYTES: Final = 64 * 1024
_PIECE_BYTES: Final = 768 * 1024
"""What becomes 1 MiB of base64."""


class LargeImages:
    """The large images of one answer."""

    def __init__(self) -> None:
        self._images: dict[bytes, bytes] = {}  # By the base64 of the marker.
        self._markers: re.Pattern[bytes] | None = None

    def take(self, message: Message) -> None:
        """Puts markers in the place of the large images of a message."""
        for place in images(message):
            if len(place.value) > _LARGE_BYTES:
                place.value = self._marker(place.value)

    def _marker(self, image: bytes) -> bytes:
        marker: bytes = secrets.token_bytes(18)
        # An image often comes twice, in its event and at the end: one copy is enough.
        same = next((known for known in self._images.values() if known == image), image)
        self._images[b64encode(marker)] = same
        self._markers = re.compile(b"(%b)" % b"|".join(map(re.escape, self._images)))
        return marker

    def size(self, text: bytes) -> int:
        """How many bytes the text has with its images."""
        return sum(
            4 * -(-len(self._images[part]) // 3) if part in self._images else len(part)
            for part in self._parts(text)
        )

    def pieces(self, text: bytes) -> Iterator[bytes]:
        """The text with its images, in pieces."""
        for part in self._parts(text):
            image = self._images.get(part)
            if image is None:
                yield part
                continue
            view = memoryview(image)
            for start in range(0, len(image), _PIECE_BYTES):
                yield b64encode(view[start : start + _PIECE_BYTES])

    def _parts(self, text: bytes) -> list[bytes]:
        """What is between the markers, and the markers."""
        return [part for part in self._markers.split(text) if part] if self._markers else [text]
