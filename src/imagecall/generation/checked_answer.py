"""Checks answers of an upstream server of the same schema, before a door passes them on.

The rules are those of proto/imagecall/v1/image_generation_service.proto. A stream is checked part
by part: of an image only the digest and the first bytes are kept, of any other value the text, as
that must be JSON. Parts are passed on as the bytes that came.

A fault is DATA_LOSS (UPSTREAM_DAMAGED), or UPSTREAM_ANSWER_TOO_LARGE; its sentence names the field
or the event, the expected value and the value found.
"""

from codecs import getincrementaldecoder
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final, NamedTuple

from imagecall.conversion.converter import event_to_json, from_json, to_json
from imagecall.conversion.document import PlacedCall, whole_document
from imagecall.conversion.view import view
from imagecall.errors import (
    ConversionError,
    GenerationError,
    damaged_answer,
    quoted,
    too_large_answer,
)
from imagecall.formats import MAX_PROLOG_BYTES, MEDIA_TYPES
from imagecall.generation.assembly import Reassembly, StreamItem, read_part
from imagecall.generation.backend import WholeAnswer, WithResponse
from imagecall.generation.calls_once import OUTPUT, elsewhere
from imagecall.generation.chunked_fields import image_fields
from imagecall.generation.response import ending_of, response_to_json
from imagecall.json.pieces import NOTHING_APART
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall
from imagecall.v1.image_generation_service_pb2 import (
    StreamEnd,
    StreamEnding,
    StreamImageResponse,
)
from imagecall.v1.image_response_pb2 import ImageResponse
from imagecall.v1.stream_event_pb2 import StreamEvent
from imagecall.wire.chunks import Assembly, RawChunk, damaged, end_of_image
from imagecall.wire.cost import parsed
from imagecall.wire.splice import detach_images

MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
"""Largest message of a stream that a client with default options accepts."""

BACKEND: Final = "gRPC backend"
_ANY_CALL: Final = from_json('{"type":"image_generation_call"}')
"""Stands for a call that an event had, of which the JSON is checked already."""

_COMPLETED: Final = "completed"
_DONE: Final = "output_item_done_event"


class AnswerLimits(NamedTuple):
    """Limits of an answer, in bytes: of an image in chunks, and of a text or a whole message."""

    image_bytes: int
    text_bytes: int


@contextmanager
def _faults() -> Iterator[None]:
    """Turns a ConversionError, which the answer caused, into a GenerationError of the backend."""
    try:
        yield
    except ConversionError as error:
        raise damaged_answer(str(error), BACKEND, error.rule) from None


class CheckedStream:
    """Answer to StreamImage, checked while it arrives; `calls_once` is that of the request."""

    def __init__(self, limits: AnswerLimits, *, calls_once: bool = False) -> None:
        self._limits = limits
        self._calls_once = calls_once
        self._sent: dict[int, PlacedCall] = {}
        self._texts = _Texts(limits.text_bytes)
        self._stream = Reassembly(lambda: _Value(limits, self._texts), _image_of)
        self._has_image = False
        self._has_events = False
        self.has_parts = False
        """True once a part came."""
        self.ended = False
        """True once the end came."""

    @property
    def text_bytes(self) -> int:
        """Number of bytes of texts that the next event is to be checked with."""
        return self._texts.size

    def check(self, serialized: bytes) -> bytes:
        """Checks the next part; returns the part to pass on. Raises GenerationError."""
        self.has_parts = True
        if len(serialized) > MAX_MESSAGE_BYTES:
            raise too_large_message(len(serialized))
        with _faults():
            part = read_part(serialized)
            if part is None:
                return serialized  # Of a newer schema.
            item = self._stream.add(part)
            if item is None or isinstance(part, RawChunk):
                return serialized
            self._check_item(item)
            self._texts.size = 0
        if not isinstance(item, StreamEnd):
            return serialized
        self.ended = True
        return self._settled(item, serialized)

    def finish(self) -> None:
        """Checks that nothing is missing at the end. Raises GenerationError."""
        with _faults():
            self._stream.finish()

    def _check_item(self, item: StreamItem) -> None:
        name = self._stream.name(item)
        if isinstance(item, StreamEnd):
            if item.ending == StreamEnding.STREAM_ENDING_COMPLETED and not (
                self._has_events or item.HasField("response")
            ):
                raise damaged("StreamEnd.response is not set, and no event came", "response")
            sent = self._sent if self._calls_once else None
            _check_response(item.response, f"{name}.response", self._limits, sent)
            return
        self._has_events = True
        if not _is_newer(item):
            with _writing(name):
                event_to_json(item, max_bytes=self._limits.text_bytes)
            if item.WhichOneof("variant") == _DONE:
                event = getattr(item, _DONE)
                self._has_image |= event.HasField("item") and _has_image(event.item)
                if event.HasField("item") and event.HasField("output_index"):
                    self._sent[event.output_index] = _ANY_CALL, NOTHING_APART

    def _settled(self, end: StreamEnd, serialized: bytes) -> bytes:
        """Returns the end with its ending, where the backend left the ending unset."""
        if end.ending:
            return serialized
        status = _status_of(end.response, self._has_image, "StreamEnd.ending")
        answer = StreamImageResponse.FromString(serialized)
        answer.end.response.status = status
        answer.end.ending = ending_of(answer.end.response)  # type: ignore[assignment]  # a number of StreamEnding
        return answer.SerializeToString()


