"""Events of a Responses API's stream, told from heartbeats and from what other servers mix in.

The type of an event may stand in its `event:` line alone. An event that has no data, or data that
is not JSON under no name of ours, is a heartbeat, as is JSON without a type under a foreign name.
"""

import json
import re
from dataclasses import dataclass
from typing import Final

from imagecall.conversion.converter import CALLS, EVENTS
from imagecall.errors import ConversionError
from imagecall.generation.response import ENDINGS
from imagecall.json.text import JsonValue, join_members, members, parse, quote

_ERRORS: Final = frozenset({"error", "response.error"})
_PREFIX: Final = "response."
_UNNAMED: Final = frozenset({"", "message"})
"""Names of events of no certain kind; the second is the default of server-sent events."""

_TYPE_FIRST: Final = re.compile(rb'\s*\{\s*"type"\s*:\s*"([^"\\]*)"')


@dataclass(slots=True)
class Event:
    """An event with data.

    Attributes:
        tag: its type; "" if it has none.
        name: the value of its `event:` line; "" if it has none.
        value: its members. Of a faulty event as far as they can be read.
        data: its JSON, with its type.
        fault: why its JSON is refused. None: it is not.
    """

    tag: str
    name: str
    value: dict[str, JsonValue]
    data: bytes
    fault: ConversionError | None

    @property
    def is_error(self) -> bool:
        """True for an error, which ends the stream."""
        return self.tag in _ERRORS or (self.name in _UNNAMED and self._has_error)

    @property
    def is_foreign_error(self) -> bool:
        """True for an event of a foreign name with an error, which may not concern the stream."""
        return self.name not in _UNNAMED and self._has_error

    @property
    def _has_error(self) -> bool:
        return not self.tag and bool(self.value.get("error"))

    @property
    def error(self) -> JsonValue:
        """The error object of an event that is an error, or the text in its stead."""
        others = {key: value for key, value in self.value.items() if key != "type"}
        return others.get("error") or others or self.data.decode(errors="replace").strip()

    @property
    def failure(self) -> JsonValue:
        """The error of an event that ends the stream, or of its response; None if none is known."""
        response = self.value.get("response")
        inner = response.get("error") if isinstance(response, dict) else None
        return self.value.get("error") or inner

    @property
    def may_have_image(self) -> bool:
        """True for a faulty event that may be of an image item, or have an image."""
        if self.tag not in EVENTS.by_type:
            return False
        return not self.is_of_item or self.items_named > 0

    @property
    def is_of_item(self) -> bool:
        """True for an event with an item: one that was added, or is final."""
        return self.tag.startswith(_PREFIX + "output_item.")

    @property
    def lacks_item(self) -> bool:
        """True for an event that should have an item, and has none."""
        return self.is_of_item and not isinstance(self.value.get("item"), dict)

    @property
    def items_named(self) -> int:
        """The number of image items in the event, by their types."""
        return sum(self.data.count(b'"%b"' % name.encode()) for name in CALLS.by_type)


def read_event(name: str, data: bytes) -> Event | None:
    """An event by its name and its data; None for a heartbeat."""
    if not data.strip():
        return None
    own_name = name if name in _ERRORS or name.startswith(_PREFIX) else ""
    fault = None
    try:
        value = parse(data)
    except ConversionError as error:
        fault = error
        value = _loosely(data)
    if not isinstance(value, dict):
        text = value.encode(errors="replace") if isinstance(value, str) else data
        return _without_object(own_name, text, fault)
    tag = value.get("type")
    if isinstance(tag, str) and tag:
        return Event(tag, name, value, data, fault)
    if own_name and not fault:
        data = join_members({"type": quote(own_name)} | _others(data))
    is_heartbeat = fault and not own_name and name not in _UNNAMED
    return None if is_heartbeat else Event(own_name, name, value, data, fault)


def _without_object(name: str, data: bytes, fault: ConversionError | None) -> Event | None:
    """An event of ours whose data is no object; None for another, which is a heartbeat."""
    if name in _ERRORS:
        return Event(name, name, {}, data, fault)
    if name in ENDINGS:
        return Event(name, name, {}, join_members({"type": quote(name)}), None)
    return Event(name, name, {}, data, fault) if name and fault else None


def _others(data: bytes) -> dict[str, bytes]:
    return {key: raw for key, raw in members(data).items() if key != "type"}


def _loosely(data: bytes) -> JsonValue:
    """The object that a faulty text may mean; {} if that cannot be known; None if it is none."""
    if not data.lstrip().startswith(b"{"):
        return None
    try:
        return json.loads(data.decode(errors="replace"), strict=False)
    except (ValueError, RecursionError):
        match = _TYPE_FIRST.match(data)
        return {"type": match[1].decode(errors="replace")} if match else {}
