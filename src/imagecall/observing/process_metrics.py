"""Metrics of processes: CPU, memory and open files, as sums over the workers of a server."""

from collections.abc import Callable, Iterable
from functools import partial

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector


class ProcessMetrics(Collector):
    """Collector of the metrics that ProcessCollector has for one process, for several processes.

    Values are added up, but the start time is the earliest.
    """

    def __init__(self, pids: Callable[[], Iterable[int]], registry: CollectorRegistry) -> None:
        self._pids = pids
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """Returns the metrics; a process that has ended has none."""
        sums: dict[str, Metric] = {}
        for pid in self._pids():
            collector = ProcessCollector(pid=partial(int, pid), registry=None)
            for metric in collector.collect():
                _add(sums.setdefault(metric.name, metric), metric)
        return sums.values()


def _add(total: Metric, metric: Metric) -> None:
    """Adds the sample of a process to the sample of others."""
    if total is metric:
        return
    earlier, sample = total.samples[0], metric.samples[0]
    combine = min if metric.name.endswith("start_time_seconds") else float.__add__
    total.samples[0] = sample._replace(value=combine(float(earlier.value), float(sample.value)))
