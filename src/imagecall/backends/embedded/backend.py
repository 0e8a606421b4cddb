"""Backend without a key or a network that draws test cards, and injects faults on request.

The pictures are a pure function of the request. The members of the request key "embedded" are those
of imagecall.backends.embedded.fault_injection.Faults.
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

from imagecall.access.budget import MEMORY
from imagecall.backends.embedded.answer import Answer
from imagecall.backends.embedded.fault_injection import KEY
from imagecall.backends.embedded.order import Order
from imagecall.backends.embedded.test_card.card import Card, draw
from imagecall.backends.embedded.test_card.padding import pad
from imagecall.errors import ConversionError, damaged_answer, pointer_to
from imagecall.generation.backend import Part, UnaryAnswer, WholeAnswer
from imagecall.generation.call_context import request_size
from imagecall.generation.calls_once import leave_out_sent
from imagecall.generation.chunked_fields import image_fields
from imagecall.generation.fairness import fair_turn
from imagecall.generation.offload import run_offloaded
from imagecall.generation.parts import parts_with_image
from imagecall.generation.response import end_of, whole_of
from imagecall.json.pieces import Apart
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall
from imagecall.v1.image_generation_service_pb2 import (
    GenerateImageRequest,
    GenerateImageResponse,
    StreamEnd,
    StreamImageRequest,
    StreamImageResponse,
)
from imagecall.v1.image_request_pb2 import ImageRequest
from imagecall.v1.stream_event_pb2 import StreamEvent
from imagecall.wire.chunks import raw_chunks

_Key: TypeAlias = tuple[str, float, int | None]
"""Key of a picture: its card, its sharpness, and the requested size of its file."""

_MAX_CACHE_BYTES: Final = 32 * 1024 * 1024
_DRAWINGS: Final = 2
"""Drawings at a time. One of the largest takes 90 MiB."""

_COPIES: Final = 3
"""Copies of a picture while it is drawn and put into its answer."""

_REQUEST_COPIES: Final = 10
"""Copies of a request: as JSON, as a prompt in lines, as a key of the cache, in the answer."""


@dataclass(frozen=True)
class Picture:
    """An image file and its digest."""

    data: bytes
    sha256: bytes


class EmbeddedBackend:
    """Draws test cards, and caches the last pictures, up to 32 MiB.

    Args:
        max_image_bytes: largest file that a request may ask for. None: no limit.
    """

    def __init__(self, max_image_bytes: int | None = None) -> None:
        self._max_image_bytes = max_image_bytes
        self._pool = ThreadPoolExecutor(_DRAWINGS, "imagecall-drawing")
        self._cache: OrderedDict[_Key, Picture] = OrderedDict()
        self._cached_bytes = 0
        self._drawing: dict[_Key, asyncio.Future[Picture]] = {}

    async def generate_image(
        self, request: GenerateImageRequest
    ) -> UnaryAnswer[GenerateImageResponse]:
        order = await self._order(request.request)
        await asyncio.sleep(order.faults.delay_seconds)
        order.faults.fail(midway=order.faults.midway)
        if order.faults.ending == "cut":
            raise damaged_answer("it ends in the middle")
        picture = await self._picture(order, 1.0) if order.has_image else None
        return await run_offloaded(order.size, _response, order, picture, request)

    async def stream_image(self, request: StreamImageRequest) -> AsyncGenerator[Part, None]:
        order = await self._order(request.request)
        answer = await run_offloaded(order.size, Answer, order)
        if order.faults.fails_at_once:
            await asyncio.sleep(order.faults.delay_seconds)
            order.faults.fail(midway=False)
        if request.include_other_events:
            async for part in _others(order, answer.opening()):
                yield part
        else:
            answer.skip_opening()
        async for part in self._beginning(order, answer):
            yield part
        order.faults.fail(midway=True)
        final = await self._picture(order, 1.0) if order.has_image else None
        async for part in _final_image(order, answer, final):
            yield part
        if request.include_other_events:
            async for part in _others(order, answer.message()):
                yield part
        end = await run_offloaded(order.size, _end, answer, request)
        for part in _with_picture(end, final):
            yield part

    async def _order(self, request: ImageRequest) -> Order:
        """Reads a request. Raises ConversionError, GenerationError."""
        memory = MEMORY.get()
        bytes_read = request_size(request)
        memory.add(_REQUEST_COPIES * bytes_read)
        order = await run_offloaded(bytes_read, Order, request)
        size, most = order.faults.image_bytes or 0, self._max_image_bytes
        if most is not None and size > most:
            text = f"the server draws no file of {size:,} bytes; the limit is {most:,}"
            raise ConversionError("UNSUPPORTED", pointer_to(KEY, "image_bytes"), text)
        memory.add(_COPIES * size)
        return order

    async def _beginning(self, order: Order, answer: Answer) -> AsyncGenerator[Part, None]:
        """Yields the beginning of an image, and its partial images, spread over the delay."""
        partial_images = order.settings.partial_images if order.draws else 0
        steps = partial_images + 1
        for event in answer.beginning() if order.draws else ():
            yield StreamImageResponse(event=event)
        for step in range(partial_images):
            await asyncio.sleep(order.faults.delay_seconds / steps)
            picture = await self._picture(order, (step + 1) / steps)
            for part in _with_picture(answer.partial_image(step), picture):
                yield part
        await asyncio.sleep(order.faults.delay_seconds / steps)

    async def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _picture(self, order: Order, sharpness: float) -> Picture:
        """Returns a picture of an order from the cache, or draws the picture in a thread."""
        size = order.faults.image_bytes if sharpness == 1 else None
        key = (order.card_digest, sharpness, size)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        if key not in self._drawing:  # Concurrent calls share one drawing.
            self._drawing[key] = asyncio.get_running_loop().run_in_executor(
                self._pool, _drawn, order.card, sharpness, size
            )
            self._drawing[key].add_done_callback(partial(self._finished, key))
        return await asyncio.shield(self._drawing[key])

    def _finished(self, key: _Key, drawing: "asyncio.Future[Picture]") -> None:
        del self._drawing[key]
        # Retrieves the exception, which asyncio would log if no call waits for the task.
        if not drawing.cancelled() and drawing.exception() is None:
            self._keep(key, drawing.result())

    def _keep(self, key: _Key, picture: Picture) -> None:
        self._cache[key] = picture
        self._cached_bytes += len(picture.data)
        while self._cached_bytes > _MAX_CACHE_BYTES:
            _, oldest = self._cache.popitem(last=False)
            self._cached_bytes -= len(oldest.data)


def _drawn(card: Card, sharpness: float, size: int | None) -> Picture:
    data = draw(card, sharpness)
    if size is not None:
        try:
            data = pad(data, size)
        except ValueError as error:
            pointer = pointer_to(KEY, "image_bytes")
            raise ConversionError("UNSUPPORTED", pointer, str(error)) from None
    return Picture(data, hashlib.sha256(data).digest())


def _response(
    order: Order, picture: Picture | None, request: GenerateImageRequest
) -> WholeAnswer[GenerateImageResponse]:
    message = whole_of(GenerateImageResponse, Answer(order).response(), request)
    images: Apart = {}
    if picture is not None:
        images = {place.path: (picture.data,) for place in image_fields(message)}
    return WholeAnswer(message, images, order.size)


def _end(answer: Answer, request: StreamImageRequest) -> StreamEnd:
    read = answer.response()
    if request.calls_once:
        leave_out_sent(read.document, _delivered)
    return end_of(read, answer.ending, request, _delivered)


async def _others(order: Order, events: Iterator[StreamEvent]) -> AsyncGenerator[Part, None]:
    """Yields events of no image call."""
    while (event := await run_offloaded(order.size, next, events, None)) is not None:
        yield StreamImageResponse(event=event)


async def _final_image(
    order: Order, answer: Answer, final: Picture | None
) -> AsyncGenerator[Part, None]:
    """Yields the end of the image, if drawing has begun.

    Raises GenerationError (UPSTREAM_DAMAGED) for the ending "cut".
    """
    if final is not None:
        yield StreamImageResponse(event=answer.completed())
    if order.faults.ending == "cut":
        for chunk in raw_chunks(final.data[: len(final.data) // 2]) if final else ():
            await fair_turn()
            yield chunk._replace(end=None)
        raise damaged_answer("it ends in the middle of the image")
    if order.draws:
        for part in _with_picture(answer.done(), final):
            yield part


def _with_picture(message: StreamEvent | StreamEnd, picture: Picture | None) -> Iterator[Part]:
    if picture is None:
        return parts_with_image(message)
    return parts_with_image(message, picture.data, picture.sha256)


def _delivered(index: int, call: ImageGenerationCall) -> bool:
    return True
