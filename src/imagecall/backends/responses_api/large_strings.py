"""Use of the large strings of a stream's events, and their return to the place of their markers.

One image of each event is streamed while the event arrives. A string that the caller does not need
is skipped: the string of an event that the caller did not request, and an image of the response
that was already sent with its final item.
"""

from collections.abc import Iterable

from imagecall.backends.http_api.large_base64 import LargeBase64, Use
from imagecall.backends.responses_api.events import read_event
from imagecall.backends.responses_api.items import Items
from imagecall.conversion.converter import EVENTS, event_from_json
from imagecall.errors import ConversionError, damaged_answer
from imagecall.generation.chunked_fields import image_fields, text_fields
from imagecall.generation.response import ENDINGS, ReadResponse, response_from_json
from imagecall.json.text import closing_brackets, members
from imagecall.v1.image_generation_service_pb2 import StreamEnd, StreamImageRequest
from imagecall.v1.stream_event_pb2 import StreamEvent


class LargeStrings:
    """Chooses the use of the large strings of a stream.

    Attributes:
        streams: true if an image of the current event is streamed.
    """

    def __init__(self, request: StreamImageRequest, items: Items) -> None:
        self._request = request
        self._items = items
        self.streams = False

    def choose(self, name: str, data: bytes) -> Use:
        """Chooses the use of a large string, by its event's name and the data before the string."""
        marker = LargeBase64(Use.HOLD)
        prefix = data + marker.text_marker + b'"'
        partial = read_event(name, prefix + closing_brackets(data[:-1]))
        if partial is None or partial.fault:
            return Use.HOLD
        try:
            event = event_from_json(partial.data)
        except ConversionError:
            return Use.HOLD
        variant = EVENTS.chosen(event)
        if variant.option.fallback:
            return self._choose_in_other(event, marker)
        if self.streams or all(place.value != marker.marker for place in image_fields(event)):
            return Use.HOLD
        self.streams = True
        return Use.STREAM

    def _choose_in_other(self, event: StreamEvent, marker: LargeBase64) -> Use:
        """Chooses the use in an event of no image call, such as one that ends the stream."""
        text = event.unknown_item.json.encode()
        if event.unknown_item.type not in ENDINGS:
            return Use.HOLD if self._request.include_other_events else Use.SKIP
        if self._request.include_document:
            return Use.HOLD
        try:
            read = response_of(text)
        except ConversionError:
            return Use.HOLD
        for call in read.calls() if read else ():
            if any(place.value == marker.marker for place in image_fields(call)):
                return Use.SKIP if self._items.has_id(call) else Use.HOLD
        return Use.HOLD


def response_of(event: bytes) -> ReadResponse | None:
    """Response in an event; None if the event has none. Raises ConversionError."""
    response = members(event).get("response", b"")
    return response_from_json(response) if response.startswith(b"{") else None


def fill(message: StreamEvent | StreamEnd, large: Iterable[LargeBase64]) -> str:
    """Replaces the markers in an event with their large strings.

    Returns the path of the streamed image; "" without one. Raises GenerationError
    (UPSTREAM_DAMAGED) if the marker of a streamed image is not in the event.
    """
    places = image_fields(message)
    streamed = ""
    for string in large:
        own = [place for place in places if place.value == string.marker]
        for place in own:
            place.value = string.image or b""
            if string.use is Use.STREAM:
                streamed = place.path
        if string.image is not None:
            _fill_text(message, string)
        elif not own:
            raise damaged_answer("an image is not in the item in which it began")
    return streamed


def fill_end(end: StreamEnd, large: Iterable[LargeBase64]) -> None:
    """Replaces the markers in the end of a stream with their large strings.

    Raises GenerationError (UPSTREAM_DAMAGED) if the end needs a string that was skipped.
    """
    fill(end, [string for string in large if string.use is not Use.SKIP])
    skipped = {string.marker for string in large if string.use is Use.SKIP}
    if any(place.value in skipped for place in image_fields(end)):
        raise damaged_answer("two items of the response have the same id")


def _fill_text(message: StreamEvent | StreamEnd, string: LargeBase64) -> None:
    """Replaces a marker that is in raw JSON, outside the images of the schema."""
    for place in text_fields(message):
        marker = string.text_marker.decode()
        if marker in place.value:
            place.value = place.value.replace(marker, string.text.decode())
