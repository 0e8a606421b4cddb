"""The server in a process of its own, and what can be seen of it from outside."""

import asyncio
import os
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Final

PROGRAM: Final = str(Path(sys.executable).parent / "imagecall")
_QUICK_STOP: Final = ("--drain-delay-seconds", "0.1", "--drain-seconds", "10")
_START_SECONDS: Final = 60
_STOP_SECONDS: Final = 60
_RESET_PEAK: Final = "5"
"""Value for /proc/PID/clear_refs that resets the peak; see proc_pid_clear_refs(5)."""


class Server:
    """A server that runs.

    Attributes:
        grpc: the address of the gRPC door, HOST:PORT.
        http: the address of the HTTP door; "" if it is off.
        process: the process.
    """

    def __init__(self, grpc: str, http: str, process: Process, stderr: IO[bytes]) -> None:
        self.grpc = grpc
        self.http = http
        self.process = process
        self._stderr = stderr
        self._proc = Path(f"/proc/{process.pid}")

    def rss_bytes(self) -> int:
        """The memory that it has now."""
        return self._status("VmRSS")

    def peak_rss_bytes(self) -> int:
        """The most memory that it had since its start, or since `reset_peak`."""
        return self._status("VmHWM")

    def reset_peak(self) -> None:
        (self._proc / "clear_refs").write_text(_RESET_PEAK)

    def descriptors(self) -> int:
        """Returns the number of open files and connections of the server."""
        return len(os.listdir(self._proc / "fd"))

    def cpu_seconds(self) -> float:
        """The time that it has spent on the cores."""
        fields = (self._proc / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stderr_text(self) -> str:
        """Returns the server's stderr so far."""
        return os.pread(self._stderr.fileno(), os.fstat(self._stderr.fileno()).st_size, 0).decode(
            errors="replace"
        )

    def _status(self, name: str) -> int:
        try:
            return _status_bytes(self.process.pid, name)
        except ProcessLookupError as error:
            raise ProcessLookupError(f"{error}:\n{self.stderr_text()}") from None


def peak_rss_bytes(pid: int) -> int:
    """Returns the most memory that a process had since its start. Raises ProcessLookupError."""
    return _status_bytes(pid, "VmHWM")


def _status_bytes(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(f"the process {pid} has ended")


@asynccontextmanager
async def running(*flags: str, env: Mapping[str, str] | None = None) -> AsyncIterator[Server]:
    """A server on free ports, with these flags, and these variables besides our own.

    At the end it is terminated. Raises AssertionError if there is a traceback on its stderr, or if
    it had to be killed.
    """
    ports = ("--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0")
    with tempfile.TemporaryFile() as stderr:
        process = await asyncio.create_subprocess_exec(
            PROGRAM, "serve", *ports, *_QUICK_STOP, *flags,
            stdout=PIPE, stderr=stderr, env={**os.environ, **(env or {})},
        )  # fmt: skip
        server = Server("", "", process, stderr)
        try:
            async with asyncio.timeout(_START_SECONDS):
                await _listening(server)
            yield server
        finally:
            killed = not await _stopped(process)
        said = server.stderr_text()
        assert "Traceback" not in said, said
        assert not killed, f"it did not stop within {_STOP_SECONDS} s of SIGTERM:\n{said}"


async def _listening(server: Server) -> None:
    """Waits until it listens, and notes where."""
    assert server.process.stdout
    while line := (await server.process.stdout.readline()).decode():
        match line.split():
            case ["listening", "grpc", address]:
                server.grpc = address
            case ["listening", "http", address]:
                server.http = address
        if server.grpc and server.http:
            return
    raise AssertionError(f"it did not start:\n{server.stderr_text()}")


async def _stopped(process: Process) -> bool:
    """Stops it; whether it took no more than SIGTERM."""
    if process.returncode is None:
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _STOP_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
        return False
    return True
