"""Connections that break, and failures of a server: a call is repeated only if it cost nothing."""

import asyncio
import json
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import pytest

from imagecall.backends.responses_api.backend import HttpBackend
from imagecall.errors import GenerationError
from tests.client.both import CLIENTS, AnyClient, called, opened
from tests.client.test_clients import fox
from tests.doors.test_generation import serving
from tests.doors.test_many_calls import Held
from tests.streams import framed, happy, item, response
from tests.upstream import JSON, Answer, upstream

pytestmark = pytest.mark.parametrize("kind", CLIENTS, ids=lambda kind: kind.__name__)

METHODS = ["generate", "generate_image", "stream_image"]


class Proxy:
    """Connections to a server, cut after some bytes of the client, or at `cut`."""

    def __init__(self, address: str, most_bytes: int | None = None) -> None:
        self._address = address
        self._most_bytes = most_bytes
        self._writers: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self._address.rpartition(":")
        back, forth = await asyncio.open_connection(host, int(port))
        self._writers |= {writer, forth}
        with suppress(ConnectionError):
            if self._most_bytes is None:
                await asyncio.gather(_copy(reader, forth), _copy(back, writer))
            else:
                forth.write(await reader.read(self._most_bytes))
        self.cut(writer, forth)

    def cut(self, *writers: asyncio.StreamWriter) -> None:
        """Resets these connections; without arguments, all."""
        for writer in writers or tuple(self._writers):
            writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


@asynccontextmanager
async def before(address: str, most_bytes: int | None = None) -> AsyncIterator[tuple[str, Proxy]]:
    """A proxy before a server, and its address."""
    proxy = Proxy(address, most_bytes)
    listening = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{listening.sockets[0].getsockname()[1]}", proxy
    finally:
        listening.close()
        proxy.cut()


async def failure_of(client: AnyClient, method: str, **options: Any) -> GenerationError:
    with pytest.raises(GenerationError) as caught:
        await called(client, method, fox(), **options)
    return caught.value


@pytest.mark.parametrize("method", METHODS)
async def test_a_call_that_is_lost_after_it_began_is_not_repeated(
    method: str, kind: type[AnyClient]
) -> None:
    held = Held()
    async with (
        serving(held) as server,
        before(server) as (address, proxy),
        opened(kind(address)) as client,
    ):
        failing = asyncio.ensure_future(failure_of(client, method))
        await held.reached.wait()
        proxy.cut()
        error = await failing
    assert (error.code, error.may_be_billed, held.begun) == ("UNAVAILABLE", True, 1)


async def test_calls_end_if_each_connection_breaks_before_a_request(kind: type[AnyClient]) -> None:
    held = Held()
    async with (
        serving(held) as server,
        before(server, most_bytes=10) as (address, _),
        opened(kind(address)) as client,
    ):
        failing = (failure_of(client, METHODS[number % 3]) for number in range(12))
        errors = await asyncio.gather(*failing)
    assert {error.code for error in errors} == {"UNAVAILABLE"}
    assert held.begun == 0


@pytest.mark.parametrize("method", METHODS)
async def test_a_call_that_cost_nothing_is_repeated(method: str, kind: type[AnyClient]) -> None:
    async with upstream() as api, serving(HttpBackend(api.url)) as address:
        refused = Answer([b"{}"], status=503, content_type=JSON)
        whole = json.dumps(response(item())).encode()
        plain, stream = Answer([whole], content_type=JSON), Answer([framed(happy())])
        api.answers = [refused, refused, plain if method == "generate_image" else stream]
        async with opened(kind(address)) as client:
            assert await called(client, method, fox())
    assert len(api.requests) == 3


class Cancelling(grpc.GenericRpcHandler):
    """A service with threads that begins each call, and then cancels it."""

    begun = 0

    def service(self, handler_call_details: Any) -> Any:
        if handler_call_details.method.endswith("/StreamImage"):
            return grpc.unary_stream_rpc_method_handler(self._cancel)
        return grpc.unary_unary_rpc_method_handler(self._cancel)

    def _cancel(self, request: bytes, context: Any) -> Any:
        self.begun += 1
        context.cancel()


@pytest.mark.parametrize("method", METHODS)
async def test_a_call_that_its_service_cancels_may_be_billed_and_is_not_repeated(
    method: str, kind: type[AnyClient]
) -> None:
    cancelling = Cancelling()
    server = grpc.server(ThreadPoolExecutor(1), handlers=[cancelling])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    async with opened(kind(f"127.0.0.1:{port}")) as client:
        error = await failure_of(client, method)
    server.stop(0)
    assert (error.code, error.may_be_billed, cancelling.begun) == ("CANCELLED", True, 1)


@pytest.mark.parametrize("method", METHODS)
async def test_a_call_is_repeated_three_times_and_within_its_timeout(
    method: str, kind: type[AnyClient]
) -> None:
    async with upstream() as api, serving(HttpBackend(api.url)) as address:
        api.say(b"{}", status=503, content_type=JSON)
        async with opened(kind(address)) as client:
            error = await failure_of(client, method)
            assert (error.reason, len(api.requests)) == ("UPSTREAM_UNAVAILABLE", 4)
            api.forget()
            api.say(b"{}", status=503, content_type=JSON, headers={"retry-after": "60"})
            error = await failure_of(client, method, timeout=30)
            assert (error.retry_seconds, len(api.requests)) == (60, 1)
