"""Replicas behind Envoy, HAProxy, round_robin and xDS, each as scripts/deploy has it.

`scripts/soak replicas` does the same for longer.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import grpc
import pytest

from imagecall.backends.embedded.backend import EmbeddedBackend
from imagecall.doors.grpc.server import GrpcServer
from imagecall.generation.backend import Part, UnaryAnswer
from imagecall.v1.conversion_service_pb2 import ParseCallRequest
from imagecall.v1.conversion_service_pb2_grpc import ConversionServiceStub
from imagecall.v1.image_generation_service_pb2 import (
    GenerateImageRequest,
    GenerateImageResponse,
    StreamImageRequest,
)
from imagecall.v1.image_generation_service_pb2_grpc import ImageGenerationServiceStub
from tests.balancing.balancers import BALANCERS, DEPLOY, Balancer, program
from tests.balancing.load import Tally
from tests.balancing.measure import FAULTS, Case, measure
from tests.balancing.replicas import COUNT
from tests.soak.until import until

pytestmark = pytest.mark.toolchain  # HAProxy is no package of a registry.

_PROXIES: Final = ("Envoy", "HAProxy")
_FAST_SECONDS: Final = 0.9
"""Less than --drain-delay-seconds: until then a server that stops takes calls."""

_LARGE: Final = 32 * 1024 * 1024
Tallies = dict[Case, Tally]


class Counting(EmbeddedBackend):
    """Knows how often it was asked, and how often its work was ended early."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.cancelled = 0

    async def generate_image(
        self, request: GenerateImageRequest
    ) -> UnaryAnswer[GenerateImageResponse]:
        self.asked += 1
        try:
            return await super().generate_image(request)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    def stream_image(self, request: StreamImageRequest) -> AsyncGenerator[Part, None]:
        self.asked += 1
        return super().stream_image(request)


@asynccontextmanager
async def _behind(
    name: str, directory: Path
) -> AsyncIterator[tuple[Balancer, list[GrpcServer], list[Counting]]]:
    """A load balancer that has found its replicas, which are in this process; and the replicas."""
    backends = [Counting() for _ in range(COUNT)]
    servers = [GrpcServer("127.0.0.1:0", backend) for backend in backends]
    async with AsyncExitStack() as stack:
        addresses = [await server.start() for server in servers]
        for server in servers:
            stack.push_async_callback(server.stop, 0)
        ports = [int(address.rpartition(":")[2]) for address in addresses]
        balancer = await stack.enter_async_context(BALANCERS[name](ports, directory))
        async with _generation(balancer) as stub, asyncio.timeout(60):
            while not all(backend.asked for backend in backends):
                await stub.GenerateImage(_request())
        yield balancer, servers, backends


