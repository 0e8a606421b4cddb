"""The stream of a Responses API as parts of the answer to StreamImage.

What holds, see proto/imagecall/v1/image_generation_service.proto: the item of
`response.output_item.done` is the authority, and nothing in it is rewritten; an item for which that
event did not come is taken from the response at the end; an image leaves in chunks while it
arrives; a stream that ends before an image it had begun is damaged.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final

from imagecall.backends.responses_api.errors import (
    Secrets,
    failed,
    not_understood,
    without_secrets,
)
from imagecall.backends.responses_api.items import Items
from imagecall.backends.responses_api.large_base64 import LargeBase64, Use
from imagecall.backends.responses_api.sse import SseEvent, SseReader
from imagecall.conversion.converter import CALLS, EVENTS, event_from_json
from imagecall.errors import ConversionError, damaged_answer, too_large_answer
from imagecall.generation.backend import Part
from imagecall.generation.chunked_fields import images, texts
from imagecall.generation.parts import in_parts
from imagecall.generation.response import ENDINGS, ReadResponse, end_of, response_from_json
from imagecall.json.text import JsonValue, closing_brackets, members, parse
from imagecall.v1.image_generation_service_pb2 import (
    StreamEnd,
    StreamEnding,
    StreamImageRequest,
)
from imagecall.v1.image_response_pb2 import ImageResponse
from imagecall.v1.stream_event_pb2 import StreamEvent
from imagecall.wire.chunks import Chunker

_DONE: Final = b"[DONE]"
_ERRORS: Final = ("error", "response.error")
_MOST_MISSING: Final = 2**31 - 1
_NO_RESPONSE: Final = "a stream without a response"


class ResponseStream:
    """A stream that arrives: `feed` its bytes, until it has `ended`; then `finish`.

    Args:
        request: what is wanted beside the events of image generation calls.
        secrets: masked in each event.
        max_bytes: the limit of an event, without an image that is streamed.
        max_image_bytes: the limit of an image that is streamed.
    """

    def __init__(
        self, request: StreamImageRequest, secrets: Secrets, max_bytes: int, max_image_bytes: int
    ) -> None:
        self._request = request
        self._secrets = secrets
        self._max_bytes = max_bytes
        self._max_image_bytes = max_image_bytes
        self._chunker: Chunker | None = None
        self._items = Items()
        self._wanted = _Wanted(request, self._items)
        # Not a method of ours, which would keep us, and an image, until cycles are looked for.
        self._reader = SseReader(EVENTS.image_keys, self._wanted.choose, max_bytes)
        self._response = ImageResponse()
        self._spoke = False
        self._last_number: int | None = None
        self._missing = 0
        self.ended = False

    @property
    def in_string(self) -> bool:
        """Whether a large string has begun and not ended."""
        return self._reader.in_string

    def feed(self, received: bytes) -> Iterator[Part]:
        """Takes what arrived; gives parts of the answer. Raises GenerationError."""
        for part in self._reader.feed(received):
            if isinstance(part, SseEvent):
                yield from self._read(part)
            else:
                yield from self._stream(part)
            if self.ended:
                return

    def finish(self) -> Iterator[Part]:
        """The connection has ended; gives the last parts of the answer. Raises GenerationError."""
        for event in [] if self.ended else self._reader.finish():
            yield from self._read(event)
        if not self.ended:
            yield from self._unannounced_end(announced=False)

    def _stream(self, piece: bytes) -> Iterator[Part]:
        self._chunker = self._chunker or Chunker()
        before = self._chunker.add(piece)
        if self._chunker.size > self._max_image_bytes:
            raise too_large_answer("an image", self._max_image_bytes)
        if before:
            yield before

    def _read(self, sse: SseEvent) -> Iterator[Part]:
        """Reads an event."""
        if sse.data.strip() == _DONE:
            yield from self._unannounced_end(announced=True)
            return
        self._wanted.streams = False
        sse.data = without_secrets(sse.data, self._secrets)
        value = self._parsed(sse)
        if not isinstance(value, dict):
            return
        tag = value.get("type")
        named = tag if isinstance(tag, str) else sse.name
        if named in _ERRORS or (not isinstance(tag, str) and value.get("error")):
            error = value.get("error") or {key: v for key, v in value.items() if key != "type"}
            raise failed(error, self._secrets, {})
        if not isinstance(tag, str):
            return
        self._spoke = True
        self._count(value.get("sequence_number"))
        if tag in ENDINGS:
            yield from self._end(sse, ENDINGS[tag])
            return
        yield from self._event(sse)

    def _parsed(self, sse: SseEvent) -> JsonValue:
        """What an event means. Of a faulty one that can be done without, no more than its type."""
        try:
            return parse(sse.data)
        except ConversionError as error:
            tag = _loose_type(sse.data)
            if not self._can_do_without(tag, sse.data):
                raise damaged_answer(f"an event is not JSON: {error}") from None
            sse.data = b"{}"
            return {"type": tag} if tag in ENDINGS else None

    def _can_do_without(self, tag: str, data: bytes) -> bool:
        """Whether what an event of this type says was said before, or was not asked for."""
        if tag in ENDINGS:
            items = sum(data.count(f'"{name}"'.encode()) for name in CALLS.by_type)
            said = items <= self._items.done and not self._items.open
            return said and self._items.done > 0 and not self._request.include_document
        known = tag in EVENTS.by_type or tag in _ERRORS
        return bool(tag) and not known and not self._request.include_other_events

    def _count(self, number: JsonValue) -> None:
        """Counts the events that are missing, as far as the sequence numbers show it."""
        if isinstance(number, int) and not isinstance(number, bool):
            last = self._last_number
            if last is None or number > last:
                new = 0 if last is None else number - last - 1
                self._missing = min(self._missing + new, _MOST_MISSING)
                self._last_number = number
            elif number < last:
                self._missing = max(self._missing - 1, 0)  # One that comes late.

    def _event(self, sse: SseEvent) -> Iterator[Part]:
        try:
            event = event_from_json(sse.data, max_bytes=self._max_bytes)
        except ConversionError as error:
            raise damaged_answer(f"{error.pointer or 'an event'}: {error}") from None
        other = EVENTS.chosen(event).option.fallback
        if other:
            self._learn(event)
            if not self._request.include_other_events:
                return
        sent = _fill(event, sse.large)
        self._items.note(event)
        if sent:
            assert self._chunker is not None
            yield self._chunker.finish(sent)
            self._chunker = None
        yield from in_parts(event, {sent} if sent else ())

    def _learn(self, event: StreamEvent) -> None:
        """Keeps what an event says of the response, for an end that says nothing."""
        with suppress(ConversionError):
            if read := _response_of(event.unknown_item.json.encode()):
                self._response = read.response

    def _end(self, sse: SseEvent, ending: int) -> Iterator[Part]:
        try:
            read = _response_of(sse.data)
        except ConversionError as error:
            raise damaged_answer(f"{error.pointer} of the response: {error}") from None
        if read is None:
            yield from self._unannounced_end(announced=False, ending=ending)
            return
        delivered = self._items.delivered([call for _, call in read.calls()])
        end = end_of(read, ending, self._request.include_document, delivered)
        _fill(end, [large for large in sse.large if large.use is not Use.SKIP])
        skipped = {large.marker for large in sse.large if large.use is Use.SKIP}
        if any(place.value in skipped for place in images(end)):
            raise damaged_answer("two items of the response have the same id")
        yield from self._ended(end)

    def _unannounced_end(
        self, announced: bool, ending: int = StreamEnding.STREAM_ENDING_UNANNOUNCED
    ) -> Iterator[Part]:
        """The end of a stream that does not say what the response is."""
        if not self._spoke:
            raise not_understood(_NO_RESPONSE, may_be_billed=True)
        missing = f"; {self._missing} events are missing" if self._missing else ""
        if self._items.open:
            raise damaged_answer(f"it ends before the image of {self._items.open[0]}{missing}")
        if not (announced or self._items.done):
            raise damaged_answer(f"it ends before an image{missing}")
        end = StreamEnd(ending=ending, response=self._response)  # type: ignore[arg-type]  # a number of StreamEnding
        yield from self._ended(end)

    def _ended(self, end: StreamEnd) -> Iterator[Part]:
        end.missing_events = self._missing
        self.ended = True
        yield from in_parts(end)


class _Wanted:
    """What is wanted of the large strings of a stream.

    Attributes:
        streams: whether an image of the event that arrives is streamed: but one.
    """

    def __init__(self, request: StreamImageRequest, items: Items) -> None:
        self._request = request
        self._items = items
        self.streams = False

    def choose(self, data: bytes) -> Use:
        """What is wanted of a large string, by what stands before it in the event."""
        marker = LargeBase64(Use.HOLD)
        known = data + marker.text_marker + b'"'
        try:
            event = event_from_json(known + closing_brackets(data[:-1]))
        except ConversionError:
            return Use.HOLD
        variant = EVENTS.chosen(event)
        if variant.option.fallback:
            return self._choose_in_other(event, marker)
        if self.streams or all(place.value != marker.marker for place in images(event)):
            return Use.HOLD
        self.streams = True
        return Use.STREAM

    def _choose_in_other(self, event: StreamEvent, marker: LargeBase64) -> Use:
        """The same for an event that concerns no image call, such as one that ends the stream."""
        text = event.unknown_item.json.encode()
        if event.unknown_item.type not in ENDINGS:
            return Use.HOLD if self._request.include_other_events else Use.SKIP
        if self._request.include_document:
            return Use.HOLD
        try:
            read = _response_of(text)
        except ConversionError:
            return Use.HOLD
        for _, call in read.calls() if read else ():
            if any(place.value == marker.marker for place in images(call)):
                return Use.SKIP if self._items.has_id(call) else Use.HOLD
        return Use.HOLD


def _loose_type(data: bytes) -> str:
    """The "type" of an event that is not quite JSON, such as for half a surrogate pair in it."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return ""
    tag = value.get("type") if isinstance(value, dict) else ""
    return tag if isinstance(tag, str) else ""


def _response_of(event: bytes) -> ReadResponse | None:
    """The response that an event is of; None if it has none. Raises ConversionError."""
    response = members(event).get("response", b"")
    return response_from_json(response) if response.startswith(b"{") else None


def _fill(message: StreamEvent | StreamEnd, large: Iterable[LargeBase64]) -> str:
    """Puts the large strings of an event in the place of their markers.

    Returns the path of the image that was streamed; "" if none was.
    """
    places = images(message)
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
            raise damaged_answer("an image is not where it began")
    return streamed


def _fill_text(message: StreamEvent | StreamEnd, string: LargeBase64) -> None:
    """Puts a string that is not an image of ours back into the raw JSON that has its marker."""
    for place in texts(message):
        marker = string.text_marker.decode()
        if marker in place.value:
            place.value = place.value.replace(marker, string.text.decode())
