"""Worker processes that serve on the same ports, so that all cores are used.

The kernel distributes connections among the workers (SO_REUSEPORT). A worker that dies is replaced.
A worker stops when its stdin ends: the parent closes that pipe to stop the worker, and the kernel
closes it if the parent dies.
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final

from imagecall.access.ports import reserved
from imagecall.observing.logs import log_step
from imagecall.observing.worker_metrics import WorkerMetrics, worker_metrics
from imagecall.server.settings import WORKER, ServerSettings

READY: Final = "ready"
"""Line that a worker prints once it listens."""

_log: Final = logging.getLogger(__name__)
_RESTART_SECONDS: Final = 1.0


async def run_workers(
    settings: ServerSettings,
    arguments: Sequence[str],
    announce: Callable[[Mapping[str, str]], None],
) -> int:
    """Runs the workers until SIGINT or SIGTERM, or until one cannot start; returns the exit code.

    `arguments` are those of the command line; `announce` receives the address of each door, by
    name, once all workers listen.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    with ExitStack() as stack:
        bound = {name: reserved(at, stack) for name, at in settings.addresses.items()}
        addresses = [word for name, at in bound.items() for word in (f"--{name}", at)]
        command = [sys.executable, "-m", "imagecall", *arguments, *addresses, "--workers", "1"]
        metrics = stack.enter_context(worker_metrics()) if settings.metrics else None
        workers = [_Worker(command, stopping, metrics) for _ in range(settings.workers)]
        running = [asyncio.create_task(worker.run()) for worker in workers]
        ready = asyncio.create_task(_all_ready(workers))
        tasks: set[asyncio.Future[Any]] = {ready, *running}
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            announce(bound)
        drained = asyncio.create_task(_log_drain(stopping))
        codes = await asyncio.gather(*running)
        ready.cancel()
        drained.cancel()
        return max(codes, key=abs)


async def _log_drain(stopping: asyncio.Event) -> None:
    await stopping.wait()
    log_step("draining")


async def _all_ready(workers: Sequence["_Worker"]) -> None:
    for worker in workers:
        await worker.ready.wait()


class _Worker:
    """One worker process, and its successors after a crash."""

    def __init__(
        self, command: list[str], stopping: asyncio.Event, metrics: WorkerMetrics | None
    ) -> None:
        self._command = command
        self._stopping = stopping
        self._metrics = metrics
        self._environment = os.environ | {WORKER: "1"} | (metrics.environment if metrics else {})
        self.ready = asyncio.Event()

    async def run(self) -> int:
        """Runs the process until the server stops, again after each crash; returns the code."""
        while True:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                env=self._environment,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            code = await self._wait_for(process)
            if self._stopping.is_set():  # A new worker may lack its signal handlers.
                return 0 if code == -signal.SIGTERM else code
            if not self.ready.is_set():  # The worker has logged the reason to stderr.
                self._stopping.set()
                return code or 1
            _log.error("worker %d ended with %d; another one starts", process.pid, code)
            if self._metrics:
                self._metrics.forget(process.pid)
            await asyncio.sleep(_RESTART_SECONDS)

    async def _wait_for(self, process: asyncio.subprocess.Process) -> int:
        assert process.stdin
        assert process.stdout
        reading = asyncio.create_task(self._read(process.stdout))
        stopping = asyncio.create_task(self._stopping.wait())
        ended = asyncio.create_task(process.wait())
        await asyncio.wait({stopping, ended}, return_when=asyncio.FIRST_COMPLETED)
        process.stdin.close()  # send_signal() can lose the exit code: python/cpython#87744.
        await ended
        stopping.cancel()
        await reading
        return ended.result()

    async def _read(self, output: asyncio.StreamReader) -> None:
        async for line in output:
            if line.strip().decode() == READY:
                self.ready.set()


@contextmanager
def stop_with_parent(stopped: asyncio.Event) -> Iterator[None]:
    """Sets the event once the parent closes this worker's stdin, or dies."""
    loop = asyncio.get_running_loop()

    def read() -> None:
        if not os.read(0, 1024):
            loop.remove_reader(0)
            stopped.set()

    loop.add_reader(0, read)
    try:
        yield
    finally:
        loop.remove_reader(0)
