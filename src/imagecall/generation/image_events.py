"""Events from which the answer of a service, or of an API without events of its own, is made."""

from dataclasses import dataclass
from typing import TypeAlias

from imagecall.v1.image_response_pb2 import Usage


@dataclass(frozen=True)
class PartialImage:
    """The current image so far. Left out of answers whose request has enough of them.

    Args:
        data: a whole image file, such as a PNG. Not empty.
    """

    data: bytes

    def __post_init__(self) -> None:
        _check(self.data)


@dataclass(frozen=True)
class FinalImage:
    """A finished image. What the generator yields after it belongs to the next image.

    Args:
        data: the image file, of any size. Not empty.
        revised_prompt: prompt that the image was drawn from. None: the answer has none.
        size: size in pixels, such as "1024x1024". None: the answer has none.
        quality: quality, such as "high". None: the answer has none.
        background: background, such as "opaque". None: the answer has none.
    """

    data: bytes
    revised_prompt: str | None = None
    size: str | None = None
    quality: str | None = None
    background: str | None = None

    def __post_init__(self) -> None:
        _check(self.data)


@dataclass(frozen=True)
class ImageLink:
    """A finished image of which the API sent only the URL. Not for the generator of a service.

    Args:
        url: URL of the image.
        revised_prompt: prompt that the image was drawn from. None: the answer has none.
        size: size in pixels, such as "1024x1024". None: the answer has none.
        quality: quality, such as "high". None: the answer has none.
        background: background, such as "opaque". None: the answer has none.
    """

    url: str
    revised_prompt: str | None = None
    size: str | None = None
    quality: str | None = None
    background: str | None = None


@dataclass(frozen=True)
class Message:
    """Text of the service after the images, or in place of an image that it refuses to draw.

    Agents repeat a request until an answer has a message.
    """

    text: str


Event: TypeAlias = PartialImage | FinalImage | Message | Usage
"""Event of a generation: an image, a text, or the tokens and cost of the whole answer."""


def _check(data: object) -> None:
    if not isinstance(data, bytes):
        raise TypeError(f"the data of an image must be bytes, not {type(data).__name__}")
    if not data:
        raise ValueError("the data of an image is empty")
