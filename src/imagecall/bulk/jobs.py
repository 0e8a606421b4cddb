"""Work on batches in several processes, with the results in order.

This process works too, so that two jobs are this process and one more. A process that is started
first loads its modules, and meanwhile gets no batch.
"""

import multiprocessing
import signal
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from threading import Thread
from typing import Final, Generic, TypeVar

from imagecall.allocator import keep_freed_memory
from imagecall.bulk.records import Batch

Result = TypeVar("Result")

_MAX_PENDING_BYTES: Final = 16 * 1024 * 1024
"""Most bytes of records in work, or converted before their turn."""

_MAX_KEPT_BYTES: Final = 16 * 1024
"""Most bytes of records that are not worth sending to a process."""

_MAX_SENT_BYTES: Final = 768 * 1024
"""Most bytes of records that are sent to a process. Larger records take longer to send, and their
results to receive, than to convert here."""

_MAX_HELD_BYTES: Final = 8 * 1024 * 1024
"""Most bytes of records whose result waits for its turn."""

_MAX_SENT_BATCHES: Final = 2
"""Most batches that a process has: one in work, and the next."""

_MAX_PIPE_BYTES: Final = 1024 * 1024
"""Most bytes in a pipe, where the system lets it be chosen: more than a batch of lines has."""

_SWITCH_SECONDS: Final = 0.0005
"""Switch interval of the threads of a process, one of which receives while the other works."""


def in_order(
    task: Callable[[Batch], Result], batches: Iterable[Batch], jobs: int
) -> Generator[Result, None, None]:
    """Yields the result of the task for each batch.

    Starts new processes rather than fork this one, whose threads a fork would not copy. Raises
    OSError if a process ends before its work.
    """
    if jobs == 1:
        yield from map(task, batches)
        return
    workers: list[_Worker[Result]] = []
    try:
        for _ in range(1, jobs):
            workers.append(_Worker(task))
        yield from _in_order(task, batches, workers)
    finally:
        for worker in workers:
            worker.end()


@dataclass
class _Work(Generic[Result]):
    """Batch in work.

    Attributes:
        size: bytes of its records.
        results: the result, once there is one.
    """

    size: int
    results: Sequence[Result] = ()


def _in_order(
    task: Callable[[Batch], Result],
    batches: Iterable[Batch],
    workers: "Sequence[_Worker[Result]]",
) -> Iterator[Result]:
    """Yields results in order; a batch for which no worker has room is converted here."""
    pending: deque[_Work[Result]] = deque()
    for batch in batches:
        size = batch.size
        most = _MAX_PENDING_BYTES - size if size <= _MAX_HELD_BYTES else 0
        yield from _finished(pending, workers, most)
        worker = min(workers, key=_Worker.load)
        if size > _MAX_HELD_BYTES:
            yield task(batch)
        elif _MAX_KEPT_BYTES < size <= _MAX_SENT_BYTES and worker.load() < _MAX_SENT_BATCHES:
            pending.append(worker.send(batch))
        else:
            pending.append(_Work(size, [task(batch)]))
    yield from _finished(pending, workers, 0)


def _finished(
    pending: deque[_Work[Result]], workers: "Sequence[_Worker[Result]]", most: int
) -> Iterator[Result]:
    """Yields the results that are there, and waits until at most so many bytes are pending."""
    pending_bytes = sum(work.size for work in pending)
    while True:
        is_waiting = pending_bytes > most and not pending[0].results
        ready = wait([worker.results for worker in workers], None if is_waiting else 0)
        for worker in workers:
            if worker.results in ready:
                worker.receive()
        while pending and pending[0].results:
            work = pending.popleft()
            pending_bytes -= work.size
            yield from work.results
        if pending_bytes <= most:
            return


class _Worker(Generic[Result]):
    """Process that works on batches.

    Attributes:
        results: pipe of its results.
    """

    def __init__(self, task: Callable[[Batch], Result]) -> None:
        context = multiprocessing.get_context("spawn")
        batches, self._batches = context.Pipe(duplex=False)
        self.results, results = context.Pipe(duplex=False)
        for pipe in (batches, results):
            _enlarge(pipe)
        process = context.Process(target=_work, args=(task, batches, results), daemon=True)
        process.start()
        batches.close()  # The end of the process is the end of the pipe.
        results.close()
        self._process = process
        self._sent: deque[_Work[Result]] = deque()
        self._is_ready = False

    def load(self) -> int:
        """Count of batches that the process has; the maximum while it loads its modules."""
        return len(self._sent) if self._is_ready else _MAX_SENT_BATCHES

    def send(self, batch: Batch) -> _Work[Result]:
        """Sends a batch. Raises OSError if the process has ended."""
        with _as_ended():
            self._batches.send(batch)
        work: _Work[Result] = _Work(batch.size)
        self._sent.append(work)
        return work

    def receive(self) -> None:
        """Receives a result, which is there. Raises OSError if the process has ended."""
        with _as_ended():
            result = self.results.recv()
        if self._is_ready:
            self._sent.popleft().results = [result]
        self._is_ready = True

    def end(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.join()


@contextmanager
def _as_ended() -> Iterator[None]:
    """Turns an error of a pipe into a sentence."""
    try:
        yield
    except (EOFError, OSError):
        raise OSError("a process of --jobs ended before its work was done") from None


def _enlarge(pipe: Connection) -> None:
    if sys.platform == "linux":
        import fcntl

        with suppress(OSError):  # The system may grant no more memory for pipes.
            fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _MAX_PIPE_BYTES)


def _work(task: Callable[[Batch], object], batches: Connection, results: Connection) -> None:
    """Runs in a process: sends a mark of its start, and then the result of each batch."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The process that started this one ends it.
    sys.setswitchinterval(_SWITCH_SECONDS)
    keep_freed_memory()
    received: SimpleQueue[Batch | None] = SimpleQueue()
    # Batches are received also while a result is sent: no two processes wait for each other.
    Thread(target=_receive, args=(batches, received), daemon=True).start()
    with suppress(BrokenPipeError):  # The other process has ended.
        results.send(None)
        for batch in iter(received.get, None):
            results.send(task(batch))


def _receive(batches: Connection, received: "SimpleQueue[Batch | None]") -> None:
    """Receives batches, and None at their end."""
    with suppress(EOFError, OSError):
        while True:
            received.put(batches.recv())
    received.put(None)
