"""Stream of a Responses API as parts of the answer to StreamImage.

Rules, from proto/imagecall/v1/image_generation_service.proto: the item of
`response.output_item.done` takes precedence and is not rewritten; an item without that event is
copied from the response at the end; an image is sent in chunks while it arrives; a stream that ends
in the middle of an image is damaged.

Once every image that began has arrived, the stream is settled: a later fault does not fail the
call, and the stream still gets a StreamEnd. A faulty event that costs no image is only counted as
missing.
"""

from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from imagecall.backends.http_api.errors import error_event, not_understood, response_error
from imagecall.backends.http_api.large_base64 import LargeBase64
from imagecall.backends.http_api.sse import SseEvent, SseReader
from imagecall.backends.responses_api.events import Event, read_event
from imagecall.backends.responses_api.items import Items
from imagecall.backends.responses_api.large_strings import (
    LargeStrings,
    fill,
    fill_end,
    response_of,
)
from imagecall.backends.responses_api.streamed_words import StreamedWords
from imagecall.backends.secret_words import Secrets, without_secrets
from imagecall.conversion.converter import EVENTS, event_from_json
from imagecall.errors import ConversionError, GenerationError, damaged_answer, too_large_answer
from imagecall.generation.backend import Part
from imagecall.generation.calls_once import leave_out_sent
from imagecall.generation.parts import in_parts
from imagecall.generation.response import ENDINGS, ReadResponse, end_of
from imagecall.generation.words import put_words
from imagecall.json.text import JsonValue, parse
from imagecall.v1.image_generation_service_pb2 import (
    StreamEnd,
    StreamEnding,
    StreamImageRequest,
)
from imagecall.v1.image_response_pb2 import ImageResponse
from imagecall.wire.chunks import Chunker

_DONE: Final = b"[DONE]"
_COMPLETED: Final = StreamEnding.STREAM_ENDING_COMPLETED
_MOST_MISSING: Final = 2**31 - 1


