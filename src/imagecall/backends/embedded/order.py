"""An order to the embedded backend: a request that was checked, and what is said of it.

Everything in it is as an API would say it, and echoed where APIs echo it.
"""

import hashlib
import json
import time
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal

import msgspec

from imagecall.backends.embedded.image_settings import ImageSettings, settings_of
from imagecall.backends.embedded.test_card.card import Card
from imagecall.backends.responses_api.errors import reason_of
from imagecall.conversion.converter import event_from_json, from_json
from imagecall.conversion.view import view
from imagecall.errors import ConversionError, GenerationError, pointer_to
from imagecall.generation.request import extra_values, request_to_json
from imagecall.generation.response import ReadResponse, response_from_json
from imagecall.generation.response_keys import response_keys
from imagecall.json.text import JsonValue, join_members, members
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall
from imagecall.v1.image_generation_service_pb2 import StreamEnding
from imagecall.v1.image_request_pb2 import ImageRequest
from imagecall.v1.stream_event_pb2 import StreamEvent

KEY: Final = "embedded"
_MODEL: Final = "imagecall-test-card"
_MAX_IMAGE_BYTES: Final = 256 * 1024 * 1024
_FAILURES: Final[dict[str, dict[str, JsonValue]]] = {
    "failed": {"error": {"code": "server_error", "message": "the request asked for a failure"}},
    "incomplete": {"incomplete_details": {"reason": "max_output_tokens"}},
}


