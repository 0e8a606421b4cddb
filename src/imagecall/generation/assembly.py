"""Events and their images, reassembled from the parts of an answer to StreamImage."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Final, TypeAlias

from google.protobuf.message import DecodeError

from imagecall.errors import quoted
from imagecall.generation.backend import Part
from imagecall.generation.chunked_fields import put_back
from imagecall.generation.fairness import turn
from imagecall.json.pieces import Apart, Data
from imagecall.sizes import PIECE
from imagecall.v1.image_generation_service_pb2 import StreamEnd, StreamImageResponse
from imagecall.v1.stream_event_pb2 import StreamEvent
from imagecall.wire.chunks import Assembly, Piece, damaged

MAX_IMAGE_BYTES: Final = 1024 * 1024 * 1024
"""The default limit of an image, in bytes: 1 GiB."""

StreamItem: TypeAlias = StreamEvent | StreamEnd
"""An event of a stream, or its end."""


def _size(part: Part) -> int:
    match part:
        case bytes():
            return len(part)
        case Piece():
            return len(part.data)
        case _:
            return part.ByteSize()


def _part(given: Part) -> Piece | StreamItem | None:
    """What a part of an answer is; None if it is of a newer schema."""
    if isinstance(given, Piece):
        return given
    try:
        message = StreamImageResponse.FromString(given) if isinstance(given, bytes) else given
    except DecodeError:
        raise damaged("a part of the answer is no StreamImageResponse") from None
    match message.WhichOneof("part"):
        case None:
            return None
        case "chunk":
            return Piece.of(message.chunk)
        case "event":
            return message.event
        case "end":
            return message.end


class ImagesApart:
    """The large images of the events of a stream, kept beside them, in the chunks that came."""

    def __init__(self) -> None:
        self._images: dict[str, Data] = {}

    def keep(self, image: Assembly) -> bytes:
        """Gives the bytes to put in the place of an image: none for a large one."""
        if image.size < PIECE or image.end is None:
            return image.whole()
        self._images[image.end.field] = image.pieces()
        return b""

    def take(self) -> Apart:
        """Gives those of the event that was reassembled last, once."""
        images, self._images = self._images, {}
        return images


async def reassemble(
    parts: AsyncIterator[Part],
    max_image_bytes: int = MAX_IMAGE_BYTES,
    image_of: Callable[[Assembly], bytes] = Assembly.whole,
) -> AsyncGenerator[StreamItem, None]:
    """Events and the end, with the values that came in chunks before them.

    The end is given when the parts are over: a call that is left before its status has come is
    cancelled, which is no end that a server can count on. `image_of` gives what is put in the place
    of an image.

    Raises ConversionError: CHUNKS_DAMAGED, TOO_LARGE.
    """
    values: dict[str, Assembly] = {}
    assembly: Assembly | None = None
    end: StreamEnd | None = None
    async for given in parts:
        if _size(given) >= PIECE:
            await turn()
        part = _part(given)
        if part is None:
            continue  # A part of a newer schema.
        if end is not None:
            raise damaged("the stream goes on after its end")
        if isinstance(part, Piece):
            assembly = assembly or Assembly(max_image_bytes)
            assembly.add(part)
            if part.end is not None:
                field = part.end.field
                if field in values:
                    raise damaged(f"the chunks of {quoted(field)} came twice")
                assembly.check()
                values[field] = assembly
                assembly = None
            continue
        if assembly is not None:
            raise damaged("the chunks of an image end before their last one")
        put_back(part, values, image_of)
        values = {}
        if isinstance(part, StreamEnd):
            end = part
        else:
            yield part
    if end is None:
        raise damaged("the stream ended without its end")
    yield end
