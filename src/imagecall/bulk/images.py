"""Images in a record, each with its place; and for an item without an image, the cause."""

from collections.abc import Iterator
from typing import Final, NamedTuple

from imagecall.bulk.kinds import ITEM, RecordKind, kind_of
from imagecall.conversion.converter import CALLS, EVENTS, event_from_json, from_json
from imagecall.conversion.document import document_from_json
from imagecall.conversion.view import CallView, view
from imagecall.errors import quoted
from imagecall.json.text import parse
from imagecall.v1.document_pb2 import Document
from imagecall.v1.stream_event_pb2 import ImageGenCallPartialImageEvent

_URL: Final = ("http:", "https:")
_PARTIAL: Final = b"partial_image_b64"
_MAX_MESSAGE: Final = 200
_ERROR_MESSAGES: Final = (
    ("error", "message"),
    ("response", "body", "error", "message"),
    ("response", "error", "message"),
)
"""Paths of the sentence of an error: of a response, in a line of the Batch API, of an event."""

_IN_PROGRESS: Final = ("in_progress", "generating")


class PlacedImage(NamedTuple):
    """Image, or the cause of its absence.

    Attributes:
        pointer: JSON Pointer of the item in the record.
        id: id of the item; "" for none.
        image: the file. None: there is none.
        cause: sentence about the absence; "" for an image.
        partial: index of a partial image. None: it is the image of an item.
    """

    pointer: str
    id: str
    image: bytes | None
    cause: str = ""
    partial: int | None = None


def images_in(text: bytes, named: RecordKind | None = None) -> Iterator[PlacedImage]:
    """Yields the images of a record, and the items without one. Raises ConversionError.

    `named` is the kind of the record. None: it is found by the keys. Yields nothing for an event
    without an item, nor for an item in progress in an event.
    """
    kind = named or kind_of(text)
    if kind == ITEM:
        yield _item("", view(from_json(text)))
        return
    document = document_from_json(text, kind=kind)
    for placed in document.calls:
        call = view(placed.call)
        image = _item(placed.pointer, call)
        if kind != "event" or image.image is not None or call.status not in _IN_PROGRESS:
            yield image
    if kind == "event":
        yield from _partial_image(text)
    elif not document.calls:
        yield PlacedImage("", "", None, _cause_in(document))


def _item(pointer: str, call: CallView) -> PlacedImage:
    if CALLS.variants[call.variant].option.fallback:
        cause = f"an item of type {quoted(call.type)} has none"
        return PlacedImage(pointer, "", None, cause)
    image = call.image
    cause = _cause(call) if image is None else ""
    return PlacedImage(pointer, call.id or "", image, cause)


def _cause(call: CallView) -> str:
    """Sentence about an item that has no image."""
    status = f"; its status is {quoted(call.status)}" if call.status else ""
    for name, value in (("result", call.result), ("imageB64", call.image_b64)):
        if isinstance(value, str) and value.lower().startswith(_URL):
            return f'its "{name}" is a URL, which is not fetched'
        if isinstance(value, str):
            return f'its "{name}" is text, and no image{status}'
    absence = "empty" if call.result == b"" else "null" if call.has_result else "absent"
    return f'its "result" is {absence}{status}'


def _partial_image(text: bytes) -> Iterator[PlacedImage]:
    """Yields the image of an event of a partial image; nothing for other events."""
    if _PARTIAL not in text:
        return
    event = event_from_json(text)
    partial = getattr(event, EVENTS.chosen(event).name)
    if not isinstance(partial, ImageGenCallPartialImageEvent):
        return
    image = partial.partial_image_b64.image or None
    cause = "" if image else f'its "{_PARTIAL.decode()}" is no base64'
    yield PlacedImage("", partial.item_id, image, cause, partial.partial_image_index)


def _cause_in(document: Document) -> str:
    """Sentence about a document without an item."""
    value = parse(document.json.encode())
    for path in _ERROR_MESSAGES:
        message = value
        for key in path:
            message = message.get(key) if isinstance(message, dict) else None
        if isinstance(message, str):
            return f"there is no image generation call, but an error: {message[:_MAX_MESSAGE]}"
    return "there is no image generation call"
