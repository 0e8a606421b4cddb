"""Converts an ImageRequest to the JSON body of a POST /responses, and back.

Reading a body and writing the request again gives the same JSON value, with the exceptions that
proto/imagecall/v1/image_request.proto lists.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from imagecall.conversion.converter import CALLS, from_json, to_json, tool_from_json, tool_to_json
from imagecall.conversion.document import document_from_json
from imagecall.conversion.objects import TYPE, raw_value
from imagecall.conversion.replay import to_input
from imagecall.errors import ConversionError, pointer_to, quoted
from imagecall.generation.chunked_fields import image_fields
from imagecall.generation.user_message import has_default_form, read_message, write_message
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
from imagecall.turns import take_turn
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall
from imagecall.v1.image_request_pb2 import EmptyTools, ImageRequest

MAX_TEXT: Final = 10 * 1024 * 1024
"""Longest prompt or other value, such as the instructions: OpenAI's limit of a string."""

_NULL: Final = b"null"
_OWN_KEYS: Final = ("model", "input", "tools", "stream")
_EMPTY_VALUES: Final[Mapping[str, tuple[JsonValue, ...]]] = {
    "model": (None,),
    "input": (None, "", []),
}
"""Values of own keys that no field can hold; they are kept as extra fields."""

_CONTEXT_KEYS: Final = ("prompt", "previous_response_id", "conversation")
"""Keys that the APIs accept in place of an "input"."""

_IMAGE_TOOL: Final = "image_generation"
_EMPTY_TOOLS: Final[Mapping[int, bytes | None]] = {
    EmptyTools.EMPTY_TOOLS_UNSPECIFIED: b'[{"type":"%b"}]' % _IMAGE_TOOL.encode(),
    EmptyTools.EMPTY_TOOLS_ABSENT: None,
    EmptyTools.EMPTY_TOOLS_ARRAY: b"[]",
    EmptyTools.EMPTY_TOOLS_NULL: _NULL,
}
"""JSON of "tools" for a request without tools, by EmptyTools. None: the key is absent."""

_IMPLIED_TYPES: Final = {"role": "message", "id": "item_reference"}
"""Types that the APIs assume for an item without a type, by a key of the item."""


def request_to_json(request: ImageRequest, *, stream: bool) -> bytes:
    """Writes the body of a request, in UTF-8.

    A prompt alone becomes the string "input"; with images or items it becomes the last message of
    the user. Raises ConversionError, with the JSON Pointer of the culprit in this body:
    EMPTY_PROMPT, NOT_REPLAYABLE for an earlier call that the APIs do not accept as input, and as
    `to_json` does.
    """
    others = extra_values(request)
    own = {
        "model": quote(request.model) if request.model else None,
        "input": _input(request, others),
        "tools": _tools(request),
    }
    body = {name: value for name, value in own.items() if value is not None}
    for name in body.keys() & others.keys():
        raise _key_of_fields(name)
    body |= others
    if stream:
        body["stream"] = b"true"
    return check_depth(join_members(body))


class ReadRequest(NamedTuple):
    """Body that was read.

    Attributes:
        request: the body without its "stream".
        stream: the value of "stream"; False if it is absent or null.
    """

    request: ImageRequest
    stream: bool


def request_from_json(text: bytes | str, *, max_bytes: int = MAX_BYTES) -> ReadRequest:
    """Reads the body of a request. The inverse of `request_to_json`.

    A last item that is a user message of one text and images becomes the prompt and the input
    images; all other items become input items. Raises ConversionError.
    """
    document = document_from_json(text, kind="request", max_bytes=max_bytes)
    json = document.json
    take_turn()
    raws = members(json.encode())
    request = ImageRequest()
    if raws.get("model", _NULL) != _NULL:
        request.model = _string(raws.pop("model"), "model")
    _read_tools(request, raws.pop("tools", None), parse(raws.get("tool_choice", _NULL)))
    calls = {call.pointer: call.call for call in document.calls}
    if _read_input(request, raws.get("input", _NULL), calls):
        del raws["input"]
    stream = parse(raws.pop("stream", _NULL))
    if not isinstance(stream, bool | None):
        raise _wrong_type("stream", expected="true or false", value=stream)
    for name, raw in raws.items():
        _check_text(raw, pointer_to(name))
        take_turn()
        request.extra_fields.add(name=name, json=raw.decode())
    return ReadRequest(request, bool(stream))


def _check_text(text: bytes | str, pointer: str) -> None:
    """Raises ConversionError (TOO_LARGE) for a text that no API takes, and that many events repeat.

    Images are not among such texts.
    """
    if len(text) > MAX_TEXT:
        message = f"the text has a length of {len(text):,}; the limit is {MAX_TEXT:,}"
        raise ConversionError("TOO_LARGE", pointer, message)


def _string(raw: bytes, name: str) -> str:
    value = parse(raw)
    if isinstance(value, str) and value:
        return value
    raise _wrong_type(name, expected="a string that is not empty", value=value)


def _wrong_type(*tokens: str | int, expected: str, value: JsonValue) -> ConversionError:
    kind = "an empty one" if value == "" else type_name(value)
    message = f"{quoted(str(tokens[-1]))} must be {expected}, not {kind}"
    return ConversionError("WRONG_TYPE", pointer_to(*tokens), message)


def _read_tools(request: ImageRequest, raw: bytes | None, choice: JsonValue) -> None:
    if raw not in (None, _NULL):
        if not isinstance(value := parse(raw), list):
            raise _wrong_type("tools", expected="an array", value=value)
        for index, tool in enumerate(elements(raw)):
            try:
                request.tools.append(tool_from_json(tool))
            except ConversionError as error:
                raise error.under(pointer_to("tools", index)) from None
        raw = b"[]"
    if not request.tools and not _names_image_tool(choice):
        request.empty_tools = next(n for n, empty in _EMPTY_TOOLS.items() if empty == raw)  # type: ignore[assignment]  # a number of EmptyTools


