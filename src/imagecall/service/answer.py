"""Answer of a service: the events, items and end that follow from what its generator yields."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass

from imagecall.errors import damaged_answer
from imagecall.formats import image_format
from imagecall.generation.assembly import StreamItem
from imagecall.generation.call_events import CallEvents, EventSequence
from imagecall.generation.messages import Fields, message_events
from imagecall.generation.response_keys import new_response_id
from imagecall.generation.words import Words, put_words
from imagecall.service.events import Event, FinalImage, Message, PartialImage
from imagecall.v1.image_generation_service_pb2 import StreamEnd, StreamEnding
from imagecall.v1.image_response_pb2 import ImageResponse, Usage
from imagecall.v1.stream_event_pb2 import StreamEvent


@dataclass(frozen=True)
class Made:
    """Event or end of an answer.

    Attributes:
        message: the event or end, with empty images.
        image: bytes of its image. None: the message has no image.
        is_final: true for a finished image.
        is_other: true for an event that concerns no image generation call.
    """

    message: StreamItem
    image: bytes | None = None
    is_final: bool = False
    is_other: bool = False

    @property
    def image_bytes(self) -> int:
        """Size of the image; 0 without one."""
        return len(self.image or b"")


class _Call:
    """Call of an answer that is not done yet."""

    def __init__(self, events: EventSequence, output_index: int) -> None:
        self.events = CallEvents(events, f"ig_{secrets.token_hex(16)}", output_index)
        self.partial_images = 0


class Answer:
    """Answer to one request.

    Args:
        model: model of the request; "" without one.
        partial_images: most partial images of an image.
    """

    def __init__(self, model: str, partial_images: int) -> None:
        self._most_partial_images = partial_images
        self._events = EventSequence()
        self._call: _Call | None = None
        self._items = 0
        self._texts: list[str] = []
        self._response = ImageResponse(id=new_response_id(), model=model or None)

    def of(self, event: Event) -> Iterator[Made]:
        """Yields what follows from an event of the generator. Raises TypeError for another."""
        match event:
            case PartialImage():
                yield from self._partial_image(event)
            case FinalImage():
                yield from self._final_image(event)
            case Message():
                yield from self._message(event)
            case Usage():
                self._response.usage.CopyFrom(event)
            case _:
                raise TypeError(f"generate() yielded {type(event).__name__}, which is no Event")

    def beginning(self) -> Iterator[Made]:
        """Yields the beginning of an image, unless there is one that has begun."""
        if self._call is None:
            self._call = _Call(self._events, self._items)
            yield from map(Made, self._call.events.beginning())

    def end(self) -> Iterator[Made]:
        """Yields the end. Raises GenerationError if an image is missing."""
        if self._call is not None or self._items == 0:
            raise damaged_answer("generate() ended before its FinalImage", "service")
        self._response.status = "completed"
        put_words(self._response, Words("".join(self._texts)))
        ending = StreamEnding.STREAM_ENDING_COMPLETED
        yield Made(StreamEnd(ending=ending, response=self._response))

    def _begun(self) -> _Call:
        assert self._call is not None
        return self._call

    def _partial_image(self, event: PartialImage) -> Iterator[Made]:
        yield from self.beginning()
        call = self._begun()
        if call.partial_images < self._most_partial_images:
            message = call.events.partial_image(call.partial_images)
            call.partial_images += 1
            yield Made(message, event.data)

    def _final_image(self, event: FinalImage) -> Iterator[Made]:
        yield from self.beginning()
        call = self._begun()
        yield Made(call.events.completed())
        yield Made(self._done(call.events, _item(event)), event.data, is_final=True)

    def _done(self, events: CallEvents, item: Fields) -> StreamEvent:
        self._call = None
        self._items += 1
        return events.done(item)

    def _message(self, event: Message) -> Iterator[Made]:
        if self._call is not None:  # The message stands in place of the image.
            yield Made(self._done(self._call.events, {"result": None, "status": "failed"}))
        name = f"msg_{secrets.token_hex(16)}"
        for fields in message_events(name, event.text, self._items):
            yield Made(self._events.event(fields), is_other=True)
        self._items += 1
        self._texts.append(event.text)


def _item(image: FinalImage) -> Fields:
    """Keys of the item of an image; the image itself is sent apart."""
    settings = {
        "revised_prompt": image.revised_prompt,
        "size": image.size,
        "quality": image.quality,
        "background": image.background,
        "output_format": image_format(image.data),
    }
    set_keys = {key: value for key, value in settings.items() if value}
    return {"result": "", "status": "completed"} | set_keys
