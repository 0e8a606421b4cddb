"""Events of a stream as JSON, of which any key may be missing or have another type."""

from typing import Any, Final, TypeAlias

from imagecall.conversion.converter import CALLS

_CALL: Final = "response.image_generation_call."
CREATED: Final = "response.created"
ADDED: Final = "response.output_item.added"
DONE: Final = "response.output_item.done"
PARTIAL: Final = f"{_CALL}partial_image"
ORDER: Final = (
    ADDED,
    f"{_CALL}in_progress",
    f"{_CALL}generating",
    PARTIAL,
    f"{_CALL}completed",
    DONE,
)
"""Types of the events of a call, in their order."""

Event: TypeAlias = dict[str, Any]


def type_of(event: Event) -> str:
    """Type of the event; "" if it has none."""
    return _text(event.get("type")) or ""


def item_of(event: Event) -> Event:
    """Item of an event of ADDED or DONE; empty if there is none."""
    item = event.get("item")
    return item if isinstance(item, dict) else {}


def is_of_item(event: Event) -> bool:
    """True for an event with an item: of ADDED or DONE."""
    return type_of(event) in (ADDED, DONE)


def is_of_call(event: Event) -> bool:
    """True for an event of an image call."""
    if is_of_item(event):
        return type_of(item_of(event)) in CALLS.by_type
    return type_of(event) in ORDER


def id_of(event: Event) -> str | None:
    """Identifier of the item of the event; None if it is missing or empty."""
    return _text(item_of(event).get("id") if is_of_item(event) else event.get("item_id"))


def index_of(event: Event) -> int | None:
    """Index of the item in the output; None if it is missing or negative."""
    return _number(event.get("output_index"))


def number_of(event: Event) -> int | None:
    """Sequence number; None if it is missing or negative."""
    return _number(event.get("sequence_number"))


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _number(value: Any) -> int | None:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value if is_number and value >= 0 else None
