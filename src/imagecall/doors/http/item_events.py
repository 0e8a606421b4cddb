"""Events of an output item that SDKs wait for and an API did not send.

The events follow the order of OpenAI's streams: the item is added; then the events of its image,
text or arguments; then the item is done. An event that the API sent is never added again.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from imagecall.doors.http.output_items import Followed, OutputItem, Part, item_of
from imagecall.json.pieces import Piece, join
from imagecall.json.text import (
    JsonValue,
    elements,
    join_elements,
    join_members,
    members,
    parse,
    quote,
)

ADDED: Final = "response.output_item.added"
DONE: Final = "response.output_item.done"

_CALL: Final = "image_generation_call"
_MESSAGE: Final = "message"
_FUNCTION_CALL: Final = "function_call"
_PARTIAL_IMAGE: Final = f"response.{_CALL}.partial_image"
_CALL_EVENTS: Final = (
    f"response.{_CALL}.in_progress",
    f"response.{_CALL}.generating",
    _PARTIAL_IMAGE,
    f"response.{_CALL}.completed",
)
"""Events of an image generation call in their order."""

_ARGUMENTS_EVENTS: Final = tuple(
    f"response.{_FUNCTION_CALL}_arguments.{name}" for name in ("delta", "done")
)
_PART_ADDED: Final = "response.content_part.added"
_PART_DONE: Final = "response.content_part.done"
_NULL: Final = b"null"
_EMPTY: Final = b'""'
_IN_PROGRESS: Final = b'"in_progress"'


class Event(NamedTuple):
    """Event of a stream."""

    type: str
    values: Mapping[str, Sequence[Piece]]
    """JSON pieces of each value by key, "type" among them."""


@dataclass(frozen=True)
class _TextKind:
    """Kind of a message's part with text: key of the text, types and further keys of the events."""

    key: str
    delta: str
    done: str
    further: Mapping[str, bytes]


_TEXT_KINDS: Final = {
    "output_text": _TextKind(
        "text", "response.output_text.delta", "response.output_text.done", {"logprobs": b"[]"}
    ),
    "refusal": _TextKind("refusal", "response.refusal.delta", "response.refusal.done", {}),
}
"""Kinds of parts with text, by type of the part."""

_DELTAS: Final = {text_kind.delta: tag for tag, text_kind in _TEXT_KINDS.items()}
_OF_PARTS: Final = {
    _PART_ADDED,
    _PART_DONE,
    *_DELTAS,
    *(text_kind.done for text_kind in _TEXT_KINDS.values()),
}


def event(tag: str, **values: bytes | Sequence[Piece]) -> Event:
    """Returns an event of a type, from values as raw JSON text or in pieces."""
    in_pieces: dict[str, Sequence[Piece]] = {"type": [quote(tag)]}
    for key, value in values.items():
        in_pieces[key] = [value] if isinstance(value, bytes) else value
    return Event(tag, in_pieces)


def type_of_item(tag: str) -> str:
    """Returns the item type that has events of a type; empty if several item types have them."""
    if tag in _OF_PARTS:
        return _MESSAGE
    return _CALL if tag.startswith(f"response.{_CALL}.") else ""


def note(item: Followed, tag: str, values: Mapping[str, JsonValue]) -> None:
    """Records an event of an item that is neither the item's first nor its last."""
    item.events.add(tag)
    index = values.get("content_index", 0)
    if tag not in _OF_PARTS or not isinstance(index, int):
        return
    part = item.parts.setdefault(index, Part())
    part.events.add(tag)
    if tag in _DELTAS and isinstance(delta := values.get("delta"), str):
        part.text.write(delta)


def before(item: Followed, tag: str, values: Mapping[str, JsonValue]) -> Iterator[Event]:
    """Yields the events missing before an event of an item: those of the item and of its part."""
    if item.type:
        yield from _added(item, {"type": quote(item.type), "id": quote(item.id)})
    index = values.get("content_index", 0)
    if tag in _DELTAS and isinstance(index, int):
        part = item.parts.setdefault(index, Part())
        if _PART_ADDED not in part.events:
            part.events.add(_PART_ADDED)
            yield _of_part(item, _PART_ADDED, index, part=_part(_DELTAS[tag], ""))


def ending(item: Followed, final: OutputItem | None, completed: bool) -> Iterator[Event]:
    """Yields the events of an item that are missing until the item is done.

    `final` is the item at the end of the stream; None if the end lacks the item, which is then
    composed of the content of its events.
    """
    if final is not None and not item.id:
        item.id = final.id
    if final is not None:
        final.complete(item.id)
    value = _so_far(item, completed) if final is None else final.raws()
    yield from before_done(item, final, value)
    item_pieces = [join_members(value)] if final is None else final.pieces()
    yield event(DONE, output_index=_number(item.index), item=item_pieces)


def before_done(
    item: Followed, final: OutputItem | None, value: Mapping[str, bytes]
) -> Iterator[Event]:
    """Yields the events of an item that are missing before the item is done.

    `value` has the finished item's values as raw JSON text.
    """
    yield from _added(item, value)
    if final is not None and final.is_image:
        yield from _call_events(item, final)
    elif item.type == _MESSAGE:
        yield from _contents(item, value)
    elif item.type == _FUNCTION_CALL:
        yield from _arguments(item, value)
    item.done = True
    item.final = final or item_of(join_members(value))


