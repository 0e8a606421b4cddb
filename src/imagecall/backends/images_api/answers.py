"""Answers of an Images API as image events: JSON bodies, and events of a stream.

The forms are those of OpenAI, OpenRouter and the engines that people run themselves: `data` with
images, as a body or as the only event of a stream; `image_generation.partial_image`, `.completed`,
and the same with `image_edit`; errors as an event, or with the status 200. Other events, such as
texts of a model before the image, are left out.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeAlias

from imagecall.backends.http_api.errors import error_event, error_fields, not_understood
from imagecall.backends.http_api.large_base64 import LargeBase64, Use
from imagecall.backends.http_api.sse import JsonReader, SseEvent, SseReader
from imagecall.backends.secret_words import Secrets, without_secrets
from imagecall.conversion.images import decode_base64
from imagecall.conversion.view import image_in
from imagecall.errors import ConversionError, GenerationError, damaged_answer
from imagecall.generation.image_events import FinalImage, ImageLink, PartialImage
from imagecall.generation.images_api import COMPLETED, PARTIAL_IMAGE
from imagecall.generation.response import response_from_json
from imagecall.json.text import JsonValue, join_members, members, parse
from imagecall.v1.image_response_pb2 import Usage

BASE64: Final = "b64_json"
_ERROR: Final = "error"
_DONE: Final = b"[DONE]"
_UNNAMED: Final = ("", "message")
_REPEATED: Final = ("revised_prompt", "size", "quality", "background")
"""Keys of an image, or of the whole answer, that the item of the image repeats."""

_SAME_TOKENS: Final = {"prompt_tokens": "input_tokens", "completion_tokens": "output_tokens"}
"""Keys of OpenRouter's usage, and those of the schema with the same meaning."""

_Object: TypeAlias = Mapping[str, JsonValue]


@dataclass(frozen=True)
class LateError:
    """Error, as an API sends it, after all images that had begun."""

    error: JsonValue


ImageEvent: TypeAlias = PartialImage | FinalImage | ImageLink | Usage | LateError


class ImagesJson:
    """Answer in one JSON text: `feed` the received bytes, then `finish`.

    Args:
        secrets: words to mask.
        max_bytes: largest text without its images.
        max_image_bytes: most bytes of all images.
    """

    def __init__(self, secrets: Secrets, max_bytes: int, max_image_bytes: int) -> None:
        self.reader = JsonReader([BASE64], _hold, max_bytes, base64_size(max_image_bytes))
        self._secrets = secrets

    def finish(self, headers: Mapping[str, str]) -> Iterator[ImageEvent]:
        """Yields the images. Raises GenerationError, also for an error with the status 200."""
        event = self.reader.finish()
        data = without_secrets(event.data, self._secrets)
        try:
            value = parse(data)
        except ConversionError as error:
            if data.startswith(b"{"):
                raise damaged_answer(f"{error.pointer or 'it'}: {error}") from None
            raise not_understood("a body that is not JSON", may_be_billed=True) from None
        if isinstance(value, dict) and "data" in value and not value.get(_ERROR):
            yield from _Images(value, data, event.large).whole()
            return
        fields = error_fields(value)
        if not fields or (fields is value and not (fields.get("message") or fields.get("detail"))):
            raise not_understood("JSON without images", may_be_billed=True)
        raise error_event(dict(fields), self._secrets, headers)


