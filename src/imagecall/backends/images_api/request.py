"""Converts an ImageRequest to a call of the Images API.

A request with input images, or with earlier calls, which become input images, is an edit. The model
is that of the image tool, or else that of the request. Other keys of the image tool are passed on,
so that settings of an engine's own, such as "seed", reach the engine.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from imagecall.backends.images_api.request_keys import passed_on
from imagecall.conversion.converter import CALLS, TOOLS, tool_to_json
from imagecall.conversion.objects import TYPE
from imagecall.conversion.view import image_in, view
from imagecall.errors import ConversionError, pointer_to, quoted
from imagecall.generation.image_tool import ImageTool, image_tool
from imagecall.generation.request import extra_values, request_to_json
from imagecall.json.text import JsonValue, members, parse, quote, type_name
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall
from imagecall.v1.image_request_pb2 import ImageRequest

_NULL: Final = b"null"
_DATA: Final = "data:"
_OTHER_KEYS: Final = ("prompt", "image", "images", "mask", "stream", "input_references")
"""Keys of a body that come from elsewhere than the image tool."""

_IMAGE_KEYS: Final = ("image", "image[]", "images", "input_references")
"""Keys of input images: as fields of a form, with brackets or without, and in JSON."""

_FORM_NAME: Final = re.compile(r"[^\x00-\x1f\x7f\"\\]+")
"""Name that the header of a form's field can hold."""


class Source(NamedTuple):
    """Input image or mask: one of its bytes, its URL, and its identifier at the API.

    `pointer` is its place in the body of a POST /responses.
    """

    pointer: str
    data: bytes = b""
    url: str = ""
    file_id: str = ""


@dataclass(frozen=True)
class ImagesCall:
    """Call of the Images API.

    Attributes:
        keys: keys of the body, the images excepted, as raw JSON text.
        images: input images. Empty: the call generates, else it edits.
        mask: mask of the first image. None: the call has none.
        model: name of the model; "" for the default of the API.
        partial_images: number of partial images that the caller requests.
        count: number of images that the caller requests.
        digest: SHA-256 digest of the request, for the ids of its calls.
        places: JSON Pointer, in the body of a POST /responses, of each key that has another place
            there.
    """

    keys: Mapping[str, bytes]
    images: tuple[Source, ...]
    mask: Source | None
    model: str
    partial_images: int
    count: int
    digest: bytes
    places: Mapping[str, str]

    def place_of(self, pointer: str) -> str:
        """Returns the place, in the body of a POST /responses, of a place in the API's body."""
        key, slash, rest = pointer.removeprefix("/").partition("/")
        if key in _IMAGE_KEYS and self.images:
            index = rest.partition("/")[0]
            pointers = {str(number): image.pointer for number, image in enumerate(self.images)}
            return pointers.get(index, self.images[0].pointer)
        return self.places[key] + slash + rest if key in self.places else pointer

    def id_of(self, output_index: int) -> str:
        """Id of the call at an index of the output, since an Images API has no ids."""
        digest = hashlib.sha256(self.digest + output_index.to_bytes(4, "big"))
        return f"ig_{digest.hexdigest()}"


def images_call(request: ImageRequest) -> ImagesCall:
    """Converts a request. Raises ConversionError, with a pointer as `request_to_json` does.

    UNSUPPORTED: an Images API has nothing like it.
    """
    digest = hashlib.sha256(request_to_json(request, stream=False)).digest()
    others = passed_on(extra_values(request))
    if not request.prompt.strip():
        raise ConversionError("EMPTY_PROMPT", pointer_to("input"), "an Images API needs a prompt")
    settings = _Settings(request)
    images = tuple(_images(request))
    for key, raw in others.items() if images else ():
        _check_form(key, raw, pointer_to(key))
    mask = settings.mask(bool(images))
    keys = {"prompt": quote(request.prompt)} | settings.keys(bool(images)) | others
    return ImagesCall(
        keys,
        images,
        mask,
        settings.model,
        settings.partial_images,
        settings.count,
        digest,
        {"prompt": pointer_to("input")} | settings.places(),
    )


