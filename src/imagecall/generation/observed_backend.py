"""Backend that observes the generations of another backend: models, tokens, images, times."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from math import isfinite
from typing import Final

from google.protobuf.message import DecodeError

from imagecall.errors import ConversionError
from imagecall.formats import MAX_PROLOG_BYTES, MEDIA_TYPES, image_format
from imagecall.generation.backend import Backend, Part, UnaryAnswer, WholeAnswer
from imagecall.generation.chunked_fields import images_in
from imagecall.generation.image_tool import image_tool
from imagecall.generation.stored_responses import stored_responses_of
from imagecall.generation.whole_image import WholeImage
from imagecall.json.pieces import Apart, under_each
from imagecall.observing.generation import (
    FINAL,
    IMAGE_TOOL,
    INPUT,
    MODEL,
    OUTPUT,
    PARTIAL,
    Generation,
    printable_name,
)
from imagecall.observing.observer import observed_generation
from imagecall.v1.chunk_pb2 import ChunkEnd
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall
from imagecall.v1.image_generation_service_pb2 import (
    CancelImageResponseRequest,
    CancelImageResponseResponse,
    DeleteImageResponseRequest,
    DeleteImageResponseResponse,
    GenerateImageRequest,
    GenerateImageResponse,
    GetImageResponseRequest,
    GetImageResponseResponse,
    StreamEnd,
    StreamEnding,
    StreamImageRequest,
    StreamImageResponse,
)
from imagecall.v1.image_request_pb2 import ImageRequest
from imagecall.v1.image_response_pb2 import ImageResponse
from imagecall.v1.stream_event_pb2 import StreamEvent
from imagecall.wire.chunks import RawChunk

_FORMATS: Final = {media_type: name for name, media_type in MEDIA_TYPES.items()}
_OTHER: Final = "other"
_URL: Final = "url"
_NO_CALL: Final = "unknown_item"
_CALLS: Final = "response.calls["
_IMAGE: Final = ".image"
_STATUSES: Final = {
    StreamEnding.STREAM_ENDING_INCOMPLETE: "incomplete",
    StreamEnding.STREAM_ENDING_FAILED: "failed",
    StreamEnding.STREAM_ENDING_CANCELLED: "cancelled",
}
"""Status of a response by the end of its stream, where that is not a success."""


class ObservedBackend:
    """Passes calls on to a backend, and observes each generation.

    Args:
        backend: generates the images.
        provider: value of gen_ai.provider.name.
    """

    def __init__(self, backend: Backend, provider: str) -> None:
        self._backend = backend
        self._stored = stored_responses_of(backend)
        self._provider = provider

    async def generate_image(
        self, request: GenerateImageRequest
    ) -> UnaryAnswer[GenerateImageResponse]:
        """Generates images and returns them when all are done."""
        with observed_generation(self._provider, _model(request.request)) as generation:
            answer = WholeAnswer.of(await self._backend.generate_image(request))
            response = answer.message.response
            images = under_each(answer.images, "response.calls")
            for index, call in enumerate(response.calls):
                _note_call(generation, call, images[index])
            _note_response(generation, response)
            return answer

    async def stream_image(self, request: StreamImageRequest) -> AsyncGenerator[Part, None]:
        """Generates images and yields the events of the generation."""
        with observed_generation(self._provider, _model(request.request)) as generation:
            stream = _Stream(generation)
            async with aclosing(self._backend.stream_image(request)) as parts:
                async for part in parts:
                    stream.note(part)
                    yield part

    async def get_image_response(
        self, request: GetImageResponseRequest
    ) -> UnaryAnswer[GetImageResponseResponse]:
        """Returns a stored response, whose images are not counted: it may be got repeatedly."""
        return await self._stored.get_image_response(request)

    async def cancel_image_response(
        self, request: CancelImageResponseRequest
    ) -> UnaryAnswer[CancelImageResponseResponse]:
        """Cancels a stored response."""
        return await self._stored.cancel_image_response(request)

    async def delete_image_response(
        self, request: DeleteImageResponseRequest
    ) -> DeleteImageResponseResponse:
        """Deletes a stored response."""
        return await self._stored.delete_image_response(request)

    async def close(self) -> None:
        """Closes the backend."""
        await self._backend.close()


def _model(request: ImageRequest) -> str:
    """Returns the model of a request: without one, that of its image tool."""
    try:
        tool = image_tool(request.tools)
    except ConversionError:  # The backend refuses the request.
        return request.model
    return request.model or (tool and tool.value("model")) or ""


class _Stream:
    """Observation of an answer to StreamImage."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation
        self._ends: list[ChunkEnd] = []
        """Ends of the values that arrived since the last event."""

    def note(self, part: Part) -> None:
        """Observes a part of the answer. Other code checks that the part is valid."""
        match part:
            case WholeImage():
                self._ends.append(part.end())
            case RawChunk():
                self._ends += [part.end] if part.end is not None else []
            case _:
                self._note_message(_message(part) if isinstance(part, bytes) else part)

    def _note_message(self, message: StreamImageResponse) -> None:
        match message.WhichOneof("part"):
            case "chunk":
                if message.chunk.HasField("end"):
                    self._ends.append(message.chunk.end)
            case "event":
                self._note_event(message.event)
                self._ends.clear()
            case "end":
                self._note_end(message.end)

    def _note_event(self, event: StreamEvent) -> None:
        images = [end for end in self._ends if end.field.endswith(_IMAGE)]
        match event.WhichOneof("variant"):
            case "image_gen_call_partial_image_event":
                for image in images:
                    self._generation.add_image(PARTIAL, _format_of(image), image.size)
            case "output_item_done_event":
                _note_item(self._generation, event.output_item_done_event.item, images)

    def _note_end(self, end: StreamEnd) -> None:
        images: dict[str, list[ChunkEnd]] = {}
        for chunk in self._ends:
            if chunk.field.endswith(_IMAGE):
                images.setdefault(chunk.field.partition("]")[0], []).append(chunk)
        for index, call in enumerate(end.response.calls):
            _note_item(self._generation, call, images.get(f"{_CALLS}{index}", []))
        _note_response(self._generation, end.response)
        self._generation.status = _STATUSES.get(end.ending, end.response.status)


