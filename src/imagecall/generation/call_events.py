"""Events of an answer that is made in this process, in the form of the APIs, with empty images."""

from collections.abc import Iterator
from typing import Any

import msgspec

from imagecall.conversion.converter import event_from_json, from_json
from imagecall.generation.messages import Fields
from imagecall.json.text import JsonValue
from imagecall.turns import take_turn
from imagecall.v1 import stream_event_pb2 as pb
from imagecall.v1.image_result_pb2 import ImageResult
from imagecall.v1.stream_event_pb2 import StreamEvent


class EventSequence:
    """Sequence of the events of one answer. Each new event gets the next sequence number."""

    def __init__(self) -> None:
        self._number = 0

    def next_number(self) -> int:
        """Takes the number of the next event."""
        number, self._number = self._number, self._number + 1
        return number

    def event(self, fields: Fields) -> StreamEvent:
        """Makes the next event from the keys of its JSON."""
        take_turn()
        return event_from_json(compact(fields | {"sequence_number": self.next_number()}))


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
        item = self._place({"status": "in_progress", "result": None})
        yield StreamEvent(output_item_added_event=pb.OutputItemAddedEvent(**item))
        place = self._place()
        yield StreamEvent(image_gen_call_in_progress_event=pb.ImageGenCallInProgressEvent(**place))
        place = self._place()
        yield StreamEvent(image_gen_call_generating_event=pb.ImageGenCallGeneratingEvent(**place))

    def partial_image(self, index: int, **settings: Any) -> StreamEvent:
        """Event of a partial image, which repeats settings of the image."""
        event = pb.ImageGenCallPartialImageEvent(
            **self._place(),
            partial_image_index=index,
            partial_image_b64=ImageResult(image=b""),
            **settings,
        )
        return StreamEvent(image_gen_call_partial_image_event=event)

    def completed(self) -> StreamEvent:
        """Event before the final item of a call that succeeds."""
        event = pb.ImageGenCallCompletedEvent(**self._place())
        return StreamEvent(image_gen_call_completed_event=event)

    def done(self, item: Fields) -> StreamEvent:
        """Event of the final item, with these keys and those that every item has."""
        return StreamEvent(output_item_done_event=pb.OutputItemDoneEvent(**self._place(item)))

    def item(self, fields: Fields) -> Fields:
        """Item of the call, with these keys and those that every item has."""
        return {"type": "image_generation_call", "id": self._name} | fields

    def _place(self, item: Fields | None = None) -> Any:
        """Fields that every event of the call has."""
        subject = {"item": from_json(compact(self.item(item)))} if item else {"item_id": self._name}
        number = self._events.next_number()
        return subject | {"output_index": self._output_index, "sequence_number": number}


def compact(value: JsonValue) -> bytes:
    """Writes JSON without spaces."""
    take_turn()
    return msgspec.json.encode(value)