def checked_response(
    kind: type[WithResponse], serialized: bytes, limits: AnswerLimits, *, calls_once: bool = False
) -> WholeAnswer[WithResponse]:
    """Reads an answer to a unary method, such as GenerateImage. Raises GenerationError.

    `calls_once` is that of the request.
    """
    name = kind.DESCRIPTOR.name
    if len(serialized) > limits.text_bytes:
        raise too_large_response(limits)
    with _faults():
        rest, detached = detach_images(serialized, kind.DESCRIPTOR)
        answer = parsed(kind, rest, name)
        if not answer.HasField("response"):
            raise damaged(f"{name}.response is not set", "response")
        short = kind()
        short.CopyFrom(answer)
        places = image_fields(short)
        for place in places:
            place.value = b""
        # Of a oneof that is there twice, protobuf drops the first member.
        images = {place.path: detached[place.path] for place in places if place.path in detached}
        _check_response(short.response, "response", limits, {} if calls_once else None)
    answer.response.status = _status_of(answer.response, False, "ImageResponse.status")
    return WholeAnswer(answer, images, len(rest))


def too_large_response(limits: AnswerLimits) -> GenerationError:
    """Returns the error for the answer to a unary method past the limit."""
    return too_large_answer(f"the {BACKEND}'s answer", limits.text_bytes)


def too_large_message(size: int | None = None) -> GenerationError:
    """Returns the error for a message of a stream past the limit. None: its size is unknown."""
    size_text = f"has {size:,} bytes" if size else "is too large"
    text = (
        f"a message of the stream {size_text}; the limit is {MAX_MESSAGE_BYTES:,} bytes: "
        "send large values in chunks"
    )
    return damaged_answer(text, BACKEND, "message-size")


def _check_response(
    response: ImageResponse,
    name: str,
    limits: AnswerLimits,
    sent: Mapping[int, PlacedCall] | None,
) -> None:
    """Raises ConversionError unless all of a response can be written as JSON.

    `sent` has the calls that the events before had, by their output_index. None: the document has
    all its calls itself.
    """
    response.DiscardUnknownFields()
    with _writing(name):
        response_to_json(response)
    for index, call in enumerate(response.calls):
        with _writing(f"{name}.calls[{index}]"):
            to_json(call, max_bytes=limits.text_bytes)
    if not response.HasField("document"):
        return
    with _writing(f"{name}.document"):
        found = {} if sent is None else elsewhere(response, sent=sent)
        whole_document(response.document, found, max_bytes=limits.text_bytes)
    lifted = sum(call.pointer.startswith(OUTPUT) for call in response.document.calls)
    if lifted < len(response.calls):
        count = f"{lifted} calls of the output, and {name}.calls has {len(response.calls)}"
        raise damaged(f"{name}.document has {count}", "document")


