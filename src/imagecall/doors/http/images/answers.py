"""Answers of the Images API: whole, and as server-sent events."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from imagecall.doors.http.answers import error_object, http_status_of
from imagecall.doors.http.event_stream import server_sent
from imagecall.doors.http.images.generation import Done, Progress
from imagecall.doors.http.images.pictures import BASE64, MEDIA_TYPE, Picture
from imagecall.doors.http.images.usage import usage_of
from imagecall.errors import ImagecallError
from imagecall.generation.images_api import COMPLETED, PARTIAL_IMAGE, REPEATED
from imagecall.json.pieces import (
    Piece,
    check_depth_of,
    join,
    join_element_pieces,
    join_member_pieces,
)
from imagecall.json.text import join_members, quote

_UNKNOWN_TYPE: Final = b"application/octet-stream"


@dataclass(frozen=True)
class Form:
    """Form of the answers to a request.

    Attributes:
        name: first word of the types of the events.
        settings: raw JSON text of the settings in the request, by key; an answer has them where
            the backend repeats none.
        count: number of images of the request.
        openrouter: True for the usage in OpenRouter's form too.
        urls: True for images as data: URLs, in a whole answer.
    """

    name: str
    settings: Mapping[str, bytes]
    count: int
    openrouter: bool
    urls: bool


def whole(results: Sequence[Done], form: Form) -> list[Piece]:
    """Returns the JSON pieces of a whole answer."""
    pictures = [picture for done in results for picture in done.pictures]
    values: dict[str, Sequence[Piece]] = {
        "created": [_now()],
        "data": join_element_pieces([_element(each, form) for each in pictures]),
    }
    for key in REPEATED:
        raws = {picture.settings.get(key) for picture in pictures}
        if len(raws) == 1 and (raw := raws.pop() or form.settings.get(key)):
            values[key] = [raw]
    usage = usage_of([done.response for done in results], form.openrouter)
    if usage is not None:
        values["usage"] = [usage]
    return check_depth_of(join_member_pieces(values))


def _element(picture: Picture, form: Form) -> list[Piece]:
    """Returns the element of "data" for an image."""
    values = dict(picture.values)
    if form.urls and (image := values.pop(BASE64, None)) is not None:
        kind = join(values.get(MEDIA_TYPE, [_UNKNOWN_TYPE])).strip(b'"')
        values = {"url": [b'"data:%b;base64,' % kind, *image[1:]]} | values
    return join_member_pieces(values)


class ImageEvents:
    """Formats the progress of the calls of one request as server-sent events."""

    def __init__(self, form: Form) -> None:
        self._form = form

    def size_of(self, progress: Progress) -> int:
        """Returns 0: images are encoded later, piece by piece."""
        return 0

    def lines(self, progress: Progress) -> Iterator[Sequence[Piece]]:
        """Yields the lines of the progress, each in pieces."""
        number, item = progress
        if isinstance(item, Picture):
            yield self._line(PARTIAL_IMAGE, number, item)
            return
        *others, last = item.pictures
        for picture in others:
            yield self._line(COMPLETED, number, picture)
        usage = usage_of([item.response], self._form.openrouter)
        if usage is not None:
            last.values["usage"] = [usage]
        yield self._line(COMPLETED, number, last)

    def error(self, error: ImagecallError) -> Sequence[Piece]:
        """Returns the line of an error in the middle of a stream.

        Its code is a text, as OpenRouter's SDKs require in these events.
        """
        status = http_status_of(error)
        fields = error_object(error, status) | {"code": str(status)}
        raw = join_members({key: quote(value) for key, value in fields.items()})
        return server_sent("error", join_member_pieces({"type": [b'"error"'], "error": [raw]}))

    def _line(self, event: str, number: int, picture: Picture) -> Sequence[Piece]:
        tag, now = self._form.name + event, _now()
        values: dict[str, Sequence[Piece]] = {"type": [quote(tag)], "created_at": [now]}
        if self._form.openrouter:
            values["created"] = [now]
        if self._form.count > 1:
            values["image_index"] = [str(number).encode()]
        values |= _pieces(self._form.settings) | _pieces(picture.settings) | picture.values
        return server_sent(tag, check_depth_of(join_member_pieces(values)))


def _pieces(raws: Mapping[str, bytes]) -> dict[str, Sequence[Piece]]:
    return {key: [raw] for key, raw in raws.items()}


def _now() -> bytes:
    return str(int(time.time())).encode()
