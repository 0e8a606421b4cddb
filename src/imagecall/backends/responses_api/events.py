"""Events of a Responses API's stream, separated from heartbeats and from foreign events.

The type of an event may be in the `event:` line alone. Names of this API are "error" and those
that begin with "response."; every other name is foreign. Heartbeats are events without data, and
under a foreign name also data that is not JSON, or JSON without a type.
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
"""Names of events without a kind; the second is the default of server-sent events."""

_TYPE_FIRST: Final = re.compile(rb'\s*\{\s*"type"\s*:\s*"([^"\\]*)"')


@dataclass(slots=True)
class Event:
    """An event with data.

    Attributes:
        tag: type of the event; "" if it has none.
        name: value of the `event:` line; "" if there is none.
        value: members of the JSON object; of a faulty event those that can be read.
        data: JSON of the event, with its type.
        fault: error with which the JSON was refused. None: the JSON is valid.
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
        """Error object of an error event, or its text if the event has no object."""
        others = {key: value for key, value in self.value.items() if key != "type"}
        return others.get("error") or others or self.data.decode(errors="replace").strip()

    @property
    def failure(self) -> JsonValue:
        """Error of an event that ends the stream, or of the event's response; None without one."""
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
        """Number of image items in the event, by their types."""
        return sum(self.data.count(b'"%b"' % name.encode()) for name in CALLS.by_type)


def read_event(name: str, data: bytes) -> Event | None:
    """Reads an event from its name and its data; returns None for a heartbeat."""
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
    """Event of this API's name whose data is not a JSON object; None for a heartbeat."""
    if name in _ERRORS:
        return Event(name, name, {}, data, fault)
    if name in ENDINGS:
        return Event(name, name, {}, join_members({"type": quote(name)}), None)
    return Event(name, name, {}, data, fault) if name and fault else None


def _others(data: bytes) -> dict[str, bytes]:
    return {key: raw for key, raw in members(data).items() if key != "type"}


def _loosely(data: bytes) -> JsonValue:
    """Object that a faulty text may mean; {} if unreadable; None if the text is not an object."""
    if not data.lstrip().startswith(b"{"):
        return None
    try:
        return json.loads(data.decode(errors="replace"), strict=False)
    except (ValueError, RecursionError):
        match = _TYPE_FIRST.match(data)
        return {"type": match[1].decode(errors="replace")} if match else {}