@asynccontextmanager
async def _generation(balancer: Balancer) -> AsyncIterator[Any]:
    """A client without a retry policy."""
    options = [*balancer.options_without_retry, ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(balancer.target, options) as channel:
        yield ImageGenerationServiceStub(channel)


def _request(embedded: str = '{"image_bytes":100000}') -> GenerateImageRequest:
    request = GenerateImageRequest()
    request.request.prompt = "a fox"
    request.request.extra_fields.add(name="embedded", json=embedded)
    return request


def _asked(backends: Sequence[Counting]) -> int:
    return sum(backend.asked for backend in backends)


@pytest.fixture(scope="module")
def tallies() -> Tallies:
    """All load balancers at once, each fault once."""
    return asyncio.run(measure(list(BALANCERS), 1, seed=1))


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", BALANCERS)
def test_no_call_fails_with_the_shipped_retry_policy(
    tallies: Tallies, name: str, fault: str
) -> None:
    tally = tallies[Case(name, fault, retry=True)]
    assert tally.failed == []
    assert tally.done["ParseCall"] > 100
    assert tally.done["StreamImage"] > 10


@pytest.mark.parametrize("name", BALANCERS)
def test_a_rolling_restart_cuts_no_stream(tallies: Tallies, name: str) -> None:
    for retry in (True, False):
        assert tallies[Case(name, "rolling restart", retry)].cut == []


async def test_envoy_takes_the_shipped_configuration() -> None:
    said = await _said(
        program("envoy", "scripts/setup dev"),
        *("--mode", "validate", "--config-path", str(DEPLOY / "envoy.yaml")),
    )
    assert said.rstrip().endswith("OK")
    assert "deprecated" not in said.lower()


async def test_haproxy_takes_the_shipped_configuration() -> None:
    said = await _said(
        program("haproxy", "scripts/haproxy"), "-c", "-f", str(DEPLOY / "haproxy.cfg")
    )
    assert said == "Configuration file is valid\n"


async def _said(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


@pytest.mark.parametrize("name", _PROXIES)
async def test_a_message_of_32_MiB_goes_through(name: str, tmp_path: Path) -> None:
    head, tail = '{"type":"image_generation_call","id":"', '"}'
    json = head + "a" * (_LARGE - len(head) - len(tail)) + tail
    async with _behind(name, tmp_path) as (balancer, _, _):
        options = [*balancer.options, ("grpc.max_receive_message_length", -1)]
        async with grpc.aio.insecure_channel(balancer.target, options) as channel:
            stub: Any = ConversionServiceStub(channel)
            answer = await stub.ParseCall(ParseCallRequest(json=json), timeout=60)
    assert len(answer.call.output_image_generation_call.id) > _LARGE - 100


@pytest.mark.parametrize("name", ["Envoy", "HAProxy", "round_robin"])
async def test_a_replica_that_says_NOT_SERVING_gets_no_calls(name: str, tmp_path: Path) -> None:
    async with _behind(name, tmp_path) as (balancer, servers, backends):
        async with _generation(balancer) as stub:
            await stub.GenerateImage(_request())
            await servers[0].drain()
            await asyncio.sleep(_FAST_SECONDS)
            before = backends[0].asked
            for _ in range(30):
                await stub.GenerateImage(_request())
        assert backends[0].asked == before


# The first may have cost; the second is for the client to try again, who knows when.
@pytest.mark.parametrize(
    "embedded", ['{"http_status":503,"midway":true}', '{"http_status":503,"retry_after_seconds":9}']
)
@pytest.mark.parametrize("name", _PROXIES)
async def test_what_a_replica_answers_is_not_tried_again(
    name: str, embedded: str, tmp_path: Path
) -> None:
    async with _behind(name, tmp_path) as (balancer, _, backends), _generation(balancer) as stub:
        before = _asked(backends)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.GenerateImage(_request(embedded))
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "grpc-retry-pushback-ms" in dict(raised.value.trailing_metadata())
        assert _asked(backends) == before + 1


@pytest.mark.parametrize("name", _PROXIES)
async def test_a_deadline_goes_through(name: str, tmp_path: Path) -> None:
    async with _behind(name, tmp_path) as (balancer, _, backends), _generation(balancer) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.GenerateImage(_request('{"delay_seconds":60}'), timeout=1.5)
        assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert await until(lambda: any(backend.cancelled for backend in backends), 60)


@pytest.mark.parametrize("name", _PROXIES)
async def test_without_replicas_the_status_is_UNAVAILABLE(name: str, tmp_path: Path) -> None:
    async with _behind(name, tmp_path) as (balancer, servers, _), _generation(balancer) as stub:
        for server in servers:
            await server.stop(0)
        for _ in range(20):
            call = stub.StreamImage(StreamImageRequest(), timeout=60)
            assert await call.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("name", _PROXIES)
async def test_streams_that_are_not_read_hold_up_no_other(name: str, tmp_path: Path) -> None:
    """All on one connection of a client; each replica has the memory for all of them."""
    large, small = StreamImageRequest(), StreamImageRequest()
    large.request.CopyFrom(_request('{"image_bytes":20000000}').request)
    small.request.CopyFrom(_request().request)
    async with _behind(name, tmp_path) as (balancer, _, _), _generation(balancer) as stub:
        unread = [stub.StreamImage(large) for _ in range(2 * COUNT)]
        for call in unread:
            await call.read()
        await asyncio.sleep(1)  # Until the replicas can send no more.
        for _ in range(2 * COUNT):
            assert len([part async for part in stub.StreamImage(small, timeout=60)]) > 3
        for call in unread:
            call.cancel()
