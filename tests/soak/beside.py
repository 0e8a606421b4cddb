"""Load and attackers in processes of their own, so that they share no event loop with the rest.

Such a process is a module of this package. It prints a line when it is ready, works until its stdin
ends or it is done, and then prints what it found, as JSON.
"""

import asyncio
import json
import os
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

_LINE_BYTES: Final = 2**26


class Beside:
    """A process that runs."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._start = time.monotonic()

    def go(self) -> None:
        """Lets it begin, if it waits for that."""
        assert self._process.stdin
        self._process.stdin.write(b"\n")
        self._start = time.monotonic()

    async def found(self) -> dict[str, Any]:
        """Tells it to stop; what it found, and which share of one core it took: "cores"."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        line = await self._process.stdout.readline()
        found: dict[str, Any] = json.loads(line)
        found["cores"] = found.pop("cpu_seconds") / (time.monotonic() - self._start)
        return found


@asynccontextmanager
async def beside(module: str, *arguments: object) -> AsyncIterator[Beside]:
    """`tests.soak.MODULE` in a process, once it is ready. At the end it is gone."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"tests.soak.{module}", *map(str, arguments),
        stdin=PIPE, stdout=PIPE, limit=_LINE_BYTES,
    )  # fmt: skip
    try:
        assert process.stdout
        assert await process.stdout.readline(), f"{module} did not start"
        yield Beside(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


_spent = 0.0
"""CPU seconds that the process had used when it was ready."""


def ready() -> None:
    """Of the process itself: says that it is ready."""
    global _spent
    _spent = time.process_time()
    print("ready", flush=True)


def told_to_go() -> None:
    """Of the process itself: waits until it may begin."""
    os.read(sys.stdin.fileno(), 1)


async def told_to_stop() -> None:
    """Of the process itself: waits for the end of stdin."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    await reader.read()
    transport.close()


def report(**found: Any) -> None:
    """Of the process itself: says what it found."""
    print(json.dumps(found | {"cpu_seconds": time.process_time() - _spent}), flush=True)