class Asked(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What a request asks of the embedded backend with its key "embedded"."""

    delay_seconds: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 0
    """How long it takes to draw, or to fail, in steps as many as there are images."""
    http_status: Annotated[int, msgspec.Meta(ge=400, le=599)] | None = None
    """Fail as for an API that answers so."""
    retry_after_seconds: Annotated[float, msgspec.Meta(ge=0, le=86400)] | None = None
    """When the failure says to try again."""
    midway: bool = False
    """Fail not at once but in the middle of the stream."""
    ending: Literal["completed", "failed", "incomplete", "none", "cut"] = "completed"
    """How it ends: as a response does, without an event for it, or in the middle of the image."""
    image_bytes: Annotated[int, msgspec.Meta(ge=1, le=_MAX_IMAGE_BYTES)] | None = None
    """The size of the final image file, exactly."""


class Order:
    """A request that was checked, and what is said of it. Raises ConversionError."""

    def __init__(self, request: ImageRequest) -> None:
        body = request_to_json(request, stream=False)
        digest = hashlib.sha256(body).hexdigest()
        self.id = f"ig_{digest[:24]}"
        self.asked = _asked(request)
        self.settings: ImageSettings = settings_of(list(request.tools))
        self._prompt = _prompt(request)
        self.card = _card(self._prompt, self.settings, tuple(_inputs(request)))
        self.card_digest = hashlib.sha256(repr(self.card).encode()).hexdigest()
        self.has_image = self.asked.ending in ("completed", "none", "cut")
        self.ending = _ENDINGS[self.asked.ending]
        self._number = 0
        self._response = _response_object(request, body, f"resp_{digest[24:48]}")

    def fail(self, midway: bool) -> None:
        """Raises the GenerationError that is asked for, if it is for this moment."""
        status = self.asked.http_status
        if status is None or midway != self.asked.midway:
            return
        head = "the API failed" if midway else f"the API answered {status}"
        raise GenerationError(
            reason_of(status),
            f"{head}: the request asked for a failure",
            retry_seconds=self.asked.retry_after_seconds,
            may_be_billed=midway,
            metadata={} if midway else {"http_status": str(status)},
        )

    def beginning(self, other_events: bool) -> Iterator[StreamEvent]:
        """The events until drawing begins."""
        if other_events:
            yield self._event("response.created", response=self._response)
            yield self._event("response.in_progress", response=self._response)
        self._number = 2
        item = {"type": "image_generation_call", "id": self.id, "status": "in_progress"}
        yield self._event(
            "response.output_item.added", item=item | {"result": None}, output_index=0
        )
        yield self._call_event("in_progress")
        yield self._call_event("generating")

    def partial_image(self, index: int) -> StreamEvent:
        """The event of a partial image, whose image is left empty."""
        shown = self._shown()
        return self._call_event(
            "partial_image", partial_image_index=index, partial_image_b64="", **shown
        )

    def completed(self) -> StreamEvent:
        """The event before the final item of a call that did not fail."""
        return self._call_event("completed")

    def done(self) -> StreamEvent:
        """The event of the final item, whose image is left empty."""
        return self._event("response.output_item.done", item=self._item(), output_index=0)

    def response(self, image: bytes | None) -> ReadResponse:
        """The response at the end, with its image, or with an empty one."""
        ending = self.asked.ending
        status = ending if ending in _FAILURES else "completed"
        response = self._response | _FAILURES.get(ending, {})
        response |= {"status": status, "completed_at": int(time.time())}
        response["output"] = [self._item()]
        response["usage"] = _usage(self._prompt)
        read = response_from_json(_compact(response))
        if image is not None:
            read.document.calls[-1].call.output_image_generation_call.result.image = image
        return read

    def _item(self) -> dict[str, JsonValue]:
        status, result = ("completed", "") if self.has_image else ("failed", None)
        item: dict[str, JsonValue] = {"type": "image_generation_call", "id": self.id}
        item |= {"result": result, "status": status, "revised_prompt": self._prompt}
        return item | self._shown()

    def _shown(self) -> dict[str, JsonValue]:
        """How the image is drawn."""
        return {
            "size": self.settings.size,
            "quality": self.settings.quality,
            "background": self.settings.background,
            "output_format": self.settings.output_format,
        }

    def _call_event(self, name: str, **fields: JsonValue) -> StreamEvent:
        tag = f"response.image_generation_call.{name}"
        return self._event(tag, item_id=self.id, output_index=0, **fields)

    def _event(self, tag: str, **fields: JsonValue) -> StreamEvent:
        number, self._number = self._number, self._number + 1
        event = {"type": tag} | fields | {"sequence_number": number}
        return event_from_json(_compact(event))


_ENDINGS: Final = {
    "completed": StreamEnding.STREAM_ENDING_COMPLETED,
    "failed": StreamEnding.STREAM_ENDING_FAILED,
    "incomplete": StreamEnding.STREAM_ENDING_INCOMPLETE,
    "none": StreamEnding.STREAM_ENDING_UNANNOUNCED,
    "cut": StreamEnding.STREAM_ENDING_UNANNOUNCED,
}


def _compact(value: JsonValue) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _asked(request: ImageRequest) -> Asked:
    raw = extra_values(request).get(KEY, b"{}")
    try:
        return msgspec.json.decode(raw, type=Asked)
    except msgspec.ValidationError as error:
        said, _, path = str(error).partition(" - at `$.")
        pointer = pointer_to(KEY, *([path.rstrip("`")] if path else []))
        text = f'"{KEY}" takes {", ".join(Asked.__struct_fields__)}, see the README: {said}'
        raise ConversionError("UNSUPPORTED", pointer, text) from None


def _response_object(request: ImageRequest, body: bytes, name: str) -> dict[str, JsonValue]:
    """The response as it is at first."""
    asked = members(body)
    if not request.tools:
        # Not the tool that is added to none: OpenRouter's SDKs of 2025 refuse an image tool here,
        # and can ask for none.
        asked.pop("tools", None)
    keys: dict[str, JsonValue] = json.loads(join_members(response_keys(asked, name)))
    return keys | {"model": request.model or _MODEL}


def _usage(prompt: str) -> dict[str, JsonValue]:
    """Nothing is consumed that anyone would pay for; the words of the prompt are counted."""
    words = len(prompt.split())
    return {
        "input_tokens": words,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 0,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": words,
    }


def _card(prompt: str, settings: ImageSettings, inputs: tuple[bytes, ...]) -> Card:
    return Card(
        prompt=prompt,
        width=settings.width,
        height=settings.height,
        quality=settings.quality,
        transparent=settings.background == "transparent",
        output_format=settings.output_format,
        compression=settings.compression,
        inputs=inputs,
    )


def _prompt(request: ImageRequest) -> str:
    """What to draw: the prompt, or the last text among the items before it."""
    texts = [request.prompt, *(text for item in request.input_items for text in _texts(item))]
    return request.prompt if request.prompt.strip() else texts[-1]


def _texts(item: ImageGenerationCall) -> Iterator[str]:
    """The texts of a message."""
    message: Any = json.loads(item.unknown_item.json or "{}")
    content = message.get("content")
    if isinstance(content, str):
        yield content
    for part in content if isinstance(content, list) else ():
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            yield part["text"]


def _inputs(request: ImageRequest) -> Iterator[bytes]:
    """The pictures to start from; nothing for one that is elsewhere."""
    for item in request.input_items:
        if item.WhichOneof("variant") != "unknown_item":
            yield view(item).image or b""
    for image in request.input_images:
        if image.url.startswith("data:"):
            data = json.dumps({"type": "image_generation_call", "result": image.url})
            yield view(from_json(data)).image or b""
        else:
            yield image.image