@contextmanager
def _writing(name: str) -> Iterator[None]:
    """Adds to an error the name of the message that cannot be written as JSON, and the place."""
    try:
        yield
    except ConversionError as error:
        place = f"{name} at {error.pointer}" if error.pointer else name
        raise damaged(f"{place}: {error}", "json") from None


def _status_of(response: ImageResponse, has_image: bool, unset: str) -> str:
    """Returns the status; "completed" for an answer that has an image and no status."""
    if response.status:
        return response.status
    if has_image or any(_has_image(call) for call in response.calls):
        return _COMPLETED
    raise damaged_answer(f"{unset} is not set, and there is no image", BACKEND, "response-status")


def _has_image(call: ImageGenerationCall) -> bool:
    return bool(image_fields(call)) or isinstance(view(call).result, str)


def _is_newer(event: StreamEvent) -> bool:
    """Drops unknown fields. Returns True for an event of a newer schema, with no variant here."""
    size = event.ByteSize()
    event.DiscardUnknownFields()
    return event.WhichOneof("variant") is None and event.ByteSize() < size


class _Texts:
    """Number of bytes of texts that are kept for an event, and its limit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.size = 0

    def add(self, size: int) -> None:
        """Counts bytes. Raises GenerationError past the limit."""
        self.size += size
        if self.size > self._limit:
            raise too_large_answer("the texts of an event", self._limit)


class _Value(Assembly):
    """Value in chunks, of which the text is kept; if the value is not text, the first bytes."""

    def __init__(self, limits: AnswerLimits, texts: _Texts) -> None:
        super().__init__(limits.image_bytes)
        self._limits = limits
        self._texts = texts
        self._decoder = getincrementaldecoder("utf-8")()
        self._is_text = True
        self._first = b""

    def add(self, chunk: RawChunk) -> None:
        super().add(chunk)
        if self.size > self._limits.image_bytes:
            raise too_large_answer("an image", self._limits.image_bytes)

    def _keep(self, data: bytes | memoryview) -> None:
        self._first += data[: MAX_PROLOG_BYTES - len(self._first)]
        if self._is_text and self.size <= self._limits.text_bytes and self._decodes(data):
            self._texts.add(len(data))
            super()._keep(data)
        else:
            self._drop()

    def _drop(self) -> None:
        """Stops keeping the text."""
        self._is_text = False
        self._texts.size -= sum(map(len, self._chunks))
        self._chunks.clear()

    def _decodes(self, data: bytes | memoryview) -> bool:
        try:
            self._decoder.decode(data)
        except UnicodeDecodeError:
            return False
        return True

    def check_image(self) -> None:
        """Raises ConversionError unless the end has the image's media_type and final_image."""
        assert self.end
        expected = end_of_image(self._first, self.end.field)
        media, claimed = expected["media_type"], self.end.media_type
        newer = not media and claimed not in MEDIA_TYPES.values()
        self._check_end(claimed if newer else media, expected["final_image"])
        self._drop()

    def whole(self) -> bytes:
        """Returns the text. Raises ConversionError, GenerationError."""
        assert self.end
        self._check_end("", False)
        if self.size > self._limits.text_bytes:
            raise too_large_answer(self.end.field, self._limits.text_bytes)
        if not self._is_text:
            raise damaged(f"the chunks of {self.end.field} are not UTF-8", "chunk-text")
        return super().whole()

    def _check_end(self, media: str, final: bool) -> None:
        assert self.end
        for name, expected in (("media_type", media), ("final_image", final)):
            value = getattr(self.end, name)
            if value != expected:
                actual, wanted = _shown(value), _shown(expected)
                text = f"{name} of the chunks of {self.end.field} is {actual} instead of {wanted}"
                raise damaged(text, name.replace("_", "-"))


def _shown(value: object) -> str:
    return quoted(value) if isinstance(value, str) else str(value).lower()


def _image_of(value: Assembly) -> bytes:
    """Checks an image. Returns the empty bytes that replace it in the message to be checked."""
    assert isinstance(value, _Value)
    value.check_image()
    return b""
