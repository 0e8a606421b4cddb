"""Several processes on the same ports."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from imagecall.v1.conversion_service_pb2 import ParseCallRequest
from imagecall.v1.conversion_service_pb2_grpc import ConversionServiceStub

SERVE = [sys.executable, "-m", "imagecall", "serve", "--grpc", "127.0.0.1:0"]


@pytest.fixture(scope="module")
def two() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server with two workers, and its address."""
    command = [*SERVE, "--http", "127.0.0.1:0", "--workers", "2", "--drain-delay-seconds", "0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        match = re.fullmatch(r"listening grpc (\S+)\n", process.stdout.readline())
        assert match
        yield process, match[1]
        process.terminate()
        assert process.wait(60) == 0


def workers(process: subprocess.Popen[str]) -> set[int]:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return set(map(int, children.split()))


def call(address: str) -> None:
    # A connection of its own: gRPC shares them between channels of the same options.
    with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        request = ParseCallRequest(json='{"type":"image_generation_call","id":"ig_1"}')
        ConversionServiceStub(channel).ParseCall(request, timeout=60, wait_for_ready=True)


def busy(pid: int) -> float:
    """Seconds of the processor that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_both_workers_answer(two: tuple[subprocess.Popen[str], str]) -> None:
    process, address = two
    before = {pid: busy(pid) for pid in workers(process)}
    assert len(before) == 2
    for _ in range(300):
        call(address)
    assert all(busy(pid) > before[pid] for pid in workers(process))


def test_a_worker_that_dies_is_replaced(two: tuple[subprocess.Popen[str], str]) -> None:
    process, address = two
    first, second = workers(process)
    os.kill(first, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while len(workers(process)) < 2 or first in workers(process):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert second in workers(process)
    for _ in range(20):
        call(address)


def test_workers_stop_with_the_process_that_started_them() -> None:
    command = [*SERVE, "--http", "off", "--workers", "2", "--drain-delay-seconds", "0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        process.stdout.readline()
        pids = workers(process)
        process.kill()
        process.wait()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() and not _is_zombie(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_signal_to_all_of_them_at_once_does_not_hurry() -> None:
    command = [*SERVE, "--http", "off", "--workers", "2", "--drain-delay-seconds", "1"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout
        process.stdout.readline()
        start = time.monotonic()
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(60) == 0
    assert time.monotonic() - start >= 1


def test_if_none_can_start_all_end_with_their_code() -> None:
    """Several workers end at once with the same fault: the server ends with their code."""
    faulty = {"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "x"}
    command = [*SERVE, "--http", "off", "--workers", "2", "--traces", "on"]
    done = subprocess.run(
        command, env=os.environ | faulty, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" not in done.stderr


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
