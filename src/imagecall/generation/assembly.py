"""Reassembles events and their images from the parts of an answer to StreamImage."""

from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Iterator
from functools import partial
from typing import Final, TypeAlias

from google.protobuf.message import DecodeError

from imagecall.errors import ConversionError, quoted
from imagecall.generation.backend import Part
from imagecall.generation.chunked_fields import MAX_PATH, restore_values
from imagecall.generation.fairness import fair_turn
from imagecall.generation.whole_image import WholeImage
from imagecall.json.pieces import Apart, Data
from imagecall.sizes import PIECE
from imagecall.v1.image_generation_service_pb2 import StreamEnd, StreamImageResponse
from imagecall.v1.stream_event_pb2 import StreamEvent
from imagecall.wire.chunks import Assembly, RawChunk, damaged
from imagecall.wire.cost import check_cost

MAX_IMAGE_BYTES: Final = 1024 * 1024 * 1024
"""Default limit of an image, in bytes: 1 GiB."""

_MAX_VALUES: Final = 10_000
"""Most values in chunks of one event."""

StreamItem: TypeAlias = StreamEvent | StreamEnd
"""Event of a stream, or the stream's end."""


def size_of_part(part: Part) -> int:
    """Returns the number of bytes of a part."""
    match part:
        case bytes():
            return len(part)
        case RawChunk() | WholeImage():
            return len(part.data)
        case _:
            return part.ByteSize()


def read_part(part: Part) -> RawChunk | WholeImage | StreamItem | None:
    """Reads a part of an answer. Returns None for a part of a newer schema.

    Raises ConversionError: CHUNKS_DAMAGED, TOO_MANY_VALUES.
    """
    if isinstance(part, RawChunk | WholeImage):
        return part
    message = _message(part) if isinstance(part, bytes) else part
    match message.WhichOneof("part"):
        case "chunk":
            return RawChunk.of(message.chunk)
        case "event":
            return message.event
        case "end":
            return message.end
    if message.ByteSize() == 0:
        fault = "a part of the answer has neither a chunk nor an event nor an end"
        raise damaged(fault, "message-part")
    return None


def _message(serialized: bytes) -> StreamImageResponse:
    check_cost(StreamImageResponse.DESCRIPTOR, serialized)
    try:
        return StreamImageResponse.FromString(serialized)
    except DecodeError:
        message = "a part of the answer is not a StreamImageResponse"
        raise damaged(message, "message-part") from None


class Reassembly:
    """Puts the values that come in chunks back into the events and the end that follow them.

    Each method raises ConversionError: CHUNKS_DAMAGED, TOO_LARGE.

    Args:
        assembly: makes the assembly of a value.
        image_of: returns the bytes to set in the field of an image.
    """

    def __init__(
        self,
        assembly: Callable[[], Assembly],
        image_of: Callable[[Assembly], bytes] = Assembly.whole,
    ) -> None:
        self._new_assembly = assembly
        self._image_of = image_of
        self._values: dict[str, Assembly] = {}
        self._open: Assembly | None = None
        self._events = 0
        self._end: StreamEnd | None = None

    def add(self, part: RawChunk | WholeImage | StreamItem) -> StreamItem | None:
        """Adds the next part. Returns the event or the end that the part completes, else None."""
        if self._end is not None:
            raise damaged("the stream goes on after its end", "end")
        if isinstance(part, RawChunk):
            self._add_chunk(part)
            return None
        if isinstance(part, WholeImage):
            self._add_image(part)
            return None
        self._events += 1
        if self._open is not None:
            message = f"{self.name(part)} comes before the last chunk of a value"
            raise damaged(message, "chunk-end")
        try:
            restore_values(part, self._values, self._image_of)
        except ConversionError as error:
            raise self._at(self.name(part), error) from None
        self._values = {}
        if isinstance(part, StreamEnd):
            self._end = part
        return part

    def finish(self) -> StreamEnd:
        """Returns the end, after the last part. Raises ConversionError if no end came."""
        if self._end is None:
            events = f"{self._events} events" if self._events else "no event"
            raise damaged(f"the stream has {events}, and no StreamEnd", "end")
        return self._end

    def _add_chunk(self, chunk: RawChunk) -> None:
        self._open = self._open or self._new_assembly()
        try:
            self._open.add(chunk)
        except ConversionError as error:
            raise self._at(f"before event {self._events + 1}", error) from None
        if chunk.end is not None:
            self._close(self._open, chunk.end.field)
            self._open = None

    def _add_image(self, image: WholeImage) -> None:
        if self._open is not None:
            raise damaged("an image comes before the last chunk of a value", "chunk-end")
        value = self._new_assembly()
        value.put(image.data, image.end())
        self._close(value, image.field)

    def _close(self, value: Assembly, field: str) -> None:
        if field in self._values:
            raise damaged(f"the chunks of {quoted(field, MAX_PATH)} came twice", "chunk-field")
        if len(self._values) == _MAX_VALUES:
            raise damaged(f"more than {_MAX_VALUES:,} values came before an event")
        try:
            value.check()
        except ConversionError as error:
            raise self._at(quoted(field, MAX_PATH), error) from None
        self._values[field] = value

    def name(self, item: StreamItem) -> str:
        """Names the item that was just added, for a sentence."""
        if isinstance(item, StreamEnd):
            return "StreamEnd"
        return f"event {self._events} ({item.WhichOneof('variant') or 'of no variant'})"

    def _at(self, place: str, error: ConversionError) -> ConversionError:
        placed = ConversionError(error.reason, error.pointer, f"{place}: {error}")
        placed.rule = error.rule
        return placed


class ImagesApart:
    """Large images of the events of a stream, kept beside the events as chunks."""

    def __init__(self) -> None:
        self._images: dict[str, Data] = {}

    def keep(self, image: Assembly) -> bytes:
        """Returns the bytes to set in an image's field: none for a large image, which is kept."""
        if image.size < PIECE or image.end is None:
            return image.whole()
        self._images[image.end.field] = image.chunks()
        return b""

    def take(self) -> Apart:
        """Returns, once, the images of the event that was reassembled last."""
        images, self._images = self._images, {}
        return images


def reassemble_blocking(
    parts: Iterable[Part], max_image_bytes: int = MAX_IMAGE_BYTES
) -> Iterator[StreamItem]:
    """Yields the events and the end of an answer, as `reassemble` does, outside an event loop."""
    stream = Reassembly(partial(Assembly, max_image_bytes))
    for part in parts:
        content = read_part(part)
        item = None if content is None else stream.add(content)
        if isinstance(item, StreamEvent):
            yield item
    yield stream.finish()


async def reassemble(
    parts: AsyncIterable[Part],
    max_image_bytes: int = MAX_IMAGE_BYTES,
    image_of: Callable[[Assembly], bytes] = Assembly.whole,
) -> AsyncGenerator[StreamItem, None]:
    """Yields the events and the end of an answer, with the values that came in chunks.

    Yields the end only after the last part and the RPC's status: to leave earlier would be a
    cancellation at the server. `image_of` returns the bytes to set in the field of an image.

    Raises ConversionError: CHUNKS_DAMAGED, TOO_LARGE.
    """
    stream = Reassembly(partial(Assembly, max_image_bytes), image_of)
    async for part in parts:
        if size_of_part(part) >= PIECE:
            await fair_turn()
        content = read_part(part)
        item = None if content is None else stream.add(content)
        if isinstance(item, StreamEvent):
            yield item
    yield stream.finish()
