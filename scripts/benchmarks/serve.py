"""Benchmark of small unary calls: ParseCall against bare grpcio services.

Each server runs in a process of its own, with its defaults: a bare grpc.aio service that echoes its
request; one that converts it, without limits, deadlines or statuses; `imagecall serve`; `imagecall
serve` with metrics; with metrics and traces, for a receiver that drops the traces; and with two
workers. One client keeps a number of calls in progress on some connections, to each server in turn
for a moment, for many rounds; client and servers share the machine's cores. All processes are
restarted several times, as the speed of a program differs by some percent per start.
"""

import argparse
import asyncio
import os
import platform
import resource
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc
from aiohttp import web
from rounds import Rounds, print_row

from imagecall.conversion.converter import from_json
from imagecall.v1.conversion_service_pb2 import ParseCallRequest, ParseCallResponse

PROGRAM = str(Path(sys.executable).parent / "imagecall")
METHOD = "/imagecall.v1.ConversionService/ParseCall"
ITEM = '{"type":"image_generation_call","id":"ig_1","result":"aGk=","status":"completed"}'
CONNECTIONS = 4
IN_PROGRESS = 32
ROUND_SECONDS = 1.0
BARE = "a bare echo"
CONVERTER = "a bare converter"


async def serve_bare(kind: str) -> None:
    """Runs a bare service."""

    async def echo(request: bytes, context: Any) -> bytes:
        return request

    async def convert(request: bytes, context: Any) -> bytes:
        json = ParseCallRequest.FromString(request).json
        return ParseCallResponse(call=from_json(json)).SerializeToString()

    handler = grpc.unary_unary_rpc_method_handler(echo if kind == BARE else convert)
    service, name = METHOD[1:].split("/")
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {name: handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"listening grpc 127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


@asynccontextmanager
async def receiver() -> AsyncIterator[str]:
    """Runs an OTLP receiver that drops its input; yields its URL."""

    async def take(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(content_type="application/x-protobuf")

    app = web.Application(client_max_size=2**30)
    app.router.add_post("/{path:.*}", take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def process(*command: str, **environment: str) -> AsyncIterator[str]:
    """Runs a server process; yields its address."""
    running = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=os.environ | environment,
    )
    assert running.stdout is not None
    try:
        line = (await running.stdout.readline()).decode()
        assert line.startswith("listening grpc"), command
        yield line.split()[-1]
    finally:
        running.terminate()
        await running.wait()


class Client:
    """Connections to one server, and the calls in progress on them."""

    def __init__(self, address: str) -> None:
        own = [("grpc.use_local_subchannel_pool", 1)]
        self.channels = [grpc.aio.insecure_channel(address, own) for _ in range(CONNECTIONS)]
        self.request = ParseCallRequest(json=ITEM).SerializeToString()

    async def rate(self, seconds: float) -> float:
        """Returns the calls per second."""
        end = time.perf_counter() + seconds
        counts = await asyncio.gather(*(self._calls(n, end) for n in range(IN_PROGRESS)))
        return sum(counts) / seconds

    async def close(self) -> None:
        for channel in self.channels:
            await channel.close()

    async def _calls(self, number: int, end: float) -> int:
        method: Any = self.channels[number % CONNECTIONS].unary_unary(METHOD)
        count = 0
        while time.perf_counter() < end:
            await method(self.request)
            count += 1
        return count


async def measure(starts: int, rounds: int) -> None:
    print(
        f"Python {platform.python_version()}, grpcio {version('grpcio')}, {os.cpu_count()} cores; "
        f"load {os.getloadavg()[0]:.1f}; {IN_PROGRESS} calls in progress on {CONNECTIONS} "
        f"connections, {starts} x {rounds} rounds of {ROUND_SECONDS:g} s each, medians"
    )
    rates: dict[str, list[float]] = defaultdict(list)
    shares: dict[str, list[float]] = defaultdict(list)
    for _ in range(starts):
        await _measure_once(rounds, rates, shares)
    shown = Rounds(rates)
    for name, rate in rates.items():
        figures = {
            f"of {peer}": shown.ratio(name, peer)
            for peer in (BARE, CONVERTER, "ParseCall")
            if peer != name
        }
        cores = {"client's cores": statistics.median(shares[name])}
        print_row(name, f"{statistics.median(rate):,.0f} calls/s", figures | cores)


async def _measure_once(
    rounds: int, rates: dict[str, list[float]], shares: dict[str, list[float]]
) -> None:
    """Starts the servers; records the calls per second and the client's cores of each round."""
    serve = (PROGRAM, "serve", "--grpc", "127.0.0.1:0", "--http", "off")
    async with AsyncExitStack() as stack:
        otlp = await stack.enter_async_context(receiver())
        observed = {"OTEL_EXPORTER_OTLP_ENDPOINT": otlp}
        commands: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
            BARE: ((sys.executable, __file__, "--bare", BARE), {}),
            CONVERTER: ((sys.executable, __file__, "--bare", CONVERTER), {}),
            "ParseCall": (serve, {}),
            "ParseCall, metrics": ((*serve, "--metrics", "127.0.0.1:0"), {}),
            "ParseCall, metrics and traces": (
                (*serve, "--metrics", "127.0.0.1:0", "--traces", "on"),
                observed,
            ),
            "ParseCall, 2 workers": ((*serve, "--workers", "2"), {}),
        }
        clients = {}
        for name, (command, environment) in commands.items():
            address = await stack.enter_async_context(process(*command, **environment))
            clients[name] = Client(address)
        for client in clients.values():
            await client.rate(0.5)
        for _ in range(rounds):
            for name, client in clients.items():
                start = _cpu_seconds()
                rates[name].append(await client.rate(ROUND_SECONDS))
                shares[name].append((_cpu_seconds() - start) / ROUND_SECONDS)
        for client in clients.values():
            await client.close()


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--bare", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        asyncio.run(serve_bare(options.bare))
    else:
        asyncio.run(measure(*((1, 3) if options.quick else (5, 4))))


if __name__ == "__main__":
    main()