class ResponseStream:
    """Converter of one stream: `feed` the received bytes until it has `ended`, then `finish`.

    Args:
        request: request of the caller, with its options for other events and the document.
        secrets: words to mask in each event.
        max_bytes: largest event, without its streamed image.
        max_image_bytes: largest streamed image.
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
        self._words = StreamedWords()
        self._large = LargeStrings(request, self._items)
        # Not a method of self: the reference cycle would keep an image until garbage collection.
        self._reader = SseReader(EVENTS.image_keys, self._large.choose, max_bytes)
        self._response = ImageResponse()
        self._has_data = False
        self._has_typed_event = False
        self._is_broken = False
        self._foreign_error: GenerationError | None = None
        self._last_number: int | None = None
        self._missing = 0
        self.ended = False

    @property
    def in_string(self) -> bool:
        """True while a large string arrives."""
        return self._reader.in_string

    @property
    def _is_settled(self) -> bool:
        """True once an image has arrived, and every other that has begun."""
        is_streaming = self._large.streams or self._chunker is not None
        return self._items.done > 0 and not self._items.awaited and not is_streaming

    def feed(self, received: bytes) -> Iterator[Part]:
        """Reads received bytes; yields parts of the answer. Raises GenerationError."""
        yield from self._take(self._reader.feed(received))
        if self._is_broken and not self.ended:
            yield from self._ended(StreamEnding.STREAM_ENDING_UNANNOUNCED)

    def finish(self) -> Iterator[Part]:
        """Ends the stream with its connection; yields the last parts. Raises GenerationError."""
        if not self.ended:
            yield from self._take(self._reader.finish())
        if not self.ended:
            yield from self._unannounced_end(announced=False)

    def _take(self, read: Iterator[bytes | SseEvent]) -> Iterator[Part]:
        for part in self._unbroken(read):
            if isinstance(part, SseEvent):
                yield from self._read(part)
            else:
                yield from self._stream(part)
            if self.ended:
                return

    def _unbroken(self, read: Iterator[bytes | SseEvent]) -> Iterator[bytes | SseEvent]:
        """Yields the parts up to damage that costs no image."""
        try:
            yield from read
        except GenerationError:
            if not self._is_settled:
                raise
            self._is_broken = True

    def _stream(self, piece: bytes) -> Iterator[Part]:
        self._chunker = self._chunker or Chunker()
        before = self._chunker.add(piece)
        if self._chunker.size > self._max_image_bytes:
            raise too_large_answer("an image", self._max_image_bytes)
        if before:
            yield before

    def _read(self, sse: SseEvent) -> Iterator[Part]:
        """Reads an event."""
        self._large.streams = False
        self._has_data = True
        if sse.data.strip() == _DONE:
            yield from self._unannounced_end(announced=True)
            return
        name = without_secrets(sse.name.encode(), self._secrets).decode()
        event = read_event(name, without_secrets(sse.data, self._secrets))
        if event is None:
            return
        if event.is_error:
            yield from self._error(event)
            return
        if event.is_foreign_error:
            self._foreign_error = error_event(event.error, self._secrets, {})
        if event.tag:
            yield from self._read_typed(event, sse.large)
        elif event.fault and not self._is_settled:
            raise self._damaged(f"an event is not JSON: {event.fault}")

    def _read_typed(self, event: Event, large: list[LargeBase64]) -> Iterator[Part]:
        """Reads an event that has a type."""
        self._has_typed_event = True
        self._count(event.value.get("sequence_number"))
        self._words.note(event.tag, event.value)
        if event.tag in ENDINGS:
            yield from self._end(event, large)
        elif event.fault or event.lacks_item:
            self._leave_out(event)
        else:
            yield from self._event(event, large)

    def _error(self, event: Event) -> Iterator[Part]:
        """Raises the error of an event; a settled stream ends with that error instead."""
        error = error_event(event.error, self._secrets, {})
        if not self._is_settled:
            raise error
        self._response.error.CopyFrom(response_error(event.error))
        yield from self._ended(StreamEnding.STREAM_ENDING_FAILED)

    def _leave_out(self, event: Event) -> None:
        """Leaves out a faulty event. Raises GenerationError for one that may cost an image."""
        costs_image = event.may_have_image and (event.is_of_item or not self._is_settled)
        if costs_image or self._chunker is not None:
            fault = f"is not JSON: {event.fault}" if event.fault else "has no item"
            raise self._damaged(f"an event {fault}")
        if self._request.include_other_events or event.tag in EVENTS.by_type:
            self._missing = min(self._missing + 1, _MOST_MISSING)

    def _count(self, number: JsonValue) -> None:
        """Counts missing events, by the gaps in the sequence numbers."""
        if isinstance(number, int) and not isinstance(number, bool):
            last = self._last_number
            if last is None or number > last:
                gap = 0 if last is None else number - last - 1
                self._missing = min(self._missing + gap, _MOST_MISSING)
                self._last_number = number
            elif number < last:
                self._missing = max(self._missing - 1, 0)  # An event that arrives late.

    def _event(self, read: Event, large: list[LargeBase64]) -> Iterator[Part]:
        if read.tag not in EVENTS.by_type:
            self._keep_response(read)
            if not self._request.include_other_events:
                return
        try:
            event = event_from_json(read.data, max_bytes=self._max_bytes)
        except ConversionError as error:
            raise self._damaged(f"{error.pointer or 'an event'}: {error}") from None
        path = fill(event, large)
        if path:
            assert self._chunker is not None
            last = self._chunker.finish(path)
            self._chunker = None
            self._items.note(event, last.end)
            yield last
        else:
            self._items.note(event)
        yield from in_parts(event, {path} if path else ())

    def _keep_response(self, event: Event) -> None:
        """Keeps the response of an event, for an end that has none."""
        if isinstance(event.value.get("response"), dict):
            with suppress(ConversionError):
                if read := response_of(event.data):
                    self._response = read.response

    def _end(self, event: Event, large: list[LargeBase64]) -> Iterator[Part]:
        """Reads an event that ends the stream."""
        ending = ENDINGS[event.tag]
        read = self._response_at_end(event, ending)
        if read is None:
            yield from self._end_without_response(event, ending)
            return
        calls = read.calls()
        if ending == _COMPLETED and not (calls or self._items.done):
            self._check_output(read)
        delivered = self._items.delivered(calls)
        end = end_of(read, ending, self._request, delivered)
        fill_end(end, large)
        if self._request.calls_once:
            leave_out_sent(end.response.document, self._items.is_sent)
        yield from self._send(end)

    def _response_at_end(self, event: Event, ending: int) -> ReadResponse | None:
        """Response of the event that ends the stream; None if the event has no readable one.

        Raises GenerationError (UPSTREAM_DAMAGED) if an unreadable response may cost an image.
        """
        try:
            if event.fault:
                raise event.fault
            return response_of(event.data)
        except ConversionError as error:
            can_lose = ending == _COMPLETED and not self._is_settled
            if can_lose or event.items_named > self._items.done:
                raise self._damaged(f"{error.pointer} of the response: {error}") from None
            return None

    def _check_output(self, read: ReadResponse) -> None:
        """Raises GenerationError for a response without output if an image has begun."""
        if self._items.open and not parse(read.document.json.encode()).get("output"):
            raise self._damaged(f"it ends before the image of {self._items.open[0]}")

    def _end_without_response(self, event: Event, ending: int) -> Iterator[Part]:
        if ending == _COMPLETED:
            yield from self._unannounced_end(announced=False, ending=ending)
            return
        if event.failure:
            self._response.error.CopyFrom(response_error(event.failure))
        yield from self._ended(ending)

    def _unannounced_end(
        self, announced: bool, ending: int = StreamEnding.STREAM_ENDING_UNANNOUNCED
    ) -> Iterator[Part]:
        """Ends a stream that has no response at its end.

        Raises GenerationError if an image is missing, or if the stream is not a Responses API's.
        """
        if not self._has_typed_event:
            answer = "a stream without a response" if self._has_data else "neither JSON nor events"
            raise self._foreign_error or not_understood(answer, may_be_billed=True)
        if missing := self._items.open if announced else self._items.awaited:
            raise self._damaged(f"it ends before the image of {missing[0]}")
        if not (announced or self._items.done):
            raise self._damaged("it ends before an image")
        yield from self._ended(ending)

    def _damaged(self, fault: str) -> GenerationError:
        """Error for a stream that lost an image; an earlier foreign error takes precedence."""
        missing = f"; {self._missing} events are missing" if self._missing else ""
        return self._foreign_error or damaged_answer(fault + missing)

    def _ended(self, ending: int) -> Iterator[Part]:
        """Ends the stream with the response of an earlier event."""
        yield from self._send(StreamEnd(ending=ending, response=self._response))  # type: ignore[arg-type]  # a number of StreamEnding

    def _send(self, end: StreamEnd) -> Iterator[Part]:
        put_words(end.response, self._words.words)
        end.missing_events = self._missing
        self.ended = True
        yield from in_parts(end)
