"""Read-only view of an item, the same for all variants."""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from imagecall.conversion.converter import CALLS
from imagecall.conversion.fields import spellings
from imagecall.conversion.short_reprs import short_repr
from imagecall.formats import image_format
from imagecall.json.text import JsonValue, parse
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall
from imagecall.v1.image_generation_status_pb2 import ImageGenerationStatus
from imagecall.v1.image_result_pb2 import ImageResult

_STATUSES: Final = {n: text for text, n in spellings(ImageGenerationStatus.DESCRIPTOR).items()}
_DATA_URL: Final = re.compile(r"data:[^,]*;base64,", re.IGNORECASE)


@dataclass(frozen=True, repr=False)
class CallView:
    """Values of an item, named by its JSON keys. Its repr has the size of an image, in its place.

    Attributes:
        variant: the field name of the oneof of ImageGenerationCall.
        type: the value of "type".
        id: the value of "id". None: the key is absent.
        status: the value of "status", as it is spelled in JSON. None: the key is absent.
        has_result: True if there is a "result" key.
        result: bytes of an image, text that is not canonical base64, or None for null or absent.
        image_b64: the value of "imageB64", where the variant has that key, typed as `result`.
        declared_format: the value of "output_format". None: absent, or not a string.
    """

    variant: str
    type: str
    id: str | None
    status: str | None
    has_result: bool
    result: bytes | str | None
    declared_format: str | None
    image_b64: bytes | str | None

    def __repr__(self) -> str:
        shown = (f"{each.name}={short_repr(getattr(self, each.name))}" for each in fields(self))
        return f"{type(self).__name__}({', '.join(shown)})"

    @property
    def image(self) -> bytes | None:
        """Image of "result", or else of "imageB64".

        Decodes data: URLs too, and text that is base64 without padding, with line breaks or in the
        URL alphabet, if its first bytes are those of an image. None: there is no image, or only its
        URL.
        """
        return image_in(self.result) or image_in(self.image_b64)

    @property
    def format(self) -> str | None:
        """Format of the image by its first bytes, such as "png"; see `image_format`."""
        image = self.image
        return None if image is None else image_format(image)


def view(call: ImageGenerationCall) -> CallView:
    """Returns the values of an item of any variant; an UnknownItem has only a type.

    Raises ConversionError: EMPTY_ONEOF if no variant is set, and as `parse` does for an extra field
    that is not JSON.
    """
    variant = CALLS.chosen(call)
    message = getattr(call, variant.name)
    values = {field.name: value for field, value in message.ListFields()}
    return CallView(
        variant=variant.name,
        type=variant.plan.tag or message.type,
        id=values.get("id"),
        status=values.get("unknown_status", _STATUSES.get(values.get("status", 0))),
        has_result="result" in values,
        result=_value(values.get("result")),
        declared_format=_string(values, "output_format"),
        image_b64=_value(values.get("image_b64")),
    )


def _value(result: ImageResult | None) -> bytes | str | None:
    kind = None if result is None else result.WhichOneof("kind")
    return None if kind in (None, "null_value") else getattr(result, kind)


def _string(values: Mapping[str, Any], key: str) -> str | None:
    """String value of a key, from its field or from the extra fields; None for no string."""
    value: JsonValue = values.get(key)
    if value is None:
        extras = values.get("extra_fields", ())
        text = next((extra.json for extra in extras if extra.name == key), None)
        value = None if text is None else parse(text.encode())
    return value if isinstance(value, str) else None


def image_in(result: bytes | str | None) -> bytes | None:
    """Image in a value such as that of "result", decoded as in CallView.image; None without one."""
    if not isinstance(result, str):
        return result or None
    data_url = _DATA_URL.match(result)
    image = _lenient_base64(result[data_url.end() :] if data_url else result)
    return image if image and (data_url or image_format(image)) else None


def _lenient_base64(text: str) -> bytes | None:
    """Decodes base64 in either alphabet, with or without padding and line breaks; else None."""
    compact = "".join(text.split()).rstrip("=")
    altered = compact.replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(altered + "=" * (-len(altered) % 4), validate=True)
    except ValueError:
        return None
