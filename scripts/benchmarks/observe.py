"""Benchmark of observing: ParseCall with metrics and traces on, against off, in the same run.

Each server runs in a process of its own, and so does an OTLP receiver that drops its input. Short
rounds go from server to server, each round in another order, so that other load on the machine
hits all servers; a ratio is the median of the rounds' ratios. The client is one process, and
shares the machine's cores with the server.
"""

import argparse
import asyncio
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc
from rounds import Rounds, print_row

from imagecall.v1.conversion_service_pb2 import ParseCallRequest
from imagecall.v1.conversion_service_pb2_grpc import ConversionServiceStub

PROGRAM = str(Path(sys.executable).parent / "imagecall")
ITEM = '{"type":"image_generation_call","id":"ig_1","result":null,"status":"completed"}'
CASES: dict[str, list[str]] = {
    "off": [],
    "metrics": ["--metrics", "127.0.0.1:0"],
    "traces": ["--traces", "on"],
    "metrics and traces": ["--metrics", "127.0.0.1:0", "--traces", "on"],
    "metrics, 1 of 100 traces sampled": ["--metrics", "127.0.0.1:0", "--traces", "on"],
}
SAMPLED = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"}


async def receive() -> None:
    """Runs an OTLP receiver on a port that it prints."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode().lower().split("\r\n")
                length = next(line for line in lines if line.startswith("content-length:"))
                await reader.readexactly(int(length.partition(":")[2]))
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(f"listening otlp 127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


@asynccontextmanager
async def running(*command: str, **environment: str) -> AsyncIterator[tuple[str, int]]:
    """Runs a server; yields the address that the server prints first, and its process id."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, env=os.environ | environment
    )
    try:
        assert process.stdout
        line = await process.stdout.readline()
        yield line.decode().split()[-1], process.pid
    finally:
        process.terminate()
        await process.wait()


def cpu_seconds(process: int) -> float:
    """Returns the CPU seconds that a process has used (Linux)."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def calls_per_second(stub: Any, seconds: float, together: int) -> float:
    request, count = ParseCallRequest(json=ITEM), 0
    begun = time.perf_counter()

    async def call() -> None:
        nonlocal count
        while time.perf_counter() - begun < seconds:
            await stub.ParseCall(request)
            count += 1

    await asyncio.gather(*(call() for _ in range(together)))
    return count / (time.perf_counter() - begun)


async def measure(rounds: int, seconds: float, together: int) -> None:
    async with AsyncExitStack() as stack:
        otlp, _ = await stack.enter_async_context(running(sys.executable, __file__, "--receive"))
        servers: dict[str, tuple[Any, int]] = {}
        for name, flags in CASES.items():
            ports = ["--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"]
            environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{otlp}"}
            environment |= SAMPLED if "sampled" in name else {}
            address, process = await stack.enter_async_context(
                running(PROGRAM, "serve", *ports, *flags, **environment)
            )
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
            servers[name] = ConversionServiceStub(channel), process
            await calls_per_second(servers[name][0], 1.0, together)
        rates: dict[str, list[float]] = {name: [] for name in CASES}
        costs: dict[str, list[float]] = {name: [] for name in CASES}
        for _ in range(rounds):
            for name in random.sample(list(servers), len(servers)):
                stub, process = servers[name]
                before = cpu_seconds(process)
                rate = await calls_per_second(stub, seconds, together)
                rates[name].append(rate)
                costs[name].append((cpu_seconds(process) - before) / (rate * seconds) * 1e6)
    for name in CASES:
        figures = {
            "calls/s of off": Rounds(rates).ratio(name, "off"),
            "CPU us/call": f"{statistics.median(costs[name]):,.0f}",
            "CPU of off": Rounds(costs).ratio(name, "off"),
        }
        rate = f"{statistics.median(rates[name]):,.0f} calls/s"
        print_row(f"telemetry {name}", rate, figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--receive", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.receive:
        asyncio.run(receive())
        return
    versions = ", ".join(f"{name} {version(name)}" for name in ("grpcio", "opentelemetry-sdk"))
    print(f"Python {platform.python_version()}, {versions}, {os.cpu_count()} cores\n")
    asyncio.run(measure(*((15, 0.3) if options.quick else (60, 0.3)), together=32))


if __name__ == "__main__":
    main()