def _added(item: Followed, value: Mapping[str, bytes]) -> Iterator[Event]:
    """Yields the event that adds an item, if the API did not send it."""
    if item.added:
        return
    item.added = True
    yield event(ADDED, output_index=_number(item.index), item=join_members(_at_start(item, value)))


def _at_start(item: Followed, value: Mapping[str, bytes]) -> dict[str, bytes]:
    """Returns an item as it is when it begins: in progress, without content."""
    match item.type:
        case "message":
            message = {"role": b'"assistant"', **value}
            return message | {"status": _IN_PROGRESS, "content": b"[]"}
        case "function_call":
            return {**value, "status": _IN_PROGRESS, "arguments": _EMPTY}
        case "image_generation_call":
            call = {key: value[key] for key in ("type", "id") if key in value}
            return call | {"status": _IN_PROGRESS, "result": _NULL}
    return dict(value)


def _number(number: int) -> bytes:
    return str(number).encode()


def _of_item(item: Followed, tag: str, **values: bytes) -> Event:
    item.events.add(tag)
    return event(tag, item_id=quote(item.id), output_index=_number(item.index), **values)


def _of_part(item: Followed, tag: str, index: int, **values: bytes) -> Event:
    return _of_item(item, tag, content_index=_number(index), **values)


def _call_events(item: Followed, final: OutputItem) -> Iterator[Event]:
    """Yields a call's events after those that the API sent, up to the last if it has an image."""
    sent = [index for index, tag in enumerate(_CALL_EVENTS) if tag in item.events]
    end = len(_CALL_EVENTS) if final.has_result else 1
    for tag in _CALL_EVENTS[max(sent, default=-1) + 1 : end]:
        if tag != _PARTIAL_IMAGE:
            yield _of_item(item, tag)


def _contents(item: Followed, value: Mapping[str, bytes]) -> Iterator[Event]:
    for index, raw in enumerate(_array(value.get("content", _NULL))):
        if raw.startswith(b"{"):
            yield from _content(item, index, raw)


def _content(item: Followed, index: int, raw: bytes) -> Iterator[Event]:
    """Yields the events of a message's part that the API did not send."""
    sent = item.parts.setdefault(index, Part()).events
    value = members(raw)
    text_kind = _text_kind(value)
    if _PART_ADDED not in sent:
        empty = value if text_kind is None else value | {text_kind.key: _EMPTY}
        yield _of_part(item, _PART_ADDED, index, part=join_members(empty))
    if text_kind is not None and text_kind.done not in sent:
        text = value[text_kind.key]
        if text_kind.delta not in sent and text != _EMPTY:
            yield _of_part(item, text_kind.delta, index, delta=text, **text_kind.further)
        yield _of_part(item, text_kind.done, index, **{text_kind.key: text}, **text_kind.further)
    if _PART_DONE not in sent:
        yield _of_part(item, _PART_DONE, index, part=raw)


def _text_kind(part: Mapping[str, bytes]) -> _TextKind | None:
    """Returns the kind of a part; None for a part without text."""
    tag: JsonValue = parse(part.get("type", _NULL))
    text_kind = _TEXT_KINDS.get(tag) if isinstance(tag, str) else None
    return text_kind if text_kind and part.get(text_kind.key, _NULL).startswith(b'"') else None


def _array(raw: bytes) -> list[bytes]:
    return elements(raw) if raw.startswith(b"[") else []


def _arguments(item: Followed, value: Mapping[str, bytes]) -> Iterator[Event]:
    """Yields the events of a function call's arguments, if the API sent none."""
    arguments = value.get("arguments", _NULL)
    if arguments.startswith(b'"') and item.events.isdisjoint(_ARGUMENTS_EVENTS):
        delta, done = _ARGUMENTS_EVENTS
        yield _of_item(item, delta, delta=arguments)
        yield _of_item(item, done, arguments=arguments, name=value.get("name", _NULL))


def _so_far(item: Followed, completed: bool) -> dict[str, bytes]:
    """Builds an item from its events alone, for an end of the stream that lacks the item."""
    value = {"type": quote(item.type), "id": quote(item.id)}
    if item.added_item is not None:
        value |= members(join(item.added_item.pieces()))
    match item.type:
        case "message":
            found = (part for _, part in sorted(item.parts.items()))
            parts = [_part(_kind(part), part.text.getvalue()) for part in found]
            status = b'"completed"' if completed else b'"incomplete"'
            value |= {"content": join_elements(parts), "status": status}
        case "image_generation_call":
            value |= {"status": b'"failed"'}
    return value


def _part(tag: str, text: str) -> bytes:
    part = {"type": quote(tag), _TEXT_KINDS[tag].key: quote(text)}
    return join_members(part | ({"annotations": b"[]"} if tag == "output_text" else {}))


def _kind(part: Part) -> str:
    """Returns the type of a part, judged by its events."""
    return next((tag for delta, tag in _DELTAS.items() if delta in part.events), "output_text")