def _message(serialized: bytes) -> StreamImageResponse:
    """Parses a serialized part; a malformed part counts as empty."""
    try:
        return StreamImageResponse.FromString(serialized)
    except DecodeError:
        return StreamImageResponse()


def _note_item(generation: Generation, item: ImageGenerationCall, images: list[ChunkEnd]) -> None:
    """Counts an item of a stream, whose images arrived in chunks; the first image is the result."""
    if not _count_item(generation, item):
        return
    if images:
        generation.add_image(FINAL, _format_of(images[0]), images[0].size)
    elif _has_text(item):
        generation.add_image(FINAL, _URL, 0)


def _note_call(generation: Generation, call: ImageGenerationCall, apart: Apart) -> None:
    """Counts an item of a whole response, with its image."""
    if not _count_item(generation, call):
        return
    if images := images_in(call, apart):
        start = bytes(images[0][0][:MAX_PROLOG_BYTES])
        generation.add_image(FINAL, image_format(start) or _OTHER, sum(map(len, images[0])))
    elif _has_text(call):
        generation.add_image(FINAL, _URL, 0)


def _count_item(generation: Generation, item: ImageGenerationCall) -> bool:
    """Counts an item; returns False for an item that is no call of the image tool."""
    variant = item.WhichOneof("variant")
    if variant is None or variant == _NO_CALL:
        return False
    generation.items[variant] += 1
    return True


def _has_text(item: ImageGenerationCall) -> bool:
    """True for an item whose result is a text, such as the URL of an image."""
    result = getattr(getattr(item, str(item.WhichOneof("variant"))), "result", None)
    return result is not None and result.WhichOneof("kind") == "text"


def _format_of(end: ChunkEnd) -> str:
    return _FORMATS.get(end.media_type, _OTHER)


def _note_response(generation: Generation, response: ImageResponse) -> None:
    """Records the model, the status, the tokens and the cost of a response."""
    generation.response_model = printable_name(response.model)
    generation.status = response.status
    for consumer, usage in (
        (MODEL, response.usage),
        (IMAGE_TOOL, response.tool_usage.image_gen),
    ):
        if usage.HasField("input_tokens"):
            generation.tokens[consumer, INPUT] = max(usage.input_tokens, 0)
        if usage.HasField("output_tokens"):
            generation.tokens[consumer, OUTPUT] = max(usage.output_tokens, 0)
    cost = response.usage.cost
    if response.usage.HasField("cost") and isfinite(cost) and cost >= 0:
        generation.cost = cost
