"""An ImageRequest as the JSON body of a POST /responses."""

from base64 import b64encode
from collections.abc import Iterator
from typing import Final

from imagecall.converter import CALLS, to_json, tool_to_json
from imagecall.errors import ConversionError, pointer_to, quoted
from imagecall.formats import media_type
from imagecall.json_diagnosis import MAX_DEPTH
from imagecall.json_text import check_depth, join_elements, join_members, quote
from imagecall.large_values import images
from imagecall.objects import raw_value
from imagecall.replay import to_input
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall
from imagecall.v1.image_request_pb2 import ImageRequest, InputImage

_OWN_KEYS: Final = ("model", "input", "tools", "stream")
_DEFAULT_TOOLS: Final = b'[{"type":"image_generation"}]'
_UNKNOWN_TYPE: Final = "application/octet-stream"


def request_to_json(request: ImageRequest, *, stream: bool) -> bytes:
    """The body of a request, in UTF-8.

    A prompt alone is the "input" as a string; with images or items it becomes the last message of
    the user. Raises ConversionError, with the JSON Pointer of the culprit in this body:
    EMPTY_PROMPT, NOT_REPLAYABLE for an earlier call that the APIs do not take back, and as to_json
    does.
    """
    body = {"model": quote(request.model)} if request.model else {}
    body["input"] = _input(request)
    body["tools"] = _tools(request)
    body |= extra_values(request)
    if stream:
        body["stream"] = b"true"
    return check_depth(join_members(body))


def extra_values(request: ImageRequest) -> dict[str, bytes]:
    """The other keys of a request, as raw JSON text. Raises ConversionError."""
    values: dict[str, bytes] = {}
    for extra in request.extra_fields:
        pointer = pointer_to(extra.name)
        if extra.name in _OWN_KEYS:
            message = f"an extra field has the key {quoted(extra.name)}, which other fields make"
            raise ConversionError("NOT_CANONICAL", pointer, message)
        if extra.name in values:
            message = f"two extra fields have the key {quoted(extra.name)}"
            raise ConversionError("DUPLICATE_KEY", pointer, message)
        values[extra.name], _ = raw_value(extra.json, pointer, MAX_DEPTH - 1)
    return values


def _tools(request: ImageRequest) -> bytes:
    if not request.tools:
        return _DEFAULT_TOOLS
    tools = []
    for index, tool in enumerate(request.tools):
        try:
            tools.append(tool_to_json(tool))
        except ConversionError as error:
            raise error.under(pointer_to("tools", index)) from None
    return join_elements(tools)


def _input(request: ImageRequest) -> bytes:
    if not request.prompt.strip() and not request.input_items:
        message = "the prompt is empty: say what to draw"
        raise ConversionError("EMPTY_PROMPT", pointer_to("input"), message)
    if not request.input_items and not request.input_images:
        return quote(request.prompt)
    items = [_item(index, call) for index, call in enumerate(request.input_items)]
    parts = list(_parts(request, len(items)))
    if parts:
        content = join_elements(parts)
        items.append(b'{"type":"message","role":"user","content":%b}' % content)
    return join_elements(items)


def _item(index: int, call: ImageGenerationCall) -> bytes:
    """An item before the prompt: a call as the APIs take it back, any other as it is."""
    try:
        if CALLS.chosen(call).option.fallback:
            return to_json(call)
        if any(not place.value for place in images(call)):
            text = "the item's image has no bytes: put in those that came in chunks"
            raise ConversionError("NOT_REPLAYABLE", "", text)
        return to_json(to_input(call).call)
    except ConversionError as error:
        raise error.under(pointer_to("input", index)) from None


def _parts(request: ImageRequest, index: int) -> Iterator[bytes]:
    """The content of the user's message, which is the item `index` of the input."""
    if request.prompt.strip():
        yield b'{"type":"input_text","text":%b}' % quote(request.prompt)
    for number, image in enumerate(request.input_images, start=bool(request.prompt.strip())):
        key, value = _source(image, pointer_to("input", index, "content", number))
        detail = quote(image.detail if image.HasField("detail") else "auto")
        yield b'{"type":"input_image","detail":%b,"%b":%b}' % (detail, key, value)


def _source(image: InputImage, pointer: str) -> tuple[bytes, bytes]:
    match image.WhichOneof("source"):
        case "image" if image.image:
            declared = media_type(image.image) or _UNKNOWN_TYPE
            url = b'"data:%b;base64,%b"' % (declared.encode(), b64encode(image.image))
            return b"image_url", url
        case "url":
            return b"image_url", quote(image.url)
        case "file_id":
            return b"file_id", quote(image.file_id)
    message = "the input image is empty: set the bytes of an image, a url, or a file_id"
    raise ConversionError("EMPTY_ONEOF", pointer, message)