class ImagesStream:
    """Answer as a stream of events: `feed` the received bytes until it has `ended`, then `finish`.

    Args:
        count: number of images that were requested.
        partial_images: most partial images of each image.
        secrets, max_bytes, max_image_bytes: as of ImagesJson, for each event.

    Attributes:
        ended: true once the stream has all that it will have.
    """

    def __init__(
        self,
        count: int,
        partial_images: int,
        secrets: Secrets,
        max_bytes: int,
        max_image_bytes: int,
    ) -> None:
        self._reader = SseReader([BASE64], _hold, max_bytes, base64_size(max_image_bytes))
        self._count = count
        self._partial_images = partial_images
        self._secrets = secrets
        self._images = 0
        self._begun = False
        self._is_of_images = False
        self._has_data = False
        self.ended = False

    @property
    def in_string(self) -> bool:
        """True while a large string arrives."""
        return self._reader.in_string

    @property
    def _is_settled(self) -> bool:
        """True once an image has arrived, and every other that has begun."""
        return self._images > 0 and not self._begun and not self.in_string

    def feed(self, received: bytes) -> Iterator[ImageEvent]:
        """Reads received bytes. Raises GenerationError."""
        yield from self._take(self._reader.feed(received))

    def finish(self) -> Iterator[ImageEvent]:
        """Ends the stream with its connection. Raises GenerationError if an image is missing."""
        if not self.ended:
            yield from self._take(self._reader.finish())
        self.ended = True
        if self._is_settled:
            return
        if not self._is_of_images:
            answer = "a stream without an image" if self._has_data else "neither JSON nor events"
            raise not_understood(answer, may_be_billed=True)
        raise damaged_answer("it ends before an image")

    def _take(self, read: Iterator[bytes | SseEvent]) -> Iterator[ImageEvent]:
        try:
            for event in read:
                assert isinstance(event, SseEvent)
                yield from self._read(event)
                if self.ended:
                    return
        except GenerationError:
            if not self._is_settled:
                raise
            self.ended = True  # The damage costs no image.

    def _read(self, event: SseEvent) -> Iterator[ImageEvent]:
        data = without_secrets(event.data, self._secrets)
        if not data.strip():
            return
        self._has_data = True
        if data.strip() == _DONE:
            self.ended = True
            return
        try:
            value = parse(data)
        except ConversionError as error:
            if event.name not in (*_UNNAMED, _ERROR) and not data.lstrip().startswith(b"{"):
                return  # A heartbeat.
            if event.name == _ERROR:
                raise error_event(data.decode(errors="replace"), self._secrets, {}) from None
            raise damaged_answer(f"an event is not JSON: {error}") from None
        if isinstance(value, dict):
            yield from self._read_object(event, data, value)
        elif event.name == _ERROR:
            yield self._late(value)

    def _read_object(self, event: SseEvent, data: bytes, value: _Object) -> Iterator[ImageEvent]:
        named = value.get("type") or event.name
        kind = named if isinstance(named, str) else ""
        if kind == _ERROR or value.get(_ERROR):
            yield self._late(
                value.get(_ERROR) or {key: value[key] for key in value if key != "type"}
            )
            return
        images = _Images(value, data, event.large)
        if kind.endswith(PARTIAL_IMAGE):
            self._is_of_images = self._begun = True
            with suppress(GenerationError):  # A partial image that is missing costs no image.
                if self._partial_images:
                    yield PartialImage(images.image(value))
        elif kind.endswith(COMPLETED) or isinstance(value.get("data"), list):
            self._is_of_images = True
            self._begun = False
            for each in images.whole() if "data" in value else images.only():
                self._images += not isinstance(each, Usage)
                yield each
            self.ended = self._images >= self._count

    def _late(self, error: JsonValue) -> LateError:
        """Returns the error of an event of a settled stream; raises that of any other stream."""
        if not self._is_settled:
            raise error_event(error, self._secrets, {})
        self.ended = True
        return LateError(error)


class _Images:
    """Images of a JSON object, whose large strings are set aside."""

    def __init__(self, value: _Object, data: bytes, large: Sequence[LargeBase64]) -> None:
        self._value = value
        self._data = data
        self._large = {string.text_marker.decode(): string for string in large}

    def whole(self) -> Iterator[ImageEvent]:
        """Yields the images of the key "data", then the usage. Raises GenerationError."""
        entries = self._value.get("data")
        if not isinstance(entries, list) or not entries:
            raise damaged_answer("it has no image")
        for entry in entries:
            yield self._finished(entry if isinstance(entry, dict) else {})
        yield from self._usage()

    def only(self) -> Iterator[ImageEvent]:
        """Yields the image of the object itself, then the usage. Raises GenerationError."""
        yield self._finished(self._value)
        yield from self._usage()

    def image(self, value: _Object) -> bytes:
        """Image of the key "b64_json". Raises GenerationError (UPSTREAM_DAMAGED)."""
        text = value.get(BASE64)
        if not isinstance(text, str) or not text:
            raise damaged_answer(f"an image has no {BASE64}")
        if string := self._large.pop(text, None):
            image = string.image
            string.image = None
        else:
            image = _decoded(text)
        if not image:
            raise damaged_answer(f"the {BASE64} of an image is not base64")
        return image

    def _finished(self, entry: _Object) -> FinalImage | ImageLink:
        settings = {key: _text(entry.get(key) or self._value.get(key)) for key in _REPEATED}
        url = entry.get("url")
        if entry.get(BASE64) or not (isinstance(url, str) and url):
            return FinalImage(self.image(entry), **settings)
        if url[:5].lower() == "data:":
            return FinalImage(self.image({BASE64: url}), **settings)
        return ImageLink(url, **settings)

    def _usage(self) -> Iterator[Usage]:
        usage = self._value.get("usage")
        if not isinstance(usage, dict):
            return
        raws = members(members(self._data)["usage"])
        for other, key in _SAME_TOKENS.items():
            if other in raws and key not in raws:
                raws[key] = raws.pop(other)
        try:
            yield response_from_json(join_members({"usage": join_members(raws)})).response.usage
        except ConversionError:
            return  # Images do not fail for their usage.


def base64_size(size: int) -> int:
    """Size of base64 text for so many bytes."""
    return -(-size // 3) * 4


def _hold(name: str, data: bytes) -> Use:
    return Use.HOLD


def _decoded(text: str) -> bytes | None:
    try:
        return decode_base64(text)
    except ValueError:
        return image_in(text)


def _text(value: JsonValue) -> str | None:
    """Text without lone surrogates, which protobuf refuses; None for another value."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else None
