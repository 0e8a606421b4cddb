"""Events of a stream as the clients yield them: the message, and the images in it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from imagecall.conversion.converter import CALLS, EVENTS
from imagecall.conversion.fields import spellings
from imagecall.conversion.short_reprs import short_repr
from imagecall.conversion.view import CallView, view
from imagecall.errors import FileError
from imagecall.formats import image_format
from imagecall.generation.assembly import StreamItem
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall
from imagecall.v1.image_generation_service_pb2 import StreamEnd, StreamEnding
from imagecall.v1.stream_event_pb2 import ImageGenCallPartialImageEvent, OutputItemDoneEvent

_OTHER_ITEM: Final = CALLS.fallback.name
_ENDINGS: Final = {number: text for text, number in spellings(StreamEnding.DESCRIPTOR).items()}


@dataclass(frozen=True, repr=False)
class Image:
    """Image of an answer. Its repr has the size in place of the bytes.

    Attributes:
        data: the image file.
        format: format by the first bytes, such as "png"; see `imagecall.image_format`.
        id: id of the image generation call; "" for none.
        partial_index: number of a partial image, from 0. None: the image is finished.
        path: file in which the client saved the image. None: the image was not saved.
    """

    data: bytes
    format: str | None
    id: str = ""
    partial_index: int | None = None
    path: Path | None = None

    def __repr__(self) -> str:
        partial = "" if self.partial_index is None else f", partial_index={self.partial_index}"
        saved = "" if self.path is None else f", path={str(self.path)!r}"
        data = short_repr(self.data)
        return f"Image(data={data}, format={self.format!r}, id={self.id!r}{partial}{saved})"

    @property
    def is_final(self) -> bool:
        """True for a finished image, False for a partial one."""
        return self.partial_index is None

    def save(self, path: str | Path) -> None:
        """Writes the image: a file is there only once it is whole. Raises FileError."""
        target = Path(path)
        beside = target.with_name(f".{target.name}.part")
        try:
            try:
                beside.write_bytes(self.data)
                beside.replace(target)
            finally:
                beside.unlink(missing_ok=True)
        except OSError as error:
            raise FileError(f"{target} cannot be written: {error.strerror}") from error


@dataclass(frozen=True, repr=False)
class ImageEvent:
    """Event of a stream, or the end of the stream. Its repr has the sizes of the images.

    Attributes:
        type: type of the API's event, such as "response.output_item.done"; for the end, that of the
            API's last event, or "" if the API sent none.
        images: images in the event: usually none or one.
        message: the event, or the end.
    """

    type: str
    images: tuple[Image, ...]
    message: StreamItem

    def __repr__(self) -> str:
        return f"ImageEvent(type={self.type!r}, images={self.images!r})"

    @property
    def end(self) -> StreamEnd | None:
        """End of the stream, with the response. None: the stream goes on."""
        return self.message if isinstance(self.message, StreamEnd) else None


def event_of(message: StreamItem) -> ImageEvent:
    """Makes the event of a message."""
    if isinstance(message, StreamEnd):
        images = tuple(image for call in message.response.calls for image in _images(call))
        return ImageEvent(_ENDINGS.get(message.ending, ""), images, message)
    name = message.WhichOneof("variant")
    if name is None:  # An event of a newer schema.
        return ImageEvent("", (), message)
    event: Any = getattr(message, name)
    kind: str = EVENTS.variants[name].plan.tag or event.type
    match event:
        case ImageGenCallPartialImageEvent():
            return ImageEvent(kind, _partial_images(event), message)
        case OutputItemDoneEvent():
            return ImageEvent(kind, _images(event.item), message)
    return ImageEvent(kind, (), message)


def calls_of(message: StreamItem) -> tuple[ImageGenerationCall, ...]:
    """Returns the finished image generation calls of a message."""
    if isinstance(message, StreamEnd):
        return tuple(message.response.calls)
    done = message.output_item_done_event
    return (done.item,) if _view(done.item) else ()


def _partial_images(event: ImageGenCallPartialImageEvent) -> tuple[Image, ...]:
    data = event.partial_image_b64.image
    index = event.partial_image_index
    return (Image(data, image_format(data), event.item_id, index),) if data else ()


def _images(call: ImageGenerationCall) -> tuple[Image, ...]:
    values = _view(call)
    data = values.image if values else None
    return (Image(data, image_format(data), values.id or ""),) if values and data else ()


def _view(call: ImageGenerationCall) -> CallView | None:
    """Returns the view of an image generation call; None for another item, or of a newer schema."""
    return None if call.WhichOneof("variant") in (None, _OTHER_ITEM) else view(call)
