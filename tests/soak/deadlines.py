"""Calls whose deadline passes, or that are cancelled, leave nothing behind.

The API behind the server stalls: before its head, after it, between events, in the middle of an
image, or it goes on dripping. Shown is the time from the expiry of a call, at its client, to the
moment at which the API sees its connection closed; that the server's own count of calls in progress
is down by then, as calls for its whole `--max-calls` are taken; and that 1,000 cancellations, at
any moment and at both doors, leave no descriptor, no connection and no call behind.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import aiohttp
import grpc

from imagecall.v1.image_generation_service_pb2 import GenerateImageRequest, StreamImageRequest
from imagecall.v1.image_generation_service_pb2_grpc import ImageGenerationServiceStub
from imagecall.v1.image_request_pb2 import ImageRequest
from tests.soak.api import Api, api
from tests.soak.figure import Figure, at_most, exactly, informs, percentile
from tests.soak.server import Server, running
from tests.soak.until import until
from tests.streams import PNG, framed, happy
from tests.upstream import HANG, Answer

MIB: Final = 1024 * 1024
_DEADLINES: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0)
_STOP_MS: Final = 100
_CAP: Final = 20
_MAX_GROWTH_MIB: Final = 16
_STREAM: Final = framed(happy(PNG + bytes(2 * MIB)))
_PHASES: Final = {
    "silent": Answer((HANG,), status=None),
    "head": Answer((HANG,)),
    "events": Answer((_STREAM[:800], HANG)),
    "image": Answer((_STREAM[: 2 * MIB], HANG)),
    "drip": Answer([step for _ in range(10_000) for step in (b": still here\n\n", 0.02)]),
}
"""Stalls of an API, by the first word of the prompt."""


class _Client:
    """Calls of every kind, which take as long as the API does."""

    def __init__(self, server: Server, channel: Any, session: aiohttp.ClientSession) -> None:
        self._stub: Any = ImageGenerationServiceStub(channel)
        self._session = session
        self._url = f"http://{server.http}/v1/responses"

    async def stream(self, prompt: str, seconds: float | None = None) -> None:
        request = StreamImageRequest(request=ImageRequest(prompt=prompt))
        call = self._stub.StreamImage(request, timeout=seconds)
        try:
            async for _ in call:
                pass
        finally:
            call.cancel()  # Cancelling the task may leave the call to the garbage collector.

    async def generate(self, prompt: str, seconds: float | None = None) -> None:
        request = GenerateImageRequest(request=ImageRequest(prompt=prompt))
        await self._stub.GenerateImage(request, timeout=seconds)

    async def http_stream(self, prompt: str) -> None:
        await self._post(prompt, stream=True)

    async def http_plain(self, prompt: str) -> None:
        await self._post(prompt, stream=False)

    async def _post(self, prompt: str, stream: bool) -> None:
        tools = [{"type": "image_generation"}]
        body = {"model": "m", "input": prompt, "tools": tools, "stream": stream}
        async with self._session.post(self._url, json=body) as answer:
            await answer.read()


async def run(short: bool, seed: int) -> list[Figure]:
    random.seed(seed)
    async with (
        api(lambda prompt: _PHASES[prompt.split()[0]]) as stalling,
        running("--backend", stalling.url, "--max-calls", "1000") as server,
        grpc.aio.insecure_channel(server.grpc) as channel,
        aiohttp.ClientSession() as session,
    ):
        client = _Client(server, channel, session)
        figures = await _deadlines(client, stalling, rounds=1 if short else 20)
    async with (
        api(lambda prompt: _PHASES[prompt.split()[0]]) as stalling,
        running("--backend", stalling.url, "--max-calls", str(_CAP)) as server,
        grpc.aio.insecure_channel(server.grpc) as channel,
        aiohttp.ClientSession() as session,
    ):
        client = _Client(server, channel, session)
        figures += await _calls_gone(client, stalling, rounds=3 if short else 20)
        figures += await _cancellations(client, stalling, server)
    return figures


async def _deadlines(client: _Client, stalling: Api, rounds: int) -> list[Figure]:
    """Rounds of calls of all deadlines, phases and methods, together, begun at random moments."""
    late: dict[float, list[float]] = {seconds: [] for seconds in _DEADLINES}
    told: list[float] = []
    unreached = 0
    codes: set[str] = set()

    async def one(method: Any, phase: str, seconds: float, number: int) -> None:
        nonlocal unreached
        prompt = f"{phase} {method.__name__} {seconds} {number}"
        await asyncio.sleep(random.uniform(0, 1))
        expiry = time.monotonic() + seconds
        try:
            await method(prompt, seconds)
        except grpc.aio.AioRpcError as error:
            codes.add(error.code().name)
        told.append((time.monotonic() - expiry) * 1000)
        if prompt not in stalling.arrived_at:
            unreached += 1
            return
        await until(lambda: prompt in stalling.left_at, 10)
        late[seconds].append((stalling.left_at.get(prompt, time.monotonic()) - expiry) * 1000)

    for number in range(rounds):
        await asyncio.gather(
            *(
                one(method, phase, seconds, number)
                for method in (client.stream, client.generate)
                for phase in _PHASES
                for seconds in _DEADLINES
            )
        )
    figures = [
        at_most(f"deadline {seconds:g} s: API's connection closed after, worst", max(found),
                _STOP_MS, "ms")
        for seconds, found in late.items()
    ]  # fmt: skip
    every = [value for found in late.values() for value in found]
    return [
        *figures,
        informs(f"of {len(every):,} calls: median", percentile(every, 0.5), "ms"),
        informs("calls that expired before they reached the API", unreached),
        at_most("client told after its deadline, worst", max(told), _STOP_MS, "ms"),
        exactly("what clients were told", " ".join(sorted(codes)), "DEADLINE_EXCEEDED"),
    ]


async def _calls_gone(client: _Client, stalling: Api, rounds: int) -> list[Figure]:
    """As many calls as the server takes expire; 100 ms later it takes as many again."""
    refused = 0
    for number in range(rounds):
        await _full(client, stalling, f"a{number}", 0.3)
        await asyncio.sleep(_STOP_MS / 1000)
        refused += await _full(client, stalling, f"b{number}", 0.3)
        await asyncio.sleep(_STOP_MS / 1000)
    name = f"{_CAP} of {_CAP} slots free {_STOP_MS} ms after expiry: calls refused in {rounds} runs"
    return [exactly(name, refused, 0)]


async def _full(client: _Client, stalling: Api, name: str, seconds: float, extra: int = 0) -> int:
    """Makes as many calls at once as the server takes, and some more; how many it refused."""
    prompts = [f"{random.choice(list(_PHASES))} {name} {n}" for n in range(_CAP + extra)]
    answers = await asyncio.gather(
        *(random.choice((client.stream, client.generate))(prompt, seconds) for prompt in prompts),
        return_exceptions=True,
    )
    return sum(
        isinstance(answer, grpc.aio.AioRpcError)
        and answer.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        for answer in answers
    )


async def _cancellations(client: _Client, stalling: Api, server: Server) -> list[Figure]:
    await _cancel(client, stalling, 200, "warm")
    await _settled(server, stalling)
    descriptors, memory = server.descriptors(), server.rss_bytes()
    late = await _cancel(client, stalling, 1000, "cancel")
    await _settled(server, stalling)
    growth = (server.rss_bytes() - memory) / MIB
    left = [prompt for prompt in stalling.arrived_at if prompt not in stalling.left_at]
    more = 5
    return [
        at_most(f"cancelled, of {len(late)}: API's connection closed after, worst", max(late),
                _STOP_MS, "ms"),
        exactly("1,000 cancellations: descriptors more", server.descriptors() - descriptors, 0),
        exactly("1,000 cancellations: requests left at the API", len(left), 0),
        at_most("1,000 cancellations: memory growth", growth, _MAX_GROWTH_MIB, "MiB"),
        exactly(f"then {_CAP + more} calls at once: refused",
                await _full(client, stalling, "last", 0.5, more), more),
    ]  # fmt: skip


async def _cancel(client: _Client, stalling: Api, calls: int, name: str) -> list[float]:
    """Cancels calls at random moments; after how many milliseconds the API saw it."""
    late: list[float] = []
    at_once = asyncio.Semaphore(_CAP * 3 // 4)
    methods: list[Callable[[str], Awaitable[None]]] = [
        client.stream,
        client.generate,
        client.http_stream,
        client.http_plain,
    ]

    async def one(number: int) -> None:
        async with at_once:
            prompt = f"{random.choice(list(_PHASES))} {name} {number}"
            task = asyncio.ensure_future(random.choice(methods)(prompt))
            await asyncio.sleep(random.choice((0.002, 0.02, 0.3)) * random.random())
            task.cancel()
            cancelled = time.monotonic()
            with suppress(asyncio.CancelledError):
                await task
            await asyncio.sleep(0.02)  # A request may still be on its way to the API.
            if prompt in stalling.arrived_at:
                await until(lambda: prompt in stalling.left_at, 10)
                late.append((stalling.left_at.get(prompt, time.monotonic()) - cancelled) * 1000)

    await asyncio.gather(*map(one, range(calls)))
    return late


async def _settled(server: Server, stalling: Api) -> None:
    """Waits until no connection is left at the API, and the descriptors stay as they are."""
    await until(lambda: stalling.connections == 0, 5)
    for _ in range(20):
        before = server.descriptors()
        await asyncio.sleep(0.25)
        if server.descriptors() == before:
            return
