"""Images of an answer, each as an element of "data" in the Images API."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from imagecall.conversion.converter import CALLS, event_pieces
from imagecall.conversion.view import image_in, view
from imagecall.doors.http.output_items import OutputItem
from imagecall.errors import GenerationError, cut_by_bytes, printable
from imagecall.formats import MAX_PROLOG_BYTES, media_type
from imagecall.generation.chunked_fields import image_fields, images_in
from imagecall.generation.ending import model_lines
from imagecall.generation.images_api import REPEATED
from imagecall.json.pieces import Apart, LargeImage, Piece, image_piece, join
from imagecall.json.text import members, parse, quote
from imagecall.v1.image_response_pb2 import ImageResponse
from imagecall.v1.stream_event_pb2 import StreamEvent

BASE64: Final = "b64_json"
"""Key of an image."""

MEDIA_TYPE: Final = "media_type"
"""Key of the media type of an image, in OpenRouter's API."""

_REVISED: Final = {"revised_prompt": "revised_prompt", "revisedPrompt": "revised_prompt"}
_INDEX: Final = "partial_image_index"
_URLS: Final = ("https://", "http://")
_LONGEST_SENTENCE: Final = 1000
"""Longest sentence about a failure, in bytes: models may write pages."""

_FAULTS_OF_USER: Final = frozenset(
    {
        "moderation_blocked",
        "content_filter",
        "content_policy_violation",
        "image_generation_user_error",
    }
)
"""Codes and types of failures that are the request's."""


@dataclass(frozen=True)
class Picture:
    """Image of an answer.

    Attributes:
        values: JSON of the image and of its description, in pieces, by key.
        settings: raw JSON text of the settings of the image that the backend repeats, by key.
    """

    values: dict[str, Sequence[Piece]]
    settings: dict[str, bytes]


def picture_of(item: OutputItem) -> Picture | None:
    """Returns the image of an item; None for an item without one.

    Empties the image in the item. Raises ConversionError.
    """
    values = _image(item)
    if not values:
        return None
    for place in image_fields(item.call):
        place.value = b""
    raws = item.raws()
    values |= {here: [raws[key]] for key, here in _REVISED.items() if key in raws}
    return Picture(values, _settings(raws))


def _image(item: OutputItem) -> dict[str, Sequence[Piece]]:
    """Returns the image of an item, or its URL if the item has only that; {} without both."""
    values = view(item.call)
    is_in_text = isinstance(values.result, str) and image_in(values.result) is not None
    if item.apart and not is_in_text and (images := images_in(item.call, item.apart)):
        data = images[0]
        return _base64(LargeImage(data), bytes(data[0][:MAX_PROLOG_BYTES]))
    if image := values.image:
        return _base64(image_piece(image), image)
    call = getattr(item.call, CALLS.chosen(item.call).name)
    for url in (values.result, getattr(call, "image_url", "")):
        if isinstance(url, str) and url.startswith(_URLS):
            return {"url": [quote(url)]}
    return {}


def partial_picture(event: StreamEvent, apart: Apart) -> Picture | None:
    """Returns the image of an event of a partial image; None for an event without one.

    Empties the image in the event. Raises ConversionError.
    """
    values: dict[str, Sequence[Piece]] = {}
    if apart:
        [data, *_] = apart.values()
        values = _base64(LargeImage(data), b"")
    for place in image_fields(event):
        if place.value:
            values = _base64(image_piece(place.value), b"")
            place.value = b""
    raws = members(join(event_pieces(event)))
    if _INDEX in raws:
        values[_INDEX] = [raws[_INDEX]]
    return Picture(values, _settings(raws)) if BASE64 in values else None


def _settings(raws: Mapping[str, bytes]) -> dict[str, bytes]:
    return {key: raws[key] for key in REPEATED if key in raws}


def _base64(piece: Piece, start: bytes) -> dict[str, Sequence[Piece]]:
    values: dict[str, Sequence[Piece]] = {BASE64: [b'"', piece, b'"']}
    if kind := media_type(start):
        values[MEDIA_TYPE] = [quote(kind)]
    return values


def no_image(response: ImageResponse, items: Iterable[OutputItem]) -> GenerationError:
    """Returns the error for an answer without an image. The work may be billed.

    A failure that is the request's, such as moderation, is INVALID_ARGUMENT.
    """
    causes = [error for item in items for error in _errors(item)]
    if response.HasField("error"):
        error = response.error
        causes.append((error.code, error.type, error.message or error.code))
    if response.incomplete_details.reason:
        reason = response.incomplete_details.reason
        causes.append((reason, "", f"the response is incomplete: {reason}"))
    sentences = [sentence for *_, sentence in causes if sentence] or ["the response has no image"]
    text = cut_by_bytes("; ".join([*sentences, *model_lines(response)]), _LONGEST_SENTENCE)
    names = {name for *pair, _ in causes for name in pair}
    user = bool(names & _FAULTS_OF_USER)
    return GenerationError(
        "",
        printable(text),
        code="INVALID_ARGUMENT" if user else "ABORTED",
        may_be_billed=not user,
        metadata={"upstream_code": causes[0][0]} if causes and causes[0][0] else {},
    )


def _errors(item: OutputItem) -> Iterable[tuple[str, str, str]]:
    """Yields the code, the type and the message of the error of an item."""
    value = parse(item.raws().get("error", b"null"))
    if isinstance(value, str):
        yield "", "", value
    if isinstance(value, dict):
        code, kind, message = (
            text if isinstance(text := value.get(key), str) else ""
            for key in ("code", "type", "message")
        )
        yield code, kind, message or code
