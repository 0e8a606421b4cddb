"""The metrics by OTLP, from time to time: what prometheus-client has counted."""

import os
import threading
import time
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, Final
from uuid import uuid4

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client import Counter
from prometheus_client import Histogram as CountedHistogram

from imagecall.observing.metrics import INSTRUMENTS, Instrument, Metrics, samples

SCOPE: Final = InstrumentationScope("imagecall")
_INTERVAL: Final = "OTEL_METRIC_EXPORT_INTERVAL"
_INTERVAL_MS: Final = 60_000
_CUMULATIVE: Final = AggregationTemporality.CUMULATIVE


def resource() -> Resource:
    """Who we are, unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES say it."""
    said = Resource.create()
    name = str(said.attributes.get("service.name", ""))
    missing = {}
    if not name or name.startswith("unknown_service"):
        missing["service.name"] = "imagecall"
    if "service.instance.id" not in said.attributes:
        missing["service.instance.id"] = str(uuid4())
    return said.merge(Resource(missing))


class MetricsSender:
    """Sends metrics. Where to, and how often, the variables OTEL_... say."""

    def __init__(self, metrics: Metrics, who: Resource) -> None:
        self._metrics = metrics
        self._resource = who
        self._begun = time.time_ns()
        self._exporter = OTLPMetricExporter()
        self._stopped = threading.Event()
        self._seconds = int(os.environ.get(_INTERVAL) or _INTERVAL_MS) / 1000
        self._thread = threading.Thread(target=self._run, name="imagecall-metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Sends a last time, and waits for that a while."""
        self._stopped.set()
        self._thread.join(3)
        self._exporter.shutdown()

    def _run(self) -> None:
        stopped = False
        while not stopped:
            stopped = self._stopped.wait(self._seconds)
            self._exporter.export(self._data())

    def _data(self) -> MetricsData:
        now = time.time_ns()
        metrics = [self._metric(each, now) for each in INSTRUMENTS]
        found = [metric for metric in metrics if metric.data.data_points]
        scope = ScopeMetrics(SCOPE, found, "")
        return MetricsData([ResourceMetrics(self._resource, [scope], "")])

    def _metric(self, each: Instrument, now: int) -> Metric:
        counted = list(samples(self._metrics.by_name[each.name]))
        data: Any
        if each.kind is CountedHistogram:
            data = Histogram(list(self._histograms(each, counted, now)), _CUMULATIVE)
        else:
            points = [
                NumberDataPoint(_attributes(each, s.labels), self._begun, now, s.value)
                for s in counted
            ]
            data = Sum(points, _CUMULATIVE, is_monotonic=each.kind is Counter)
        return Metric(each.name, each.help, each.unit, data)

    def _histograms(
        self, each: Instrument, counted: Iterable[Any], now: int
    ) -> Iterable[HistogramDataPoint]:
        series: dict[tuple[str, ...], dict[str, Any]] = {}
        for sample in counted:
            labels = dict(sample.labels)
            bound = labels.pop("le", None)
            found = series.setdefault(tuple(labels.values()), {"labels": labels, "buckets": []})
            if bound is not None:
                found["buckets"].append((float(bound), int(sample.value)))
            elif sample.name.endswith("_sum"):
                found["sum"] = sample.value
        for found in series.values():
            bounds = [bound for bound, _ in found["buckets"][:-1]]
            upto = [0, *(count for _, count in found["buckets"])]
            yield HistogramDataPoint(
                attributes=_attributes(each, found["labels"]),
                start_time_unix_nano=self._begun,
                time_unix_nano=now,
                count=upto[-1],
                sum=found["sum"],
                bucket_counts=[after - before for before, after in pairwise(upto)],
                explicit_bounds=bounds,
                min=0,
                max=0,
            )


def _attributes(each: Instrument, labels: dict[str, str]) -> dict[str, str | int]:
    """The labels under the names that they have in OpenTelemetry."""
    found: dict[str, str | int] = {}
    for attribute in each.attributes:
        value = labels[attribute.replace(".", "_")]
        whole = attribute in ("server.port", "http.response.status_code") and value.isdecimal()
        if value:
            found[attribute] = int(value) if whole else value
    return found
