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
"""Most bytes of records that wait for a process or are in work, but for one batch."""


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
    pending: deque[tuple[Future[Result], int]] = deque()
    try:
        for batch in batches:
            pending.append((pool.submit(task, batch), sum(map(len, batch.texts))))
            while len(pending) > 1 and (
                len(pending) > 3 * jobs or sum(size for _, size in pending) > _MAX_PENDING_BYTES
            ):
                yield pending.popleft()[0].result()
        while pending:
            yield pending.popleft()[0].result()
    except BrokenProcessPool:
        raise OSError("a process of --jobs ended before its work was done") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _ignore_interrupts() -> None:
    """Leaves the end after an interrupt to the process that started this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
