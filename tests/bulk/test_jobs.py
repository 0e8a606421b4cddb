"""Work in several processes: all of them work, in order, and a killed one is a fault."""

import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator

import pytest

from imagecall.bulk.jobs import in_order
from imagecall.bulk.records import Batch

LINES = b"x\n" * 100_000


def process_and_number(batch: Batch) -> tuple[int, int, int]:
    """Process that works on a batch, with the number of the batch and its size."""
    return os.getpid(), batch.first, batch.size


def batches(sizes: list[int], stopped: threading.Event) -> Iterator[Batch]:
    """Yields batches, of these sizes in turn, until the event."""
    for number in itertools.count():
        if stopped.is_set():
            return
        yield Batch(lines=LINES[: sizes[number % len(sizes)]], first=number)


@pytest.mark.parametrize("jobs", [2, 3])
def test_every_process_works_and_results_are_in_order(jobs: int) -> None:
    stopped = threading.Event()
    seen: set[int] = set()
    sizes = [0, 10, 20_000, 200_000]
    for number, (process, first, size) in enumerate(
        in_order(process_and_number, batches(sizes, stopped), jobs)
    ):
        assert (first, size) == (number, sizes[number % 4])
        seen.add(process)
        if len(seen) == jobs:
            stopped.set()
    assert len(seen) == jobs
    assert os.getpid() in seen
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("when", ["starting", "working"])
def test_a_killed_process_ends_the_work_and_the_other_processes(when: str) -> None:
    results = in_order(process_and_number, batches([200_000], threading.Event()), 3)
    own = next(results)[0]
    if when == "working":
        next(process for process, *_ in results if process != own)
    children = multiprocessing.active_children()
    assert len(children) == 2
    pid = children[0].pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(OSError, match="ended before its work was done"):
        for _ in results:
            pass
    assert not multiprocessing.active_children()


def test_results_that_are_left_end_the_processes() -> None:
    results = in_order(process_and_number, batches([200_000], threading.Event()), 2)
    with contextlib.closing(results):
        next(results)
    assert not multiprocessing.active_children()
