"""Replicas: `imagecall serve` in processes of their own, on ports that they have again later."""

import asyncio
import random
import socket
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from tests.soak.server import PROGRAM

COUNT: Final = 3
_PORTS: Final = range(20_000, 30_000)
"""Below those that systems give to connections, of which one could be taken in between."""

_SECONDS: Final = 60
_DOWN_SECONDS: Final = 1.0
_SETTLE_SECONDS: Final = 3.0
"""Pause of a rolling restart after each new replica, as of Kubernetes' minReadySeconds."""


class Replica:
    """A server with its defaults, on a port."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.target = f"127.0.0.1:{port}"
        self._process: Process | None = None

    @property
    def pid(self) -> int:
        """Identifier of the process that runs."""
        assert self._process
        return self._process.pid

    async def start(self) -> None:
        """Starts it, and waits until it listens."""
        self._process = await asyncio.create_subprocess_exec(
            *(PROGRAM, "serve", "--grpc", self.target, "--http", "off"), stdin=DEVNULL, stdout=PIPE
        )
        assert self._process.stdout
        line = await asyncio.wait_for(self._process.stdout.readline(), _SECONDS)
        assert line == f"listening grpc {self.target}\n".encode(), line

    async def kill(self) -> None:
        """Ends it by SIGKILL, if it runs."""
        if self._process and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def stop(self) -> None:
        """Ends it by SIGTERM."""
        assert self._process
        self._process.terminate()
        code = await asyncio.wait_for(self._process.wait(), _SECONDS)
        assert code == 0, code


@asynccontextmanager
async def replicas() -> AsyncIterator[list[Replica]]:
    """Replicas that run. At the end they are gone."""
    some = [Replica(port) for port in free_ports(COUNT)]
    try:
        await asyncio.gather(*(replica.start() for replica in some))
        yield some
    finally:
        for replica in some:
            await replica.kill()


def free_ports(count: int) -> list[int]:
    """Ports of loopback on which nothing listens."""
    found: list[int] = []
    for port in random.sample(_PORTS, len(_PORTS)):
        with socket.socket() as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listening.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            break
    return found


async def kill_one(some: Sequence[Replica]) -> None:
    """Ends one by SIGKILL, and starts it again."""
    victim = random.choice(some)
    await victim.kill()
    await asyncio.sleep(_DOWN_SECONDS)
    await victim.start()
    await asyncio.sleep(_SETTLE_SECONDS)


async def restart_all(some: Sequence[Replica]) -> None:
    """A rolling restart: ends each by SIGTERM, and goes on once it is back and found."""
    for replica in some:
        await replica.stop()
        await replica.start()
        await asyncio.sleep(_SETTLE_SECONDS)
