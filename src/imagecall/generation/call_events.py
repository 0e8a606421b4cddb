"""Events of an answer that is made in this process, in the form of the APIs, with empty images."""

from collections.abc import Iterator

import msgspec

from imagecall.conversion.converter import event_from_json
from imagecall.generation.messages import Fields
from imagecall.json.text import JsonValue
from imagecall.turns import take_turn
from imagecall.v1.stream_event_pb2 import StreamEvent


class EventSequence:
    """Sequence of the events of one answer. Each new event gets the next sequence number."""

    def __init__(self) -> None:
        self._number = 0

    def event(self, fields: Fields) -> StreamEvent:
        """Makes the next event from the keys of its JSON."""
        number, self._number = self._number, self._number + 1
        take_turn()
        return event_from_json(compact(fields | {"sequence_number": number}))


class CallEvents:
    """Events of one image generation call.

    Args:
        events: the sequence that the events belong to.
        name: id of the call.
        output_index: index of the call in the output of the response.
    """

    def __init__(self, events: EventSequence, name: str, output_index: int = 0) -> None:
        self._events = events
        self._name = name
        self._output_index = output_index

    def beginning(self) -> Iterator[StreamEvent]:
        """Yields the events until drawing begins."""
        yield self._item_event("added", {"status": "in_progress", "result": None})
        yield self._call_event("in_progress")
        yield self._call_event("generating")

    def partial_image(self, index: int, **settings: JsonValue) -> StreamEvent:
        """Event of a partial image, which repeats settings of the image."""
        return self._call_event(
            "partial_image", partial_image_index=index, partial_image_b64="", **settings
        )

    def completed(self) -> StreamEvent:
        """Event before the final item of a call that succeeds."""
        return self._call_event("completed")

    def done(self, item: Fields) -> StreamEvent:
        """Event of the final item, with these keys and those that every item has."""
        return self._item_event("done", item)

    def item(self, fields: Fields) -> Fields:
        """Item of the call, with these keys and those that every item has."""
        return {"type": "image_generation_call", "id": self._name} | fields

    def _item_event(self, name: str, item: Fields) -> StreamEvent:
        tag = f"response.output_item.{name}"
        return self._event(tag, item=self.item(item))

    def _call_event(self, name: str, **fields: JsonValue) -> StreamEvent:
        tag = f"response.image_generation_call.{name}"
        return self._event(tag, item_id=self._name, **fields)

    def _event(self, tag: str, **fields: JsonValue) -> StreamEvent:
        return self._events.event({"type": tag, **fields, "output_index": self._output_index})


def compact(value: JsonValue) -> bytes:
    """Writes JSON without spaces."""
    take_turn()
    return msgspec.json.encode(value)
