"""Converts a body of the Images API to an ImageRequest, and errors of the backend back.

The keys of the image tool become its settings, and so does a key that the schema lacks, such as
"seed": APIs differ in such keys, and a backend refuses those that it lacks. Keys of the whole
request, such as "user", become extra fields.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NoReturn

from imagecall.conversion.converter import tool_from_json
from imagecall.doors.http.images.body import COUNT, IMAGE_KEYS, STREAM, Body
from imagecall.errors import ConversionError, ImagecallError, pointer_to, quoted
from imagecall.generation.image_tool import image_tool
from imagecall.generation.images_api import GENERATION, MAX_IMAGES, REPEATED
from imagecall.json.text import JsonValue, join_members, parse, quote, type_name
from imagecall.v1.image_request_pb2 import ImageRequest

_PROMPT: Final = "prompt"
_RESPONSE_FORMAT: Final = "response_format"
_BASE64: Final = "b64_json"
_OF_URLS: Final = b'"dall-e-'
"""Start of the JSON of a model whose API sent URLs by default; some programs read nothing else."""

_TYPE: Final = "type"
_MASK: Final = "input_image_mask"
OF_THE_REQUEST: Final = (
    "user",
    "safety_identifier",
    "provider",
    "session_id",
    "trace",
    "embedded",
)
"""Keys of the whole request, which the Responses API has at the same place."""

_POINTERS: Final = {
    "/tools/0/input_image_mask": "/mask",
    "/tools/0/parameters": "",
    "/tools/0": "",
}
"""Places in the body of a POST /responses, which errors name, and their places in this API."""

_INPUT: Final = "/input"
_MESSAGE: Final = "/input/"
"""Place of the message with the prompt and the images, in the body of a POST /responses."""


@dataclass(frozen=True)
class ImagesRequest:
    """Request that was read.

    Attributes:
        request: the request for one image.
        count: number of images: the key "n".
        stream: True for a stream of events.
        settings: raw JSON text of the settings that an answer repeats, by key.
        urls: True if the caller expects URLs, as the model's API sent them by default.
    """

    request: ImageRequest
    count: int
    stream: bool
    settings: Mapping[str, bytes]
    urls: bool


def read_request(body: Body, main_model: str | None = None) -> ImagesRequest:
    """Reads a body. Raises ConversionError, with the JSON Pointer of the key.

    `main_model` is the model that calls the image tool. None: the backend needs none.
    """
    keys = dict(body.keys)
    request = ImageRequest(prompt=_prompt(keys), input_images=body.images)
    count, stream = _count(keys), _stream(keys)
    urls = _RESPONSE_FORMAT not in keys and keys.get("model", b"").startswith(_OF_URLS)
    _check_response_format(keys)
    for key in OF_THE_REQUEST:
        if key in keys:
            request.extra_fields.add(name=key, json=keys.pop(key).decode())
    _refuse(keys, _TYPE, _MASK)
    settings = {key: keys[key] for key in REPEATED if key in keys}
    tool = tool_from_json(join_members({_TYPE: quote(GENERATION)} | keys))
    request.tools.append(tool)
    if body.mask is not None:
        image_tool(request.tools).settings.input_image_mask.CopyFrom(body.mask)  # type: ignore[union-attr]  # it is there
    if main_model is not None:
        request.model = main_model
        choice = join_members({_TYPE: quote(GENERATION)})
        request.extra_fields.add(name="tool_choice", json=choice.decode())
    return ImagesRequest(request, count, stream, settings, urls)


def require_images(body: Body) -> None:
    """Raises ConversionError (MISSING_KEY) for an edit of no image."""
    if not body.images:
        names = ", ".join(map(quoted, IMAGE_KEYS))
        message = f"an edit needs an input image: set one of {names}"
        raise ConversionError("MISSING_KEY", pointer_to(IMAGE_KEYS[0]), message)


def _prompt(keys: dict[str, bytes]) -> str:
    value = parse(keys.pop(_PROMPT, b'""'))
    if not isinstance(value, str):
        _wrong_type(_PROMPT, "a string", value)
    if not value.strip():
        message = "the prompt is empty: describe the image"
        raise ConversionError("EMPTY_PROMPT", pointer_to(_PROMPT), message)
    return str(value)


def _count(keys: dict[str, bytes]) -> int:
    value = parse(keys.pop(COUNT, b"1"))
    if type(value) is not int or not 1 <= value <= MAX_IMAGES:
        message = f"{quoted(COUNT)} must be a whole number from 1 to {MAX_IMAGES}"
        raise ConversionError("WRONG_TYPE", pointer_to(COUNT), message)
    return value


def _stream(keys: dict[str, bytes]) -> bool:
    value = parse(keys.pop(STREAM, b"false"))
    if not isinstance(value, bool):
        _wrong_type(STREAM, "true or false", value)
    return bool(value)


def _check_response_format(keys: dict[str, bytes]) -> None:
    value = parse(keys.pop(_RESPONSE_FORMAT, quote(_BASE64)))
    if value != _BASE64:
        message = (
            f"{quoted(_RESPONSE_FORMAT)} must be {quoted(_BASE64)}, or absent: "
            "the server stores no images, so that they have no URL"
        )
        raise ConversionError("UNSUPPORTED", pointer_to(_RESPONSE_FORMAT), message)


def _refuse(keys: Mapping[str, bytes], *names: str) -> None:
    for name in names:
        if name in keys:
            message = f"{quoted(name)} is not a key of the Images API"
            raise ConversionError("UNSUPPORTED", pointer_to(name), message)


def _wrong_type(key: str, expected: str, value: JsonValue) -> NoReturn:
    message = f"{quoted(key)} must be {expected}, not {type_name(value)}"
    raise ConversionError("WRONG_TYPE", pointer_to(key), message)


def in_images_api(error: ImagecallError) -> ImagecallError:
    """Gives an error of the backend the pointer of its culprit in the body of this API."""
    if error.pointer == _INPUT:
        error.pointer = pointer_to(_PROMPT)
    for place, key in _POINTERS.items():
        if error.pointer == place or error.pointer.startswith(place + "/"):
            error.pointer = key + error.pointer.removeprefix(place)
            break
    else:
        if error.pointer.startswith(_MESSAGE):
            error.pointer = pointer_to(IMAGE_KEYS[0])
    return error