class _Settings:
    """Settings of the only image tool of a request."""

    def __init__(self, request: ImageRequest) -> None:
        self._tool = _only_image_tool(request)
        self._raws = self._of_tool(request)
        self.model = self._model(request)
        self.partial_images = self._number("partial_images", 0)
        self.count = self._number("n", 1)

    def keys(self, edits: bool) -> dict[str, bytes]:
        """Keys of the body, with raw JSON text. Raises ConversionError."""
        raws = dict(self._raws)
        action = parse(raws.pop("action", _NULL))
        if action not in (None, "auto", "edit" if edits else "generate"):
            images = "input images" if edits else "no input images"
            text = f"the request has {images}, and the action {quoted(str(action))}"
            raise self._unsupported("action", text)
        for key, raw in raws.items():
            if key in _OTHER_KEYS:
                raise self._unsupported(key, f"{quoted(key)} is no setting of an image")
            if edits:
                _check_form(key, raw, self._pointer(key))
        for key in ("input_image_mask", "partial_images", "model"):
            raws.pop(key, None)
        model = {"model": quote(self.model)} if self.model else {}
        return model | raws

    def places(self) -> dict[str, str]:
        """JSON Pointer of each key of the tool, and of the mask."""
        places = {key: self._pointer(key) for key in self._raws}
        return places | {"mask": self._pointer("input_image_mask")}

    def mask(self, edits: bool) -> Source | None:
        """Mask of the first input image. Raises ConversionError."""
        key = "input_image_mask"
        if key not in self._raws:
            return None
        if not edits:
            raise self._unsupported(key, "a mask needs an input image")
        match parse(self._raws[key]):
            case {"image_url": str(url)} if url:
                return _source(self._pointer(key, "image_url"), url)
            case {"file_id": str(name)} if name:
                return Source(self._pointer(key, "file_id"), file_id=name)
        raise self._unsupported(key, "the mask has neither an image_url nor a file_id")

    def _of_tool(self, request: ImageRequest) -> dict[str, bytes]:
        """Keys of the tool that are not null, as raw JSON text."""
        if self._tool is None:
            return {}
        raws = members(tool_to_json(request.tools[0]))
        for place in self._tool.tokens[2:]:
            inner = raws.pop(str(place), _NULL)
            if not isinstance(value := parse(inner), dict | None):
                message = f"{quoted(str(place))} must be an object, not {type_name(value)}"
                raise ConversionError("WRONG_TYPE", self._pointer(), message)
            raws |= members(inner) if value else {}
        return {key: raw for key, raw in raws.items() if raw != _NULL and key != TYPE}

    def _model(self, request: ImageRequest) -> str:
        value = parse(self._raws.get("model", quote(request.model)))
        if not isinstance(value, str):
            message = f"{quoted('model')} must be a string, not {type_name(value)}"
            raise ConversionError("WRONG_TYPE", self._pointer("model"), message)
        return value

    def _number(self, key: str, default: int) -> int:
        value = parse(self._raws.get(key, _NULL))
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            message = f"{quoted(key)} must be a number of images, not {type_name(value)}"
            raise ConversionError("WRONG_TYPE", self._pointer(key), message)
        return value

    def _pointer(self, *keys: str) -> str:
        return pointer_to(*(self._tool.tokens if self._tool else ()), *keys)

    def _unsupported(self, key: str, message: str) -> ConversionError:
        return ConversionError("UNSUPPORTED", self._pointer(key), message)


def _only_image_tool(request: ImageRequest) -> ImageTool | None:
    """Image tool of a request; None without tools. Raises ConversionError for any other tool."""
    for index, tool in enumerate(request.tools):
        chosen = TOOLS.chosen(tool)
        if chosen.option.fallback:
            text = f"{quoted(getattr(tool, chosen.name).type)} is not an image tool"
            raise ConversionError("UNSUPPORTED", pointer_to("tools", index), text)
        if index > 0:
            text = "an Images API makes the images of one image tool; the request has several"
            raise ConversionError("UNSUPPORTED", pointer_to("tools", index), text)
    return image_tool(request.tools)


def _images(request: ImageRequest) -> Iterator[Source]:
    """Yields the images of earlier calls, then the input images."""
    for index, call in enumerate(request.input_items):
        yield _earlier(call, pointer_to("input", index))
    pointer = pointer_to("input", len(request.input_items))
    for image in request.input_images:
        match image.WhichOneof("source"):
            case "image":
                yield Source(pointer, data=image.image)
            case "url":
                yield _source(pointer, image.url)
            case "file_id":
                yield Source(pointer, file_id=image.file_id)


def _earlier(call: ImageGenerationCall, pointer: str) -> Source:
    """Image of an earlier call."""
    chosen = CALLS.chosen(call)
    if chosen.option.fallback:
        name = quoted(getattr(call, chosen.name).type)
        text = f"an Images API takes a prompt and images, and no items such as {name}"
        raise ConversionError("UNSUPPORTED", pointer, text)
    earlier = view(call)
    if earlier.image:
        return Source(pointer, data=earlier.image)
    if isinstance(earlier.result, str) and _is_url(earlier.result):
        return Source(pointer, url=earlier.result)
    text = "the earlier call has no image, and an Images API stores none: send the result"
    raise ConversionError("UNSUPPORTED", pointer, text)


def _source(pointer: str, url: str) -> Source:
    """Source of an image with a URL, decoded from a data: URL."""
    if _is_url(url):
        return Source(pointer, url=url)
    if url[: len(_DATA)].lower() == _DATA and (data := image_in(url)):
        return Source(pointer, data=data)
    text = "the URL of an image must be http:, https:, or data: with base64"
    raise ConversionError("UNSUPPORTED", pointer, text)


def _check_form(key: str, raw: bytes, pointer: str) -> None:
    """Raises ConversionError for a key that the form of an edit cannot have."""
    if not all(map(_FORM_NAME.fullmatch, _names({key: parse(raw)}))):
        text = f"{quoted(key)} cannot be sent as a field of a form, as an edit is"
        raise ConversionError("UNSUPPORTED", pointer, text)


def _names(value: JsonValue) -> Iterator[str]:
    """Yields the keys of an object and of the objects in it."""
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield key
        yield from _names(inner)


def _is_url(text: str) -> bool:
    return text[:8].lower().startswith(("http://", "https://"))
