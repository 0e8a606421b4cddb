"""SIGTERM under load, many times: no call fails.

Two replicas. One after the other is stopped by SIGTERM and started again on its own ports, while
these are there, each in the role of a real client:

- Callers over gRPC, with one channel to both replicas, round_robin, health checks by gRPC, and the
  retry policy of scripts/deploy/service_config.json, reconnecting after a second at most.
  Any call that fails is a failed call.
- The same without the health checks, as many clients are: they come until they are told to leave.
- Callers over HTTP, with connections kept alive, which go to the other replica when a connection is
  refused or closed before a byte of the answer, as a load balancer does. Anything else that is not
  200 and whole is a failed call.
- Long calls to the replica itself that is to be stopped, of both doors, begun before SIGTERM: every
  one must finish, and well.
- A watcher of its health, and one that makes calls on a new connection all the time: the watcher
  must hear NOT_SERVING before the first of these is refused. Each
  ends with OK or with a code that the shipped retry policy repeats.
"""

import asyncio
import json
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import aiohttp
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from imagecall.v1.conversion_service_pb2 import DESCRIPTOR as CONVERSION
from imagecall.v1.conversion_service_pb2 import ConvertCallsRequest, ParseCallRequest
from imagecall.v1.conversion_service_pb2_grpc import ConversionServiceStub
from imagecall.v1.extra_field_pb2 import ExtraField
from imagecall.v1.image_generation_service_pb2 import GenerateImageRequest, StreamImageRequest
from imagecall.v1.image_generation_service_pb2_grpc import ImageGenerationServiceStub
from imagecall.v1.image_request_pb2 import ImageRequest
from tests.soak.bystander import ITEM
from tests.soak.figure import Figure, at_most, exactly, failures, informs
from tests.soak.server import Server, running
from tests.soak.until import until

_DRAIN: Final = ("--drain-delay-seconds", "1", "--drain-seconds", "15")
_CALLERS: Final = 4
_LONG_CALLS: Final = 5
_LONG_SECONDS: Final = 2.5
"""Longer than the delay before the drain."""

_MOST_SECONDS: Final = 8.0
"""Longest stop: the drain delay, the longest call, and a margin for a busy machine."""

