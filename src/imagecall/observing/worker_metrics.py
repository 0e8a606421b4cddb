"""Metrics of several worker processes, which prometheus-client sums up through a directory."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

DIRECTORY: Final = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable with the directory, which prometheus-client reads."""

_LIVE: Final = re.compile(r"gauge_live\w+_(\d+)\.db")
"""File of a live worker's gauges."""


class WorkerMetrics:
    """Directory of the workers' metrics, for the process that starts the workers."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self.environment = {DIRECTORY: directory}

    def forget(self, pid: int) -> None:
        """Drops the gauges of an ended worker; its counters stay."""
        from prometheus_client.multiprocess import mark_process_dead

        mark_process_dead(pid, self._directory)  # type: ignore[no-untyped-call]


@contextmanager
def worker_metrics() -> Iterator[WorkerMetrics]:
    """Creates the directory, and removes it at the end. Raises OSError."""
    with TemporaryDirectory(prefix="imagecall-metrics-") as directory:
        yield WorkerMetrics(directory)


def live_workers(directory: str) -> Iterable[int]:
    """Returns the process ids of the live workers."""
    names = (_LIVE.fullmatch(path.name) for path in Path(directory).iterdir())
    return {int(name[1]) for name in names if name}
