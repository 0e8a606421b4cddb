"""An ImageRequest as the JSON body of a POST /responses, and back.

The body that is written of what was read of another is the same JSON value, but for the exceptions
that ImageRequest names in proto/imagecall/v1/image_request.proto.
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
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall
from imagecall.v1.image_request_pb2 import EmptyTools, ImageRequest

_NULL: Final = b"null"
_OWN_KEYS: Final = ("model", "input", "tools", "stream")
_EMPTY_VALUES: Final[Mapping[str, tuple[JsonValue, ...]]] = {
    "model": (None,),
    "input": (None, "", []),
}
"""The values of own keys that no field holds, which stand among the extra fields."""

_CONTEXT_KEYS: Final = ("prompt", "previous_response_id", "conversation")
"""The keys of which APIs take one in place of an "input"."""

_IMAGE_TOOL: Final = "image_generation"
_EMPTY_TOOLS: Final[Mapping[int, bytes | None]] = {
    EmptyTools.EMPTY_TOOLS_UNSPECIFIED: b'[{"type":"%b"}]' % _IMAGE_TOOL.encode(),
    EmptyTools.EMPTY_TOOLS_ABSENT: None,
    EmptyTools.EMPTY_TOOLS_ARRAY: b"[]",
    EmptyTools.EMPTY_TOOLS_NULL: _NULL,
}
"""The "tools" of a request that has none; None where there is no such key."""

_IMPLIED_TYPES: Final = {"role": "message", "id": "item_reference"}
"""The types that APIs take an item without a type for, by a key that it has."""


def request_to_json(request: ImageRequest, *, stream: bool) -> bytes:
    """The body of a request, in UTF-8.

    A prompt alone is the "input" as a string; with images or items it becomes the last message of
    the user. Raises ConversionError, with the JSON Pointer of the culprit in this body:
    EMPTY_PROMPT, NOT_REPLAYABLE for an earlier call that the APIs do not take back, and as to_json
    does.
    """
    others = extra_values(request)
    found = {
        "model": quote(request.model) if request.model else None,
        "input": _input(request, others),
        "tools": _tools(request),
    }
    body = {name: value for name, value in found.items() if value is not None}
    for name in body.keys() & others.keys():
        raise _made_by_fields(name)
    body |= others
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
    if raws.get("model", _NULL) != _NULL:
        request.model = _string(raws.pop("model"), "model")
    _read_tools(request, raws.pop("tools", None), parse(raws.get("tool_choice", _NULL)))
    calls = {call.pointer: call.call for call in document.calls}
    if _read_input(request, raws.get("input", _NULL), calls):
        del raws["input"]
    stream = parse(raws.pop("stream", _NULL))
    if not isinstance(stream, bool | None):
        raise _wrong_type("stream", wanted="true or false", value=stream)
    for name, raw in raws.items():
        request.extra_fields.add(name=name, json=raw.decode())
    return ReadRequest(request, bool(stream))


def _string(raw: bytes, name: str) -> str:
    value = parse(raw)
    if isinstance(value, str) and value:
        return value
    raise _wrong_type(name, wanted="a string that is not empty", value=value)


def _wrong_type(*tokens: str | int, wanted: str, value: JsonValue) -> ConversionError:
    kind = "an empty one" if value == "" else type_name(value)
    message = f"{quoted(str(tokens[-1]))} must be {wanted}, not {kind}"
    return ConversionError("WRONG_TYPE", pointer_to(*tokens), message)


def _read_tools(request: ImageRequest, raw: bytes | None, choice: JsonValue) -> None:
    if raw not in (None, _NULL):
        if not isinstance(value := parse(raw), list):
            raise _wrong_type("tools", wanted="an array", value=value)
        for index, tool in enumerate(elements(raw)):
            try:
                request.tools.append(tool_from_json(tool))
            except ConversionError as error:
                raise error.under(pointer_to("tools", index)) from None
        raw = b"[]"
    if not request.tools and not _names_image_tool(choice):
        request.empty_tools = next(n for n, empty in _EMPTY_TOOLS.items() if empty == raw)  # type: ignore[assignment]  # a number of EmptyTools


def _names_image_tool(choice: JsonValue) -> bool:
    """Whether a "tool_choice" names the image tool, alone or among those that are allowed."""
    match choice:
        case {"type": "allowed_tools", "tools": list(tools)}:
            return any(map(_names_image_tool, tools))
        case {"type": str(name)}:
            return name == _IMAGE_TOOL
    return False


def _read_input(
    request: ImageRequest, raw: bytes, calls: Mapping[str, ImageGenerationCall]
) -> bool:
    """Reads an input; whether it has anything in it."""
    value = parse(raw)
    if value in _EMPTY_VALUES["input"]:
        return False
    if isinstance(value, str):
        request.prompt = value
        return True
    if not isinstance(value, list):
        raise _wrong_type("input", wanted="a string or an array", value=value)
    items = elements(raw)
    if last := read_message(items[-1], value[-1]):
        request.MergeFrom(last)
        del items[-1]
    for index, (item, meaning) in enumerate(zip(items, value, strict=False)):
        pointer = pointer_to("input", index)
        request.input_items.append(calls.get(pointer) or _other(item, meaning, pointer))
    if (items or request.input_images) and has_default_form(request):
        request.ClearField("message_json")
    return True


def _other(raw: bytes, value: JsonValue, pointer: str) -> ImageGenerationCall:
    """An item that is no call, such as a message, which may lack its "type"."""
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
    """The type that an item without one is taken for; "" if it has a type, or is none."""
    if not isinstance(item, dict) or item.get(TYPE) is not None:
        return ""
    return next((implied for key, implied in _IMPLIED_TYPES.items() if key in item), "")


def extra_values(request: ImageRequest) -> dict[str, bytes]:
    """The other keys of a request, as raw JSON text. Raises ConversionError."""
    if len(request.extra_fields) > MAX_KEYS:
        raise too_many_keys()
    values: dict[str, bytes] = {}
    for extra in request.extra_fields:
        pointer = pointer_to(extra.name)
        if extra.name in values:
            message = f"two extra fields have the key {quoted(extra.name)}"
            raise ConversionError("DUPLICATE_KEY", pointer, message)
        values[extra.name], value = raw_value(extra.json, pointer, MAX_DEPTH - 1)
        if extra.name in _OWN_KEYS and value not in _EMPTY_VALUES.get(extra.name, ()):
            raise _made_by_fields(extra.name)
    return values


def _made_by_fields(name: str) -> ConversionError:
    message = f"an extra field has the key {quoted(name)}, which other fields make"
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
    has_prompt = bool(request.prompt.strip())
    has_context = any(others.get(key, _NULL) != _NULL for key in _CONTEXT_KEYS)
    if not (has_prompt or request.input_items or has_context):
        message = "the prompt is empty: say what to draw"
        raise ConversionError("EMPTY_PROMPT", pointer_to("input"), message)
    if not (request.input_items or request.input_images or request.message_json):
        return quote(request.prompt) if request.prompt else None
    items = [_item(index, call) for index, call in enumerate(request.input_items)]
    if has_prompt or request.input_images or request.message_json:
        items.append(write_message(request, pointer_to("input", len(items))))
    return join_elements(items)


def _item(index: int, call: ImageGenerationCall) -> bytes:
    """An item before the prompt: a call as the APIs take it back, any other as it is."""
    try:
        if CALLS.chosen(call).option.fallback:
            return _without_type(call) or to_json(call)
        if any(not place.value for place in image_fields(call)):
            text = "the item's image has no bytes: put in those that came in chunks"
            raise ConversionError("NOT_REPLAYABLE", "", text)
        return to_json(to_input(call).call)
    except ConversionError as error:
        raise error.under(pointer_to("input", index)) from None


def _without_type(call: ImageGenerationCall) -> bytes:
    """The JSON of an item that has no type but the one that it is taken for; empty for another."""
    raw, value = raw_value(call.unknown_item.json, "", MAX_DEPTH - 2)
    return raw if _implied_type(value) == call.unknown_item.type != "" else b""