_CALL_SECONDS: Final = 30.0
_RECONNECT: Final = (
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
"""gRPC's own backoff grows to two minutes: a replica that is back would long not be used."""

_FOUND_SECONDS: Final = 2.0
"""Pause after a replica's restart, in which clients find the replica."""

_CONVERSION: Final = CONVERSION.services_by_name["ConversionService"].full_name
_IMAGE_BYTES: Final = 300_000

_SHIPPED: Final = Path(__file__).parents[2] / "scripts" / "deploy" / "service_config.json"
_CONFIG: Final = json.loads(_SHIPPED.read_text())
_RETRIED: Final = _CONFIG["methodConfig"][0]["retryPolicy"]["retryableStatusCodes"]
"""Codes that the shipped retry policy repeats. CANCELLED is the core's for a call that the server
had not begun when it stopped: grpc/grpc#41785."""


def _service_config(watches: bool) -> str:
    """The shipped one, with health checks only if it watches."""
    health = {"healthCheckConfig": {"serviceName": _CONVERSION}} if watches else {}
    unwatched = {key: value for key, value in _CONFIG.items() if key != "healthCheckConfig"}
    return json.dumps(unwatched | health)


def _wanted(**embedded: float) -> ImageRequest:
    wanted = ImageRequest(prompt="a fox")
    wanted.tools.add().image_generation_tool.size = "64x64"
    wanted.extra_fields.append(ExtraField(name="embedded", json=json.dumps(embedded)))
    return wanted


def _body(stream: bool, **embedded: float) -> dict[str, Any]:
    tools = [{"type": "image_generation", "size": "64x64"}]
    return {"input": "a fox", "tools": tools, "stream": stream, "embedded": embedded}


class _Calls:
    """Number of calls, and the failures among them."""

    def __init__(self) -> None:
        self.made = 0
        self.failed: Counter[str] = Counter()

    @asynccontextmanager
    async def one(self, name: str) -> AsyncIterator[None]:
        self.made += 1
        try:
            yield
        except grpc.aio.AioRpcError as error:
            self.failed[f"{name}: {error.code().name} {error.details()}"] += 1
        except (aiohttp.ClientError, AssertionError) as error:
            self.failed[f"{name}: {type(error).__name__} {error}"] += 1


async def _grpc_call(channel: Any, kind: str, **embedded: float) -> None:
    """A call of this kind; its answer must be whole."""
    conversion: Any = ConversionServiceStub(channel)
    generation: Any = ImageGenerationServiceStub(channel)
    match kind:
        case "ParseCall":
            response = await conversion.ParseCall(
                ParseCallRequest(json=ITEM), timeout=_CALL_SECONDS
            )
            assert response.call.output_image_generation_call.id == "ig_1"
        case "ConvertCalls":
            request = ConvertCallsRequest()
            for _ in range(50):
                request.conversions.add().json = ITEM
            call = conversion.ConvertCalls(iter([request]), timeout=_CALL_SECONDS)
            found = [result.index async for part in call for result in part.results]
            assert found == list(range(50)), "answers are missing"
        case "GenerateImage":
            message = GenerateImageRequest(request=_wanted(**embedded))
            answer = await generation.GenerateImage(message, timeout=_CALL_SECONDS)
            assert len(answer.response.calls) == 1, "the image is missing"
        case "StreamImage":
            asked = StreamImageRequest(request=_wanted(**embedded))
            last = None
            async for part in generation.StreamImage(asked, timeout=_CALL_SECONDS):
                last = part
            assert last is not None, "the stream is empty"
            assert last.HasField("end"), "the stream has no end"


_GRPC_KINDS: Final = ("ParseCall", "ConvertCalls", "GenerateImage", "StreamImage")


async def _http_call(
    session: aiohttp.ClientSession, address: str, stream: bool, **embedded: float
) -> None:
    """The same at the HTTP door. Raises ClientError before, or AssertionError after its head."""
    url = f"http://{address}/v1/responses"
    async with session.post(url, json=_body(stream, **embedded)) as answer:
        assert answer.status == 200, f"the status is {answer.status}"
        try:
            text = await answer.read()
        except aiohttp.ClientError as error:
            raise AssertionError(f"the answer is cut: {type(error).__name__}") from None
        end = b"data: [DONE]\n\n" if stream else b"}"
        assert text.endswith(end), "the answer has no end"
        assert b'"error":{' not in text, "the answer is an error"


class _Load:
    """The callers that know both replicas."""

    def __init__(self, servers: list[Server]) -> None:
        self._servers = servers
        self.grpc, self.unaware, self.http = _Calls(), _Calls(), _Calls()
        self.http_moved = 0

    async def run(self) -> None:
        places = ",".join(server.grpc for server in self._servers)

        def channel(watches: bool) -> Any:
            own = ("grpc.use_local_subchannel_pool", 1)  # If not, both share their connections.
            options = [("grpc.service_config", _service_config(watches)), own, *_RECONNECT]
            return grpc.aio.insecure_channel(f"ipv4:{places}", options)

        async with (
            channel(watches=True) as aware,
            channel(watches=False) as unaware,
            aiohttp.ClientSession() as session,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(_CALLERS):
                group.create_task(self._over_grpc(aware, self.grpc))
                group.create_task(self._over_grpc(unaware, self.unaware))
                group.create_task(self._over_http(session))

    async def _over_grpc(self, channel: Any, calls: _Calls) -> None:
        while True:
            kind = random.choice(_GRPC_KINDS)
            delay = random.choice((0.01, 0.1, 0.5))
            async with calls.one(kind):
                await _grpc_call(channel, kind, image_bytes=_IMAGE_BYTES, delay_seconds=delay)
            await asyncio.sleep(0.05)

    async def _over_http(self, session: aiohttp.ClientSession) -> None:
        while True:
            places = [server.http for server in self._servers]
            random.shuffle(places)
            async with self.http.one("HTTP"):
                stream = random.random() < 0.5
                try:
                    await _http_call(session, places[0], stream, image_bytes=_IMAGE_BYTES)
                except aiohttp.ClientConnectionError:
                    self.http_moved += 1
                    await _http_call(session, places[1], stream, image_bytes=_IMAGE_BYTES)
            await asyncio.sleep(0.05)


class _Stop:
    """Measurements of a replica's stop."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.long = _Calls()
        self.probes = _Calls()
        self.heard = self.refused = self.ended = 0.0

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self._watch())
            probing = group.create_task(self._probe())
            for _ in range(_LONG_CALLS):
                for kind in ("GenerateImage", "StreamImage"):
                    group.create_task(self._long_grpc(kind))
                for stream in (False, True):
                    group.create_task(self._long_http(stream))
            await asyncio.sleep(0.5)
            self._server.process.send_signal(signal.SIGTERM)
            start = time.monotonic()
            await self._server.process.wait()
            self.ended = time.monotonic() - start
            await until(lambda: self.refused > 0, 5)
            probing.cancel()
            watching.cancel()

    async def _long_grpc(self, kind: str) -> None:
        async with grpc.aio.insecure_channel(self._server.grpc) as channel, self.long.one(kind):
            await _grpc_call(channel, kind, image_bytes=_IMAGE_BYTES, delay_seconds=_LONG_SECONDS)

    async def _long_http(self, stream: bool) -> None:
        async with aiohttp.ClientSession() as session, self.long.one("HTTP"):
            await _http_call(
                session,
                self._server.http,
                stream,
                image_bytes=_IMAGE_BYTES,
                delay_seconds=_LONG_SECONDS,
            )

    async def _watch(self) -> None:
        async with grpc.aio.insecure_channel(self._server.grpc) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            request = health_pb2.HealthCheckRequest(service=_CONVERSION)
            with suppress(grpc.RpcError):
                async for response in stub.Watch(request):
                    serving = response.status == health_pb2.HealthCheckResponse.SERVING
                    if not serving and not self.heard:
                        self.heard = time.monotonic()

    async def _probe(self) -> None:
        """Calls on a new connection each, until one is refused."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        while not self.refused:
            async with grpc.aio.insecure_channel(self._server.grpc, options) as channel:
                stub: Any = ConversionServiceStub(channel)
                self.probes.made += 1
                try:
                    await stub.ParseCall(ParseCallRequest(json=ITEM), timeout=_CALL_SECONDS)
                except grpc.aio.AioRpcError as error:
                    if error.code().name not in _RETRIED:
                        self.probes.failed[f"{error.code().name} {error.details()}"] += 1
                    self.refused = time.monotonic()
            await asyncio.sleep(0.01)


async def run(short: bool, seed: int) -> list[Figure]:
    random.seed(seed)
    times = 4 if short else 20
    stops: list[_Stop] = []
    async with AsyncExitStack() as stack:
        replicas = [await stack.enter_async_context(_Replica().running()) for _ in range(2)]
        servers = [replica.server for replica in replicas]
        load = _Load(servers)
        loading = asyncio.create_task(load.run())
        await asyncio.sleep(1)
        for number in range(times):
            replica = replicas[number % 2]
            stop = _Stop(replica.server)
            await stop.run()
            stops.append(stop)
            servers[number % 2] = await replica.start_again()
            await asyncio.sleep(_FOUND_SECONDS)
        loading.cancel()
        with suppress(asyncio.CancelledError):
            await loading
    return _figures(load, stops)


def _figures(load: _Load, stops: list[_Stop]) -> list[Figure]:
    long, probes = Counter[str](), Counter[str]()
    for stop in stops:
        long += stop.long.failed
        probes += stop.probes.failed
    made = sum(stop.long.made for stop in stops)
    first = sum(0 < stop.heard < stop.refused for stop in stops)
    gap = min(stop.refused - stop.heard for stop in stops)
    times = len(stops)
    return [
        failures(f"{times} x SIGTERM, {load.grpc.made:,} calls, two replicas: failed",
                 load.grpc.failed),
        failures(f"{load.unaware.made:,} calls without health checks: failed", load.unaware.failed),
        failures(f"{load.http.made:,} HTTP calls, two replicas: failed", load.http.failed),
        informs("of these, begun anew at the other replica", load.http_moved),
        failures(f"{made:,} calls in progress at SIGTERM, both doors: failed", long),
        failures(f"{sum(stop.probes.made for stop in stops):,} calls on new connections: neither "
                 "OK nor a code of the shipped retry policy", probes),
        exactly("NOT_SERVING was heard before the first refusal", first, times, "times"),
        informs("and that before it, at the least", gap * 1000, "ms"),
        at_most("from SIGTERM to the end of the process, worst",
                max(stop.ended for stop in stops), _MOST_SECONDS, "s"),
    ]  # fmt: skip


class _Replica:
    """A server that is started again on the ports that it had."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()
        self.server: Server

    @asynccontextmanager
    async def running(self) -> AsyncIterator["_Replica"]:
        self.server = await self._stack.enter_async_context(running(*_DRAIN))
        try:
            yield self
        finally:
            await self._stack.aclose()

    async def start_again(self) -> Server:
        """Once it has ended."""
        await self._stack.aclose()
        ports = ("--grpc", self.server.grpc, "--http", self.server.http)
        self.server = await self._stack.enter_async_context(running(*_DRAIN, *ports))
        return self.server
