"""Metrics of several workers, which any of them answers for all."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from imagecall.access.limits import Limits
from imagecall.v1.conversion_service_pb2 import Conversion, ConvertCallsRequest, ParseCallRequest
from imagecall.v1.conversion_service_pb2_grpc import ConversionServiceStub
from imagecall.v1.image_generation_service_pb2_grpc import ImageGenerationServiceStub
from tests.doors.test_generation import AN_IMAGE
from tests.observing.servers import samples
from tests.until import until
from tests.upstream import HANG, upstream

ITEM = '{"type":"image_generation_call","id":"ig_1"}'
PARSE = "imagecall.v1.ConversionService/ParseCall"
COUNT = ("rpc_server_call_duration_seconds_count", frozenset(["grpc", PARSE, "OK"]))
ITEMS = ("imagecall_items_total", frozenset(["parse", "output_image_generation_call", "ok"]))
IN_PROGRESS = ("imagecall_calls_in_progress", frozenset(["grpc"]))

CALLS = ("imagecall_calls_total", frozenset(["grpc", PARSE, "ok"]))
LIMIT = ("imagecall_calls_limit", frozenset[str]())
MEMORY = ("process_resident_memory_bytes", frozenset[str]())


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@dataclass
class Server:
    """A server of two workers."""

    process: subprocess.Popen[str]
    grpc: str
    metrics: str
    temporary: Path

    @property
    def workers(self) -> set[int]:
        pid = self.process.pid
        return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))

    def counting(self) -> set[int]:
        """The workers that have counted a call."""
        files = self.temporary.glob("imagecall-metrics-*/histogram_*.db")
        return {int(file.stem.rpartition("_")[2]) for file in files}

    def call(self, times: int) -> None:
        for _ in range(times):
            # A connection each, for the kernel to spread over the workers.
            options = [("grpc.use_local_subchannel_pool", 1)]
            with grpc.insecure_channel(self.grpc, options) as channel:
                request = ParseCallRequest(json=ITEM)
                ConversionServiceStub(channel).ParseCall(request, timeout=60, wait_for_ready=True)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    command = [sys.executable, "-m", "imagecall", "serve", "--workers", "2"]
    options = ["--grpc", "127.0.0.1:0", "--http", "off", "--metrics", "127.0.0.1:0"]
    options += ["--drain-delay-seconds", "0.1"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout
        lines = "".join(process.stdout.readline() for _ in range(2))
        rpc, metrics = re.findall(r"listening \w+ (\S+)", lines)
        yield Server(process, rpc, metrics, tmp_path)
        process.terminate()
        assert process.wait(60) == 0
    assert not list(tmp_path.iterdir())


async def test_each_scrape_has_the_sum_of_all_workers(server: Server) -> None:
    called = 0
    while len(server.counting()) < 2:
        server.call(10)
        called += 10
    for _ in range(6):
        found = await samples(f"http://{server.metrics}")
        assert (found[COUNT], found[ITEMS], found[IN_PROGRESS]) == (called, called, 0)
        assert found[CALLS] == called
        assert found[LIMIT] == 2 * Limits.calls
        assert found[MEMORY] > sum(map(resident_bytes, server.workers)) / 2


async def test_counts_of_a_worker_that_died_stay_and_its_calls_in_progress_do_not(
    server: Server,
) -> None:
    server.call(10)
    async with grpc.aio.insecure_channel(server.grpc) as channel:
        stub: Any = ConversionServiceStub(channel)
        open_call = stub.ConvertCalls()
        await open_call.write(ConvertCallsRequest(conversions=[Conversion(json=ITEM)]))
        await open_call.read()
        assert (await samples(f"http://{server.metrics}"))[IN_PROGRESS] == 1
        for worker in server.workers:
            os.kill(worker, signal.SIGKILL)
        open_call.cancel()
    server.call(5)
    found = await samples(f"http://{server.metrics}")
    assert (found[COUNT], found[IN_PROGRESS]) == (15, 0)


@contextmanager
def started(backend: str) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """A server without workers, its address for gRPC, and that of its metrics."""
    command = [sys.executable, "-m", "imagecall", "serve", "--http", "off", "--log-format", "json"]
    command += ["--grpc", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--drain-delay-seconds", "0.1"]
    with subprocess.Popen(
        [*command, "--backend", backend], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr
        _, rpc, metrics = (json.loads(process.stderr.readline()) for _ in range(3))
        try:
            yield process, rpc["address"], metrics["address"]
        finally:
            process.terminate()
            process.communicate(timeout=60)


def listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as connection:
        return connection.connect_ex((host, int(port))) == 0


async def test_metrics_are_there_until_the_last_call_has_ended() -> None:
    async with upstream() as api:
        api.say(HANG)
        with started(api.url) as (process, address, metrics):
            async with grpc.aio.insecure_channel(address) as channel:
                stub: Any = ImageGenerationServiceStub(channel)
                call = asyncio.ensure_future(stub.GenerateImage(AN_IMAGE))
                await api.arrived.wait()
                process.terminate()
                await until(lambda: not listens(address))
                assert (await samples(f"http://{metrics}"))[IN_PROGRESS] == 1
                call.cancel()
                assert await asyncio.to_thread(process.wait, 60) == 0
