"""Bodies of the Images API, in the forms that engines take.

A generation is JSON. An edit whose images are bytes is multipart/form-data, the form that all
engines take: "image" for one image, "image[]" for several, as OpenAI's SDKs send them. An edit with
a URL or a file_id is JSON, which OpenAI takes. OpenRouter has one method, with JSON only.
"""

from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from io import BytesIO
from typing import Final, NamedTuple

import aiohttp
import msgspec
from pybase64 import b64encode

from imagecall.backends.http_api.connection import RequestBody
from imagecall.backends.images_api.request import ImagesCall, Source
from imagecall.errors import ConversionError
from imagecall.formats import MEDIA_TYPES, image_format
from imagecall.json.text import JsonValue, join_elements, join_members, parse, quote

_UNKNOWN_TYPE: Final = "application/octet-stream"
_TRUE: Final = b"true"


class Method(Enum):
    """Method of an Images API, by its path below the base URL."""

    GENERATE = "/images/generations"
    EDIT = "/images/edits"
    OPENROUTER = "/images"


class Sent(NamedTuple):
    """Request as it is sent: method, body, and True if a stream is requested."""

    method: Method
    body: RequestBody
    streams: bool


def to_send(call: ImagesCall, *, streams: bool, openrouter: bool) -> Sent:
    """Chooses the form of a call. Raises ConversionError: UNSUPPORTED.

    A stream is requested only for partial images, since many engines refuse the key "stream", and a
    call is never sent twice.
    """
    streams = streams and call.partial_images > 0
    keys = dict(call.keys)
    if streams:
        keys["stream"] = _TRUE
    if openrouter:
        return Sent(Method.OPENROUTER, _openrouter_body(call, keys), streams)
    if streams:
        keys["partial_images"] = str(call.partial_images).encode()
    if not call.images:
        return Sent(Method.GENERATE, join_members(keys), streams)
    return Sent(Method.EDIT, _edit_body(call, keys), streams)


def _edit_body(call: ImagesCall, keys: dict[str, bytes]) -> RequestBody:
    sources = [*call.images, *([call.mask] if call.mask else [])]
    if all(source.data for source in sources):
        return _form(call, keys)
    images = {"images": join_elements(map(_reference, call.images))}
    mask = {"mask": _reference(call.mask)} if call.mask else {}
    return join_members(keys | images | mask)


def _reference(source: Source) -> bytes:
    """Reference to an image in OpenAI's JSON form of an edit."""
    if source.file_id:
        return join_members({"file_id": quote(source.file_id)})
    return join_members({"image_url": _url(source)})


def _url(source: Source) -> bytes:
    """URL of an image, or its bytes as a data: URL, as JSON text."""
    if source.url:
        return quote(source.url)
    return b'"data:%b;base64,%b"' % (_media_type(source).encode(), b64encode(source.data))


def _openrouter_body(call: ImagesCall, keys: dict[str, bytes]) -> bytes:
    if call.mask:
        raise _unsupported(call.mask, "OpenRouter's Images API takes no mask")
    for source in call.images:
        if source.file_id:
            raise _unsupported(source, "OpenRouter's Images API takes no file_id")
    references = [
        b'{"type":"image_url","image_url":{"url":%b}}' % _url(source) for source in call.images
    ]
    return join_members(
        keys | ({"input_references": join_elements(references)} if references else {})
    )


def _unsupported(source: Source, message: str) -> ConversionError:
    return ConversionError("UNSUPPORTED", source.pointer, message)


def _form(call: ImagesCall, keys: Mapping[str, bytes]) -> aiohttp.FormData:
    form = aiohttp.FormData(quote_fields=False, default_to_multipart=True)
    for name, text in _fields("", {key: parse(raw) for key, raw in keys.items()}):
        form.add_field(name, text)
    name = "image" if len(call.images) == 1 else "image[]"
    for index, source in enumerate(call.images):
        _add_file(form, name, f"image-{index + 1}", source)
    if call.mask:
        _add_file(form, "mask", "mask", call.mask)
    return form


def _fields(prefix: str, values: Mapping[str, JsonValue]) -> Iterator[tuple[str, str]]:
    """Yields the fields of a form for the members of an object: `svg[model]` for nested ones."""
    for key, value in values.items():
        name = f"{prefix}[{key}]" if prefix else key
        if isinstance(value, dict):
            yield from _fields(name, value)
        elif isinstance(value, list):
            yield from _elements(name, value)
        else:
            yield name, _text(value)


def _elements(name: str, values: Iterable[JsonValue]) -> Iterator[tuple[str, str]]:
    for value in values:
        yield f"{name}[]", _text(value)


def _text(value: JsonValue) -> str:
    """Text of a value in a form: a string as it is, another value as JSON."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _add_file(form: aiohttp.FormData, name: str, title: str, source: Source) -> None:
    extension = image_format(source.data) or "png"
    form.add_field(
        name,
        BytesIO(source.data),
        filename=f"{title}.{extension}",
        content_type=_media_type(source),
    )


def _media_type(source: Source) -> str:
    return MEDIA_TYPES.get(image_format(source.data) or "", _UNKNOWN_TYPE)
