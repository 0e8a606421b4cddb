"""Load on a load balancer, and what became of each call."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import grpc

from imagecall.errors import ImagecallError
from imagecall.generation.assembly import reassemble
from imagecall.v1.conversion_service_pb2 import ParseCallRequest
from imagecall.v1.conversion_service_pb2_grpc import ConversionServiceStub
from imagecall.v1.image_generation_service_pb2 import StreamImageRequest, StreamImageResponse
from imagecall.v1.image_generation_service_pb2_grpc import ImageGenerationServiceStub
from imagecall.v1.stream_event_pb2 import StreamEvent
from tests.balancing.balancers import Balancer

IMAGE_BYTES: Final = 2_000_000
_ITEM: Final = json.dumps({"type": "image_generation_call", "id": "ig_1", "status": "completed"})
_TIMEOUT_SECONDS: Final = 30.0
_DRAWING_SECONDS: Final = 0.3


@dataclass
class Tally:
    """Outcomes of the calls.

    Attributes:
        done: number of calls that succeeded with the right answer.
        failed: statuses of the calls that failed before their first message.
        cut: statuses of the streams that failed later, which only the caller may retry.
        longest: duration of the longest call, in seconds.
    """

    done: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    longest: float = 0.0


class _Load:
    def __init__(self, channel: grpc.aio.Channel, tally: Tally) -> None:
        self._conversion: Any = ConversionServiceStub(channel)
        self._generation: Any = ImageGenerationServiceStub(channel)
        self._tally = tally

    async def parse(self) -> None:
        try:
            request = ParseCallRequest(json=_ITEM)
            answer = await self._conversion.ParseCall(request, timeout=_TIMEOUT_SECONDS)
            assert answer.call.output_image_generation_call.id == "ig_1"
        except grpc.RpcError as error:
            self._tally.failed.append(_said("ParseCall", error))
        else:
            self._tally.done["ParseCall"] += 1

    async def stream(self) -> None:
        request = StreamImageRequest()
        request.request.prompt = "a red fox"
        asked = json.dumps({"image_bytes": IMAGE_BYTES, "delay_seconds": _DRAWING_SECONDS})
        request.request.extra_fields.add(name="embedded", json=asked)
        call = self._generation.StreamImage(request, timeout=_TIMEOUT_SECONDS)
        begun = False

        async def parts() -> AsyncIterator[StreamImageResponse]:
            nonlocal begun
            async for part in call:
                begun = True
                yield part

        sizes = []
        try:
            async for happening in reassemble(parts()):
                if isinstance(happening, StreamEvent) and happening.HasField(
                    "output_item_done_event"
                ):
                    item = happening.output_item_done_event.item
                    sizes.append(len(item.output_image_generation_call.result.image))
            assert sizes == [IMAGE_BYTES], sizes
        except (grpc.RpcError, ImagecallError) as error:
            (self._tally.cut if begun else self._tally.failed).append(_said("StreamImage", error))
        else:
            self._tally.done["StreamImage"] += 1


def _said(method: str, error: Exception) -> str:
    if isinstance(error, grpc.RpcError):
        return f"{method}: {error.code().name}: {error.details()}"
    return f"{method}: {error}"


@asynccontextmanager
async def load(
    balancer: Balancer, *, retry: bool, parsing: int = 3, streaming: int = 2
) -> AsyncIterator[Tally]:
    """Calls, so many at a time, one after another, until the end of the block."""
    tally = Tally()
    ended = asyncio.Event()

    async def repeat(call: Callable[[], Awaitable[None]], pause: float) -> None:
        while not ended.is_set():
            start = time.monotonic()
            await call()
            tally.longest = max(tally.longest, time.monotonic() - start)
            await asyncio.sleep(pause)

    options = balancer.options if retry else balancer.options_without_retry
    # Not the connections of another client to the same replicas.
    options = [*options, ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(balancer.target, options) as channel:
        calls = _Load(channel, tally)
        async with asyncio.TaskGroup() as group:
            for _ in range(parsing):
                group.create_task(repeat(calls.parse, 0.01))
            for _ in range(streaming):
                group.create_task(repeat(calls.stream, 0.05))
            try:
                yield tally
            finally:
                ended.set()
