"""Facts of a serialized item: id, status, and the format, size and SHA-256 of its image."""

import hashlib
from typing import NamedTuple

from imagecall.conversion.view import CallView, view
from imagecall.formats import MAX_PROLOG_BYTES, image_format
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall
from imagecall.wire.cost import parsed
from imagecall.wire.splice import detach_images


class Facts(NamedTuple):
    """Facts of an item; None where it has none.

    Attributes:
        id: the value of "id".
        status: the value of "status".
        format: format of the image by its first bytes, such as "png".
        size: bytes of the image.
        sha256: SHA-256 of the image, in lowercase hexadecimal digits.
    """

    id: str | None = None
    status: str | None = None
    format: str | None = None
    size: int | None = None
    sha256: str | None = None


def facts_of(message: bytes) -> Facts:
    """Facts of a serialized ImageGenerationCall. Raises ConversionError.

    A large image is not copied.
    """
    call, image = _image_apart(message)
    if image is None:
        return Facts(call.id, call.status)
    format = image_format(bytes(image[:MAX_PROLOG_BYTES]))
    return Facts(call.id, call.status, format, len(image), hashlib.sha256(image).hexdigest())


def image_in(message: bytes) -> bytes | memoryview | None:
    """Image of a serialized ImageGenerationCall, not copied if it is large; None for none.

    Raises ConversionError.
    """
    return _image_apart(message)[1]


def _image_apart(message: bytes) -> tuple[CallView, bytes | memoryview | None]:
    short, images = detach_images(message, ImageGenerationCall.DESCRIPTOR)
    call = view(parsed(ImageGenerationCall, short))
    for (image,) in images.values():
        return call, image
    return call, call.image
