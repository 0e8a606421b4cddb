"""Streams of a Responses API, put together for tests."""

import json
from base64 import b64decode, b64encode
from collections.abc import Iterable
from typing import Any, Final

from imagecall.generation.backend import Part, SmallPart
from imagecall.generation.parts import in_chunks, sendable
from imagecall.v1.image_generation_service_pb2 import StreamImageResponse

PNG: Final = b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
    "gg=="
)
"""An image of one pixel."""

Event = dict[str, Any]


def messages_of(part: Part) -> list[StreamImageResponse]:
    """A part of a backend's answer, as it is sent."""
    return [message_of(small) for small in in_chunks(part)]


def message_of(part: SmallPart) -> StreamImageResponse:
    """A part that is one message, as it is sent."""
    sent = sendable(part)
    return StreamImageResponse.FromString(sent) if isinstance(sent, bytes) else sent


def response(*output: Any, status: str = "completed", **keys: Any) -> Event:
    """A response object."""
    found = {"id": "resp_1", "object": "response", "created_at": 1758030932, "model": "gpt-5"}
    return found | {"status": status, "output": list(output), "error": None, "usage": None} | keys


def item(image: bytes | str | None = PNG, **keys: Any) -> Event:
    """A finished image item."""
    result = b64encode(image).decode() if isinstance(image, bytes) else image
    found = {"id": "ig_1", "type": "image_generation_call", "status": "completed"}
    return found | {"result": result} | keys


def happy(
    image: bytes = PNG, partials: Iterable[bytes] = (), done: Event | None = None
) -> list[Event]:
    """The events of one image."""
    final = done or item(image)
    begun = {"id": final.get("id"), "type": final["type"], "status": "in_progress"}
    call = {"item_id": final.get("id"), "output_index": 0}
    prefix = "response.image_generation_call."
    events: list[Event] = [
        {"type": "response.created", "response": response(status="in_progress")},
        {"type": "response.in_progress", "response": response(status="in_progress")},
        {"type": "response.output_item.added", "output_index": 0, "item": begun},
        {"type": prefix + "in_progress", **call},
        {"type": prefix + "generating", **call},
        *(
            {
                "type": prefix + "partial_image",
                **call,
                "partial_image_index": index,
                "partial_image_b64": b64encode(partial).decode(),
                "size": "1024x1024",
            }
            for index, partial in enumerate(partials)
        ),
        {"type": prefix + "completed", **call},
        {"type": "response.output_item.done", "output_index": 0, "item": final},
        {"type": "response.completed", "response": response(final)},
    ]
    return numbered(events)


def numbered(events: Iterable[Event]) -> list[Event]:
    return [event | {"sequence_number": number} for number, event in enumerate(events)]


def without(events: Iterable[Event], *types: str) -> list[Event]:
    """The events but those whose type ends with one of these."""
    return [event for event in events if not event["type"].endswith(types)]


def framed(events: Iterable[Event], *, named: bool = False, done: bool = True) -> bytes:
    """The events as server-sent events."""
    lines = [
        (f"event: {event['type']}\n" if named else "") + f"data: {json.dumps(event)}\n\n"
        for event in events
    ]
    return "".join([*lines, "data: [DONE]\n\n" if done else ""]).encode()
