"""Answer to an order, in the events and the response object of the APIs, with empty images.

The answer has the form of an API's, and echoes the request keys that APIs echo.
"""

import time
from collections.abc import Iterator
from typing import Final

import msgspec

from imagecall.backends.embedded import MODEL
from imagecall.backends.embedded.order import Order
from imagecall.generation.call_events import CallEvents, EventSequence, compact
from imagecall.generation.messages import Fields, message_events, message_item
from imagecall.generation.response import ReadResponse, response_from_json
from imagecall.generation.response_keys import response_keys
from imagecall.json.text import JsonValue, members
from imagecall.sizes import SCANNED
from imagecall.turns import take_turn
from imagecall.v1.image_generation_service_pb2 import StreamEnding
from imagecall.v1.stream_event_pb2 import StreamEvent

_OPENING: Final = ("response.created", "response.in_progress")
_NO_IMAGE: Final = 'No image was drawn, as "tool_choice" allows none.'
_FAILURES: Final[dict[str, Fields]] = {
    "failed": {"error": {"code": "server_error", "message": "the request asked for a failure"}},
    "incomplete": {"incomplete_details": {"reason": "max_output_tokens"}},
}
_ENDINGS: Final = {
    "completed": StreamEnding.STREAM_ENDING_COMPLETED,
    "failed": StreamEnding.STREAM_ENDING_FAILED,
    "incomplete": StreamEnding.STREAM_ENDING_INCOMPLETE,
    "none": StreamEnding.STREAM_ENDING_UNANNOUNCED,
    "cut": StreamEnding.STREAM_ENDING_UNANNOUNCED,
}


class Answer:
    """Answer to one order.

    Attributes:
        ending: StreamEnding of the stream.
    """

    def __init__(self, order: Order) -> None:
        self._order = order
        self._events = EventSequence()
        self._call = CallEvents(self._events, f"ig_{order.digest[:24]}")
        self._message_id = f"msg_{order.digest[:24]}"
        self._prompt = order.prompt
        self._response = _response_object(order, f"resp_{order.digest[24:48]}")
        self.ending = _ENDINGS[order.faults.ending]

    def opening(self) -> Iterator[StreamEvent]:
        """Yields the events before the first item."""
        for tag in _OPENING:
            yield self._events.event({"type": tag, "response": self._response})

    def skip_opening(self) -> None:
        """Takes the numbers of the events before the first item."""
        for _ in _OPENING:
            self._events.next_number()

    def beginning(self) -> Iterator[StreamEvent]:
        """Yields the events of an image until drawing begins."""
        return self._call.beginning()

    def partial_image(self, index: int) -> StreamEvent:
        """Event of a partial image."""
        return self._call.partial_image(index, **self._repeated_settings())

    def completed(self) -> StreamEvent:
        """Event before the final item of a call that succeeds."""
        return self._call.completed()

    def done(self) -> StreamEvent:
        """Event of the final item."""
        return self._call.done(self._image_item())

    def message(self) -> Iterator[StreamEvent]:
        """Yields the events of the message that follows or replaces the image."""
        if self._order.succeeds:
            index = int(self._order.draws)
            for fields in message_events(self._message_id, self._text(), index):
                yield self._events.event(fields)

    def response(self) -> ReadResponse:
        """Response at the end, with an empty image."""
        ending = self._order.faults.ending
        status = ending if ending in _FAILURES else "completed"
        response = self._response | _FAILURES.get(ending, {})
        response |= {"status": status, "completed_at": int(time.time())}
        response["output"] = list(self._output())
        response["usage"] = _usage(self._prompt)
        return response_from_json(compact(response))

    def _output(self) -> Iterator[JsonValue]:
        if self._order.draws:
            yield self._call.item(self._image_item())
        if self._order.succeeds:
            yield message_item(self._message_id, self._text())

    def _image_item(self) -> Fields:
        status, result = ("completed", "") if self._order.has_image else ("failed", None)
        item: Fields = {"result": result, "status": status, "revised_prompt": self._prompt}
        return item | self._repeated_settings()

    def _text(self) -> str:
        settings = self._order.settings
        drawn = f"Here is a test card of {settings.size} pixels, as {settings.output_format}."
        return drawn if self._order.draws else _NO_IMAGE

    def _repeated_settings(self) -> dict[str, str]:
        """Settings of the image that its item and its events repeat."""
        settings = self._order.settings
        return {
            "size": settings.size,
            "quality": settings.quality,
            "background": settings.background,
            "output_format": settings.output_format,
        }


def _response_object(order: Order, name: str) -> Fields:
    """Response object at the start of the answer."""
    body = members(order.body)
    if not order.has_tools:
        # OpenRouter's SDKs of 2025 refuse an image tool here, and their requests cannot have one.
        body.pop("tools", None)
    keys = response_keys(body, name)
    raws: Fields = {key: msgspec.Raw(raw) for key, raw in keys.items()}
    return raws if keys["model"] != b'""' else raws | {"model": MODEL}


def _usage(prompt: str) -> Fields:
    """Usage object: the words of the prompt as input tokens, and no output tokens."""
    words = 0
    for start in range(0, len(prompt), SCANNED):  # A long prompt has millions of words.
        take_turn()
        words += len(prompt[start : start + SCANNED].split())
    return {
        "input_tokens": words,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 0,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": words,
    }
