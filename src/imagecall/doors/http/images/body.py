"""Bodies of the Images API, as JSON and as forms: their keys, input images and mask."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec
from google.protobuf.descriptor import FieldDescriptor
from pybase64 import b64encode

from imagecall.conversion.fields import INTEGERS
from imagecall.doors.http.images.form import Part
from imagecall.errors import ConversionError, pointer_to, quoted
from imagecall.formats import media_type
from imagecall.generation.images_api import SETTINGS
from imagecall.generation.user_message import image_from_url
from imagecall.json.text import JsonValue, encode, members, parse, quote, type_name
from imagecall.turns import take_turn
from imagecall.v1.image_generation_tool_pb2 import ImageMask
from imagecall.v1.image_request_pb2 import InputImage

COUNT: Final = "n"
STREAM: Final = "stream"
IMAGE_KEYS: Final = ("image", "images", "input_references")
"""Keys of input images: of self-hosted engines and forms, of OpenAI's JSON, of OpenRouter's."""

MASK: Final = "mask"
_IMAGE: Final = "image"
_NULL: Final = b"null"
_WHOLE_NUMBER: Final = re.compile(r"-?\d{1,9}", re.ASCII)
_BOOLEANS: Final = {"true": b"true", "false": b"false"}
_FIELD: Final = re.compile(r"([\w.:-]+)(?:\[([\w.:-]*)\])?(?:\[([\w.:-]*)\])?", re.ASCII)
"""Name of a field of a form: a key, and up to two inner keys, as in svg[reasoning][effort]."""


@dataclass(frozen=True)
class Body:
    """Body of a request.

    Attributes:
        keys: raw JSON text of each key that is not null, without the images and the mask.
        images: the input images.
        mask: the mask. None: there is none.
    """

    keys: dict[str, bytes]
    images: list[InputImage] = field(default_factory=list)
    mask: ImageMask | None = None


def body_from_json(text: bytes, max_bytes: int) -> Body:
    """Reads a JSON body. Raises ConversionError."""
    data = encode(text, max_bytes)
    value = parse(data)
    if not isinstance(value, dict):
        raise _wrong_type((), "an object", value)
    keys = {key: raw for key, raw in members(data).items() if raw != _NULL}
    images: list[InputImage] = []
    for key in IMAGE_KEYS:
        if keys.pop(key, None) is not None:
            images += _images(key, value[key])
    mask = None if keys.pop(MASK, None) is None else _mask(value[MASK])
    return Body(keys, images, mask)


def _images(key: str, value: JsonValue) -> Iterator[InputImage]:
    if not isinstance(value, list):
        yield _image(value, key)
        return
    for index, element in enumerate(value):
        take_turn()
        yield _image(element, key, index)


def _image(value: JsonValue, *tokens: str | int) -> InputImage:
    """Reads an input image: a URL, {"image_url": URL}, {"image_url": {"url": URL}} or a file."""
    match value:
        case str(url) | {"image_url": str(url)} | {"image_url": {"url": str(url)}} if url:
            return image_from_url(url)
        case {"file_id": str(name)} if name:
            return InputImage(file_id=name)
    raise _wrong_type(tokens, 'a URL, or an object with "image_url" or "file_id"', value)


def _mask(value: JsonValue) -> ImageMask:
    match value:
        case str(url) | {"image_url": str(url)} if url:
            return ImageMask(image_url=url)
        case {"file_id": str(name)} if name:
            return ImageMask(file_id=name)
    raise _wrong_type((MASK,), 'a URL, or an object with "image_url" or "file_id"', value)


def _wrong_type(tokens: Sequence[str | int], expected: str, value: JsonValue) -> ConversionError:
    name = quoted(str(tokens[0])) if tokens else "the body"
    kind = type_name(value)
    given = "another one" if kind in expected else kind
    message = f"{name} must be {expected}, not {given}"
    return ConversionError("WRONG_TYPE", pointer_to(*tokens), message)


def body_from_form(parts: Iterable[Part]) -> Body:
    """Reads the parts of a form. Raises ConversionError."""
    body = Body({})
    nested: dict[str, dict[str, JsonValue]] = {}
    mask = b""
    for part in parts:
        take_turn()
        key, *inner = _key(part)
        if key == _IMAGE:
            body.images.append(InputImage(image=_file(part, key)))
        elif key == MASK and not (inner or mask):
            mask = _file(part, key)
        elif part.is_file:
            message = f"the field {quoted(part.name)} is a file; files are images and one mask"
            raise ConversionError("UNSUPPORTED", pointer_to(key), message)
        elif inner:
            _put(nested.setdefault(key, {}), inner, part)
        else:
            _add(body.keys, key, _value(key, part))
    for key, value in nested.items():
        _add(body.keys, key, msgspec.json.encode(value))
    return Body(body.keys, body.images, _mask_of(mask) if mask else None)


def _key(part: Part) -> list[str]:
    """Returns the key of a field, and its inner keys; none for "[]", with which arrays end."""
    name = _FIELD.fullmatch(part.name)
    if name is None:
        message = f"{quoted(part.name)} is not the name of a field"
        raise ConversionError("UNSUPPORTED", "", message)
    return [key for key in name.groups() if key]


def _file(part: Part, key: str) -> bytes:
    content = part.content()
    if not content:
        message = f"the field {quoted(part.name)} is empty: send an image file"
        raise ConversionError("EMPTY_ONEOF", pointer_to(key), message)
    return content


def _mask_of(image: bytes) -> ImageMask:
    declared = media_type(image) or "application/octet-stream"
    return ImageMask(image_url=f"data:{declared};base64,{b64encode(image).decode()}")


def _value(key: str, part: Part) -> bytes:
    """Returns the JSON text of a field: a number or a boolean, if the key has such values."""
    text = part.text()
    setting = SETTINGS.get(key)
    if key == COUNT or (setting is not None and setting.type in INTEGERS):
        return text.encode() if _is_number(text) else quote(text)
    if key == STREAM or (setting is not None and setting.type == FieldDescriptor.TYPE_BOOL):
        return _BOOLEANS.get(text) or quote(text)
    return quote(text)


def _is_number(text: str) -> bool:
    return _WHOLE_NUMBER.fullmatch(text) is not None and str(int(text)) == text


def _put(value: dict[str, JsonValue], keys: Sequence[str], part: Part) -> None:
    """Puts the text of a field at its inner keys."""
    *outer, last = keys
    for key in outer:
        value = value.setdefault(key, {})
        if not isinstance(value, dict):
            raise _twice(part.name)
    if last in value:
        raise _twice(part.name)
    value[last] = part.text()


def _add(keys: dict[str, bytes], key: str, raw: bytes) -> None:
    if key in keys:
        raise _twice(key)
    keys[key] = raw


def _twice(name: str) -> ConversionError:
    message = f"the form has the field {quoted(name)} twice"
    return ConversionError("DUPLICATE_KEY", pointer_to(name), message)