def _names_image_tool(choice: JsonValue) -> bool:
    """True for a "tool_choice" that names the image tool, alone or among the allowed tools."""
    match choice:
        case {"type": "allowed_tools", "tools": list(tools)}:
            return any(map(_names_image_tool, tools))
        case {"type": str(name)}:
            return name == _IMAGE_TOOL
    return False


def _read_input(
    request: ImageRequest, raw: bytes, calls: Mapping[str, ImageGenerationCall]
) -> bool:
    """Reads an input. Returns False if the input is empty."""
    value = parse(raw)
    if value in _EMPTY_VALUES["input"]:
        return False
    if isinstance(value, str):
        _check_text(value, pointer_to("input"))
        take_turn()
        request.prompt = value
        return True
    if not isinstance(value, list):
        raise _wrong_type("input", expected="a string or an array", value=value)
    items = elements(raw)
    if last := read_message(items[-1], value[-1]):
        take_turn()
        request.MergeFrom(last)
        take_turn()
        del items[-1]
    for index, (item, meaning) in enumerate(zip(items, value, strict=False)):
        pointer = pointer_to("input", index)
        request.input_items.append(calls.get(pointer) or _other(item, meaning, pointer))
    if (items or request.input_images) and has_default_form(request):
        request.ClearField("message_json")
    return True


def _other(raw: bytes, value: JsonValue, pointer: str) -> ImageGenerationCall:
    """Reads an item that is not a call, such as a message, which may have no "type"."""
    if implied := _implied_type(value):
        call = ImageGenerationCall()
        call.unknown_item.type = implied
        call.unknown_item.json = raw.decode()
        return call
    try:
        return from_json(raw)
    except ConversionError as error:
        raise error.under(pointer) from None


def _implied_type(item: JsonValue) -> str:
    """Type that the APIs assume for an item without a type; "" if they assume none."""
    if not isinstance(item, dict) or item.get(TYPE) is not None:
        return ""
    return next((implied for key, implied in _IMPLIED_TYPES.items() if key in item), "")


def extra_values(request: ImageRequest) -> dict[str, bytes]:
    """Raw JSON text of a request's extra fields, by key. Raises ConversionError."""
    if len(request.extra_fields) > MAX_KEYS:
        raise too_many_keys()
    values: dict[str, bytes] = {}
    for extra in request.extra_fields:
        pointer, json = pointer_to(extra.name), extra.json
        _check_text(json, pointer)
        if extra.name in values:
            message = f"two extra fields have the key {quoted(extra.name)}"
            raise ConversionError("DUPLICATE_KEY", pointer, message)
        values[extra.name], value = raw_value(json, pointer, MAX_DEPTH - 1)
        if extra.name in _OWN_KEYS and value not in _EMPTY_VALUES.get(extra.name, ()):
            raise _key_of_fields(extra.name)
    return values


def _key_of_fields(name: str) -> ConversionError:
    message = f"an extra field has the key {quoted(name)}, which belongs to other fields"
    return ConversionError("NOT_CANONICAL", pointer_to(name), message)


def _tools(request: ImageRequest) -> bytes | None:
    if not request.tools:
        return _empty_tools(request.empty_tools)
    tools = []
    for index, tool in enumerate(request.tools):
        try:
            tools.append(tool_to_json(tool))
        except ConversionError as error:
            raise error.under(pointer_to("tools", index)) from None
    return join_elements(tools)


def _empty_tools(number: int) -> bytes | None:
    if number in _EMPTY_TOOLS:
        return _EMPTY_TOOLS[number]
    message = f"empty_tools has the number {number}, which this schema does not name"
    raise ConversionError("UNKNOWN_ENUM_NUMBER", pointer_to("tools"), message)


def _input(request: ImageRequest, others: Mapping[str, bytes]) -> bytes | None:
    _check_text(request.prompt, pointer_to("input"))
    has_prompt = bool(request.prompt.strip())
    has_context = any(others.get(key, _NULL) != _NULL for key in _CONTEXT_KEYS)
    if not (has_prompt or request.input_items or has_context):
        message = "the prompt is empty: describe the image"
        raise ConversionError("EMPTY_PROMPT", pointer_to("input"), message)
    if not (request.input_items or request.input_images or request.message_json):
        return quote(request.prompt) if request.prompt else None
    items = [_item(index, call) for index, call in enumerate(request.input_items)]
    if has_prompt or request.input_images or request.message_json:
        items.append(write_message(request, pointer_to("input", len(items))))
    return join_elements(items)


def _item(index: int, call: ImageGenerationCall) -> bytes:
    """Writes an item before the prompt: a call as the APIs accept it, any other item unchanged."""
    try:
        if CALLS.chosen(call).option.fallback:
            return _without_type(call) or to_json(call)
        if any(not place.value for place in image_fields(call)):
            text = "the item's image is empty: put in the bytes that came in chunks"
            raise ConversionError("NOT_REPLAYABLE", "", text)
        return to_json(to_input(call).call)
    except ConversionError as error:
        raise error.under(pointer_to("input", index)) from None


def _without_type(call: ImageGenerationCall) -> bytes:
    """JSON of an item without a type of its own; empty for any other item."""
    raw, value = raw_value(call.unknown_item.json, "", MAX_DEPTH - 2)
    return raw if _implied_type(value) == call.unknown_item.type != "" else b""
