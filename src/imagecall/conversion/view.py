"""An item as most code wants it: what it holds, whichever variant it is."""

import base64
import re
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.message import Message

from imagecall.conversion.converter import CALLS
from imagecall.conversion.fields import spellings
from imagecall.formats import image_format
from imagecall.json.text import JsonValue, parse
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall
from imagecall.v1.image_generation_status_pb2 import ImageGenerationStatus
from imagecall.v1.image_result_pb2 import ImageResult

_STATUSES: Final = {n: text for text, n in spellings(ImageGenerationStatus.DESCRIPTOR).items()}
_DATA_URL: Final = re.compile(r"data:[^,]*;base64,", re.IGNORECASE)


@dataclass(frozen=True)
class CallView:
    """What an item holds, by the names of its JSON keys.

    Attributes:
        variant: the field name of the oneof of ImageGenerationCall.
        type: the value of "type".
        id: the value of "id". None: the key is absent.
        status: the value of "status", as it is spelled in JSON. None: the key is absent.
        has_result: whether there is a "result" key.
        result: bytes of an image, text that is not canonical base64, or None for null or absent.
        image_b64: the value of "imageB64", where the variant has it, as result.
        declared_format: the value of "output_format", if it is a string. None: it is not.
    """

    variant: str
    type: str
    id: str | None
    status: str | None
    has_result: bool
    result: bytes | str | None
    declared_format: str | None
    image_b64: bytes | str | None

    @property
    def image(self) -> bytes | None:
        """The image, of "result" or else of "imageB64".

        Also out of a data: URL, and out of text that is base64 without padding, with line breaks or
        in the URL alphabet, if its first bytes are those of an image. None: there is none, or it
        stands behind a URL.
        """
        return _image(self.result) or _image(self.image_b64)

    @property
    def format(self) -> str | None:
        """The format that the first bytes of the image show, such as "png"; see image_format."""
        image = self.image
        return None if image is None else image_format(image)


def view(call: ImageGenerationCall) -> CallView:
    """What an item holds, whichever variant it is; an UnknownItem has no more than a type.

    Raises ConversionError: EMPTY_ONEOF if no variant is set, and for extra fields that are no JSON.
    """
    variant = CALLS.chosen(call)
    message = getattr(call, variant.name)
    result = _get(message, "result")
    base64_result = _get(message, "image_b64")
    other_status = _get(message, "unknown_status")
    known_status = _STATUSES.get(getattr(message, "status", 0))
    return CallView(
        variant=variant.name,
        type=variant.plan.tag or message.type,
        id=_get(message, "id"),
        status=known_status if other_status is None else other_status,
        has_result=result is not None,
        result=None if result is None else _value(result),
        declared_format=_string(message, "output_format"),
        image_b64=None if base64_result is None else _value(base64_result),
    )


def _get(message: Message, field: str) -> Any:
    """The value of a field; None if the variant lacks it or it is not set."""
    if field not in message.DESCRIPTOR.fields_by_name or not message.HasField(field):
        return None
    return getattr(message, field)


def _value(result: ImageResult) -> bytes | str | None:
    kind = result.WhichOneof("kind")
    return None if kind in (None, "null_value") else getattr(result, kind)


def _string(message: Any, key: str) -> str | None:
    """The string value of a key that has a field, or stands among the extra fields."""
    value: JsonValue = _get(message, key)
    if value is None:
        extras = getattr(message, "extra_fields", ())
        text = next((extra.json for extra in extras if extra.name == key), "null")
        value = parse(text.encode())
    return value if isinstance(value, str) else None


def _image(result: bytes | str | None) -> bytes | None:
    """The image that a value like that of "result" holds; None if it holds none."""
    if not isinstance(result, str):
        return result or None
    found = _DATA_URL.match(result)
    image = _lenient_base64(result[found.end() :] if found else result)
    return image if image and (found or image_format(image)) else None


def _lenient_base64(text: str) -> bytes | None:
    """The bytes of base64 in either alphabet, padded or not, with or without line breaks."""
    compact = "".join(text.split()).rstrip("=")
    altered = compact.replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(altered + "=" * (-len(altered) % 4), validate=True)
    except ValueError:
        return None
