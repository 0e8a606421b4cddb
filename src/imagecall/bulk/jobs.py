"""Work on batches in several processes, with the results in order."""

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Final, TypeVar

from imagecall.bulk.records import Batch

Result = TypeVar("Result")

_MAX_PENDING_BYTES: Final = 16 * 1024 * 1024
"""Most bytes of records that wait for a process, or are in work."""

_MAX_SENT_BYTES: Final = 8 * 1024 * 1024
"""Most bytes of records that are sent to a process: a batch that is sent is copied twice."""


def in_order(
    task: Callable[[Batch], Result], batches: Iterable[Batch], jobs: int
) -> Iterator[Result]:
    """Yields the result of the task for each batch.

    Starts new processes rather than fork this one, whose threads a fork would not copy. Raises
    OSError if a process ends before its work.
    """
    if jobs == 1:
        yield from map(task, batches)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_ignore_interrupts)
    try:
        yield from _in_order(task, batches, pool, 3 * jobs)
    except BrokenProcessPool:
        raise OSError("a process of --jobs ended before its work was done") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _in_order(
    task: Callable[[Batch], Result],
    batches: Iterable[Batch],
    pool: ProcessPoolExecutor,
    most: int,
) -> Iterator[Result]:
    """Yields results in order while up to `most` batches are in work."""
    pending: deque[tuple[Future[Result], int]] = deque()
    pending_bytes = 0
    for batch in batches:
        size = sum(map(len, batch.texts))
        pending_bytes += size
        while pending and (len(pending) >= most or pending_bytes > _MAX_PENDING_BYTES):
            future, done = pending.popleft()
            pending_bytes -= done
            yield future.result()
        if size > _MAX_SENT_BYTES:
            yield from (future.result() for future, _ in pending)
            pending.clear()
            pending_bytes = 0
            yield task(batch)
        else:
            pending.append((pool.submit(task, batch), size))
    yield from (future.result() for future, _ in pending)


def _ignore_interrupts() -> None:
    """Leaves the end after an interrupt to the process that started this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
