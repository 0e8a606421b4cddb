"""Kinds of records, found by their keys: an item, or a kind of document."""

from contextlib import suppress
from typing import Final, Literal, TypeAlias

import jiter

from imagecall.conversion.converter import CALLS, EVENTS
from imagecall.conversion.document import KINDS, Kind
from imagecall.conversion.objects import TYPE, as_object
from imagecall.errors import ConversionError, pointer_to
from imagecall.json.large_strings import set_aside
from imagecall.json.text import JsonValue, parse

RecordKind: TypeAlias = Kind | Literal["item"]

ITEM: Final = "item"
RECORD_KINDS: Final = (ITEM, *KINDS)

_EVENT_PREFIX: Final = "response."


def kind_of(text: bytes) -> RecordKind:
    """Finds the kind of a JSON text. Raises ConversionError for a text that is of no kind."""
    value = as_object(_outline(text))
    tag = value.get(TYPE)
    if "custom_id" in value and not {"response", "error"}.isdisjoint(value):
        return "batch_response"
    if "custom_id" in value and "body" in value:
        return "batch_request"
    if isinstance(tag, str) and TYPE in value:
        is_event = tag.startswith(_EVENT_PREFIX) or tag in EVENTS.by_type
        return "event" if is_event or "sequence_number" in value else ITEM
    if value.get("object") == "response" or "output" in value:
        return "response"
    if "input" in value:
        return "request"
    message = (
        'the object has no "type", and is neither a request, a response nor a line of the Batch API'
    )
    raise ConversionError("MISSING_KEY", pointer_to(TYPE), message)


def _outline(text: bytes) -> JsonValue:
    """Parses a text, without its large images where that is possible.

    Raises ConversionError.
    """
    short, spans = set_aside(text, CALLS.image_pattern)
    if spans:
        with suppress(ValueError):
            return jiter.from_json(short, allow_inf_nan=False)
    return parse(text)
