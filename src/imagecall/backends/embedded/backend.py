"""The backend that needs no key and no network: it draws test cards, and fails when it is asked to.

The pictures are a pure function of the request. How a client deals with failures, delays and very
large images can be tried with the request key "embedded", an object; its members are those of
imagecall.backends.embedded.order.Asked.
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

from imagecall.backends.embedded.order import KEY, Order
from imagecall.backends.embedded.test_card.card import Card, draw
from imagecall.backends.embedded.test_card.padding import pad
from imagecall.errors import ConversionError, damaged_answer, pointer_to
from imagecall.generation.backend import Part
from imagecall.generation.chunked_fields import images
from imagecall.generation.fairness import turn
from imagecall.generation.parts import in_parts
from imagecall.generation.response import end_of
from imagecall.sizes import PIECE
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall
from imagecall.v1.image_generation_service_pb2 import (
    GenerateImageRequest,
    GenerateImageResponse,
    StreamEnd,
    StreamImageRequest,
    StreamImageResponse,
)
from imagecall.v1.stream_event_pb2 import StreamEvent
from imagecall.wire.chunks import end_of_image, pieces

_Key: TypeAlias = tuple[str, float, int | None]
"""What a picture is known by: its card, its sharpness, and how large a file is asked for."""

_KEPT_BYTES: Final = 256 * 1024 * 1024


@dataclass(frozen=True)
class Picture:
    """An image file and its digest."""

    data: bytes
    sha256: bytes


class EmbeddedBackend:
    """See the module. It keeps the last pictures, up to 256 MiB, as they may be asked for again."""

    def __init__(self) -> None:
        self._kept: OrderedDict[_Key, Picture] = OrderedDict()
        self._drawing: dict[_Key, asyncio.Task[Picture]] = {}

    async def generate_image(self, request: GenerateImageRequest) -> GenerateImageResponse:
        order = await asyncio.to_thread(Order, request.request)
        await asyncio.sleep(order.asked.delay_seconds)
        order.fail(midway=order.asked.midway)
        if order.asked.ending == "cut":
            raise damaged_answer("it ends in the middle")
        picture = await self._picture(order, 1.0) if order.has_image else None
        end = end_of(
            order.response(picture.data if picture else None),
            order.ending,
            request.include_document,
        )
        return GenerateImageResponse(response=end.response)

    async def stream_image(self, request: StreamImageRequest) -> AsyncGenerator[Part, None]:
        order = await asyncio.to_thread(Order, request.request)
        steps = order.settings.partial_images + 1
        if order.asked.http_status and not order.asked.midway:
            await asyncio.sleep(order.asked.delay_seconds)
            order.fail(midway=False)
        for event in order.beginning(request.include_other_events):
            yield StreamImageResponse(event=event)
        for step in range(steps - 1):
            await asyncio.sleep(order.asked.delay_seconds / steps)
            picture = await self._picture(order, (step + 1) / steps)
            async for part in _with_image(order.partial_image(step), picture):
                yield part
        await asyncio.sleep(order.asked.delay_seconds / steps)
        order.fail(midway=True)
        final = await self._picture(order, 1.0) if order.has_image else None
        if final is not None:
            yield StreamImageResponse(event=order.completed())
        if final is not None and order.asked.ending == "cut":
            for piece in pieces(final.data[: len(final.data) // 2]):
                await turn()
                yield piece._replace(end=None)
            raise damaged_answer("it ends in the middle of the image")
        async for part in _with_image(order.done(), final):
            yield part
        end = end_of(order.response(None), order.ending, request.include_document, _delivered)
        async for part in _with_image(end, final):
            yield part

    async def close(self) -> None:
        """There is nothing to give back."""

    async def _picture(self, order: Order, sharpness: float) -> Picture:
        """A picture of an order: one that was kept, or drawn now, beside the event loop."""
        size = order.asked.image_bytes if sharpness == 1 else None
        key = (order.card_digest, sharpness, size)
        picture = self._kept.pop(key, None)
        if picture is None:
            if key not in self._drawing:  # However many want it, it is drawn once.
                drawn = asyncio.to_thread(_drawn, order.card, sharpness, size)
                self._drawing[key] = asyncio.create_task(drawn)
                self._drawing[key].add_done_callback(partial(self._finished, key))
            return await asyncio.shield(self._drawing[key])
        self._keep(key, picture)
        return picture

    def _finished(self, key: _Key, drawing: "asyncio.Task[Picture]") -> None:
        del self._drawing[key]
        # An exception is asked for even if nobody waits for it any more, or asyncio logs it.
        if not drawing.cancelled() and drawing.exception() is None:
            self._keep(key, drawing.result())

    def _keep(self, key: _Key, picture: Picture) -> None:
        self._kept[key] = picture
        while sum(len(kept.data) for kept in self._kept.values()) > _KEPT_BYTES:
            self._kept.popitem(last=False)


def _drawn(card: Card, sharpness: float, size: int | None) -> Picture:
    data = draw(card, sharpness)
    if size is not None:
        try:
            data = pad(data, size)
        except ValueError as error:
            pointer = pointer_to(KEY, "image_bytes")
            raise ConversionError("UNSUPPORTED", pointer, str(error)) from None
    return Picture(data, hashlib.sha256(data).digest())


async def _with_image(
    message: StreamEvent | StreamEnd, picture: Picture | None
) -> AsyncGenerator[Part, None]:
    """An event or end whose images are left empty, after their chunks, all of the same picture."""
    paths = [place.path for place in images(message)]
    if picture is not None:
        for path in paths:
            end = end_of_image(picture.data, path)
            for piece in pieces(picture.data, sha256=picture.sha256, **end):
                if len(piece.data) >= PIECE:
                    await turn()
                yield piece
    for part in in_parts(message, paths if picture is not None else ()):
        yield part


def _delivered(index: int, call: ImageGenerationCall) -> bool:
    return True
