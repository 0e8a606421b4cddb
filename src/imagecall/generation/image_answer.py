"""Answer that is made in this process: the events, items and end that follow from image events."""

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from imagecall.errors import damaged_answer
from imagecall.formats import image_format
from imagecall.generation.assembly import StreamItem
from imagecall.generation.call_events import CallEvents, EventSequence
from imagecall.generation.image_events import (
    Event,
    FinalImage,
    ImageLink,
    Message,
    PartialImage,
)
from imagecall.generation.messages import Fields, message_events
from imagecall.generation.response_keys import new_response_id
from imagecall.generation.words import Words, put_words
from imagecall.v1.image_generation_service_pb2 import StreamEnd, StreamEnding
from imagecall.v1.image_response_pb2 import ImageResponse, ResponseError, Usage
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

    def __init__(self, events: EventSequence, name: str, output_index: int) -> None:
        self.events = CallEvents(events, name, output_index)
        self.partial_images = 0


def random_id(output_index: int) -> str:
    """New id of a call."""
    return f"ig_{secrets.token_hex(16)}"


class Answer:
    """Answer to one request.

    Args:
        model: model of the request; "" without one.
        partial_images: most partial images of an image.
        id_of: returns the id of the call at an index of the output.
    """

    def __init__(
        self, model: str, partial_images: int, id_of: Callable[[int], str] = random_id
    ) -> None:
        self._most_partial_images = partial_images
        self._id_of = id_of
        self._events = EventSequence()
        self._call: _Call | None = None
        self._items = 0
        self._texts: list[str] = []
        self._response = ImageResponse(id=new_response_id(), model=model or None)

    def of(self, event: Event | ImageLink) -> Iterator[Made]:
        """Yields what follows from an event. Raises TypeError for an object of another type."""
        match event:
            case PartialImage():
                yield from self._partial_image(event)
            case FinalImage():
                yield from self._final_image(_item(event), event.data)
            case ImageLink():
                yield from self._final_image(_keys(event) | {"result": event.url}, None)
            case Message():
                yield from self._message(event)
            case Usage():
                self._response.usage.CopyFrom(event)
            case _:
                raise TypeError(f"generate() yielded {type(event).__name__}, which is no Event")

    def beginning(self) -> Iterator[Made]:
        """Yields the beginning of an image, unless there is one that has begun."""
        if self._call is None:
            self._call = _Call(self._events, self._id_of(self._items), self._items)
            yield from map(Made, self._call.events.beginning())

    def end(self) -> Iterator[Made]:
        """Yields the end. Raises GenerationError if an image is missing."""
        if self._call is not None or self._items == 0:
            raise damaged_answer("generate() ended before its FinalImage", "service")
        yield self._end(StreamEnding.STREAM_ENDING_COMPLETED, "completed")

    def failed_end(self, error: ResponseError) -> Made:
        """Returns the end for an error that came after the images."""
        self._response.error.CopyFrom(error)
        return self._end(StreamEnding.STREAM_ENDING_FAILED, "failed")

    def _end(self, ending: StreamEnding.ValueType, status: str) -> Made:
        self._response.status = status
        put_words(self._response, Words("".join(self._texts)))
        return Made(StreamEnd(ending=ending, response=self._response))

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

    def _final_image(self, item: Fields, image: bytes | None) -> Iterator[Made]:
        yield from self.beginning()
        call = self._begun()
        yield Made(call.events.completed())
        yield Made(self._done(call.events, item), image, is_final=True)

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
    output_format = image_format(image.data)
    return _keys(image) | ({"output_format": output_format} if output_format else {})


def _keys(image: FinalImage | ImageLink) -> Fields:
    """Keys of the item of an image that do not depend on its bytes."""
    settings = {
        "revised_prompt": image.revised_prompt,
        "size": image.size,
        "quality": image.quality,
        "background": image.background,
    }
    set_keys = {key: value for key, value in settings.items() if value}
    return {"result": "", "status": "completed"} | set_keys
