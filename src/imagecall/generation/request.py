"""An ImageRequest as the JSON body of a POST /responses, and back.

The body that is written of what was read of another means the same: a prompt that stood in a
message of its own comes back as a string, and a message without a "type" has one.
"""

from base64 import b64encode
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Final, NamedTuple

from imagecall.conversion.converter import CALLS, from_json, to_json, tool_from_json, tool_to_json
from imagecall.conversion.document import document_from_json
from imagecall.conversion.fields import decode_base64
from imagecall.conversion.objects import raw_value
from imagecall.conversion.replay import to_input
from imagecall.errors import ConversionError, pointer_to, quoted
from imagecall.formats import media_type
from imagecall.generation.chunked_fields import images
from imagecall.json.diagnosis import MAX_DEPTH
from imagecall.json.text import (
    MAX_BYTES,
    MAX_KEYS,
    JsonValue,
    check_depth,
    elements,
    join_elements,
    join_members,
    members,
    parse,
    quote,
    too_many_keys,
    type_name,
)
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


class ReadRequest(NamedTuple):
    """A body that was read.

    Attributes:
        request: what is wanted.
        stream: whether the answer is to be a stream.
    """

    request: ImageRequest
    stream: bool


def request_from_json(text: bytes | str, *, max_bytes: int = MAX_BYTES) -> ReadRequest:
    """Reads the body of a request. The inverse of `request_to_json`.

    The last message of the user becomes the prompt and its images, if it has nothing else; all
    before it, or it too, the items before the prompt. Raises ConversionError.
    """
    document = document_from_json(text, kind="request", max_bytes=max_bytes)
    raws = members(document.json.encode())
    request = ImageRequest()
    for name in ("model", "tools", "stream"):
        if raws.get(name) == b"null":
            del raws[name]
    if model := raws.pop("model", b""):
        request.model = _string(model, "model")
    _read_tools(request, raws.pop("tools", b"[]"))
    calls = {call.pointer: call.call for call in document.calls}
    _read_input(request, raws.pop("input", b"[]"), calls)
    stream = parse(raws.pop("stream", b"false"))
    if not isinstance(stream, bool):
        raise _wrong_type("stream", wanted="true or false", value=stream)
    for name, raw in raws.items():
        request.extra_fields.add(name=name, json=raw.decode())
    return ReadRequest(request, bool(stream))


def _string(raw: bytes, *tokens: str | int) -> str:
    value = parse(raw)
    if isinstance(value, str) and value:
        return value
    raise _wrong_type(*tokens, wanted="a string that is not empty", value=value)


def _wrong_type(*tokens: str | int, wanted: str, value: JsonValue) -> ConversionError:
    kind = "an empty one" if value == "" else type_name(value)
    message = f"{quoted(str(tokens[-1]))} must be {wanted}, not {kind}"
    return ConversionError("WRONG_TYPE", pointer_to(*tokens), message)


def _array(raw: bytes, name: str, wanted: str) -> list[bytes]:
    value = parse(raw)
    if not isinstance(value, list):
        raise _wrong_type(name, wanted=wanted, value=value)
    return elements(raw)


def _read_tools(request: ImageRequest, raw: bytes) -> None:
    for index, tool in enumerate(_array(raw, "tools", "an array")):
        try:
            request.tools.append(tool_from_json(tool))
        except ConversionError as error:
            raise error.under(pointer_to("tools", index)) from None


def _read_input(
    request: ImageRequest, raw: bytes, calls: Mapping[str, ImageGenerationCall]
) -> None:
    if raw.startswith(b'"'):
        request.prompt = _string(raw, "input")
        return
    items = _array(raw, "input", "a string or an array")
    if items and (last := _read_message(items[-1])):
        request.prompt = last.prompt
        request.input_images.extend(last.input_images)
        del items[-1]
    for index, item in enumerate(items):
        pointer = pointer_to("input", index)
        request.input_items.append(calls[pointer] if pointer in calls else _other(item, pointer))


def _other(raw: bytes, pointer: str) -> ImageGenerationCall:
    """An item that is no call, such as a message, which may lack its "type"."""
    value = parse(raw)
    if isinstance(value, dict) and "role" in value and "type" not in value:
        raw = join_members({"type": b'"message"'} | members(raw))
    try:
        return from_json(raw)
    except ConversionError as error:
        raise error.under(pointer) from None


def _read_message(raw: bytes) -> ImageRequest | None:
    """The prompt and the images of a user's message; None if it is none, or has more than these."""
    value = parse(raw)
    if not isinstance(value, dict) or value.get("role") != "user":
        return None
    if value.get("type", "message") != "message" or value.keys() - {"type", "role", "content"}:
        return None
    content = value.get("content")
    parts = [{"type": "input_text", "text": content}] if isinstance(content, str) else content
    message = ImageRequest()
    if not isinstance(parts, list) or not all(map(partial(_read_part, message), parts)):
        return None
    return message if message.prompt.strip() else None


def _read_part(message: ImageRequest, part: JsonValue) -> bool:
    """Reads a part of a message, if it is the text, or an image after it."""
    match part:
        case {"type": "input_text", "text": str(text), **rest} if text and not (
            rest or message.prompt
        ):
            message.prompt = text
            return not message.input_images
        case {"type": "input_image", "image_url": str(url), **rest}:
            image = _from_url(url)
        case {"type": "input_image", "file_id": str(name), **rest}:
            image = InputImage(file_id=name)
        case _:
            return False
    detail = rest.pop("detail", None)
    if rest or not isinstance(detail, str | None):
        return False
    if detail not in (None, "auto"):
        image.detail = detail
    message.input_images.append(image)
    return True


def _from_url(url: str) -> InputImage:
    """An image by its URL, or the bytes of a data: URL that would be written the same."""
    head, _, data = url.partition(";base64,")
    try:
        image = decode_base64(data) if head.startswith("data:") else b""
    except ValueError:
        image = b""
    written = head == f"data:{media_type(image) or _UNKNOWN_TYPE}"
    return InputImage(image=image) if image and written else InputImage(url=url)


def extra_values(request: ImageRequest) -> dict[str, bytes]:
    """The other keys of a request, as raw JSON text. Raises ConversionError."""
    if len(request.extra_fields) > MAX_KEYS:
        raise too_many_keys()
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
