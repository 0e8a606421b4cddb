"""Many calls at once over one connection: each is answered, or refused by admission."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack

import pytest

from imagecall.access.admission import Admission
from imagecall.access.limits import Limits
from imagecall.backends.embedded.backend import EmbeddedBackend
from imagecall.backends.grpc.backend import GrpcBackend
from imagecall.client import AsyncImageClient
from imagecall.errors import GenerationError
from imagecall.generation.backend import Part, UnaryAnswer
from imagecall.rpc.addresses import ServerAddress
from imagecall.v1.extra_field_pb2 import ExtraField
from imagecall.v1.image_generation_service_pb2 import (
    GenerateImageRequest,
    GenerateImageResponse,
    StreamImageRequest,
)
from imagecall.v1.image_generation_tool_pb2 import ImageGenerationTool, Tool
from imagecall.v1.image_request_pb2 import ImageRequest
from tests.doors.test_generation import serving

CALLS = 520
"""More than the calls in progress of a client, or the streams of a connection."""

MANY = 400
"""Calls of the tests whose subject is not the number of calls."""

SMALL = Tool(image_generation_tool=ImageGenerationTool(size="64x64", quality="low"))


def one_connection(address: str) -> AsyncImageClient:
    """Client that sends all calls at once, over one connection."""
    return AsyncImageClient(address, connections=1, max_calls=CALLS)


def slow(seconds: float) -> ImageRequest:
    delay = ExtraField(name="embedded", json=json.dumps({"delay_seconds": seconds}))
    return ImageRequest(prompt="a fox", tools=[SMALL], extra_fields=[delay])


async def outcome(client: AsyncImageClient, number: int, cancels: bool) -> str:
    """Makes a call, each eighth as a stream; with `cancels`, each third call is cancelled."""
    calling = asyncio.create_task(plain(client) if number % 8 else streamed(client))
    if cancels and number % 3 == 0:
        await asyncio.sleep(number / MANY)
        calling.cancel()
    try:
        return await calling
    except asyncio.CancelledError:
        return "cancelled"
    except GenerationError as error:
        assert error.retry_seconds == 1, error
        return error.reason


async def plain(client: AsyncImageClient) -> str:
    answer = await client.generate_image(slow(0.05))
    return "answered" if answer.calls else "empty"


async def streamed(client: AsyncImageClient) -> str:
    items = [item async for item in client.stream_image(slow(0.05))]
    return "answered" if items else "empty"


async def outcomes(
    client: AsyncImageClient, count: int = CALLS, *, cancels: bool = False
) -> Counter[str]:
    """Makes many calls at once; returns the number of calls with each outcome."""
    return Counter(await asyncio.gather(*(outcome(client, n, cancels) for n in range(count))))


async def test_calls_of_which_some_are_cancelled_leave_the_others_unharmed() -> None:
    async with serving(EmbeddedBackend()) as address, one_connection(address) as client:
        ended = await outcomes(client, MANY, cancels=True)
    assert ended.keys() <= {"answered", "cancelled"}
    assert ended["answered"] >= MANY * 2 // 3


async def test_hundreds_of_calls_at_once_are_all_answered_through_a_server_before() -> None:
    async with AsyncExitStack() as stack:
        inner = await stack.enter_async_context(serving(EmbeddedBackend()))
        relay = GrpcBackend(ServerAddress(inner))
        outer = await stack.enter_async_context(serving(relay))
        client = await stack.enter_async_context(one_connection(outer))
        assert await outcomes(client) == {"answered": CALLS}


class Held(EmbeddedBackend):
    """Answers nothing before it is released; `reached` is set once there is a call.

    Attributes:
        begun: number of calls that came.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.released = asyncio.Event(), asyncio.Event()
        self.begun = 0

    async def generate_image(
        self, request: GenerateImageRequest
    ) -> UnaryAnswer[GenerateImageResponse]:
        await self._hold()
        return await super().generate_image(request)

    async def stream_image(self, request: StreamImageRequest) -> AsyncGenerator[Part, None]:
        await self._hold()
        async for part in super().stream_image(request):
            yield part

    async def _hold(self) -> None:
        self.begun += 1
        self.reached.set()
        await self.released.wait()


@pytest.mark.parametrize("most", [1, 30])
async def test_calls_past_the_limit_are_refused_with_a_time_to_retry(most: int) -> None:
    backend, ended = Held(), Counter[str]()
    async with (
        serving(backend, Admission(Limits(calls=most))) as address,
        one_connection(address) as client,
    ):
        for next_one in asyncio.as_completed([outcome(client, n, False) for n in range(MANY)]):
            ended[await next_one] += 1
            if ended["TOO_MANY_CALLS"] == MANY - most:
                backend.released.set()
    assert ended == {"answered": most, "TOO_MANY_CALLS": MANY - most}
