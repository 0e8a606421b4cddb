"""The metrics: counted with prometheus-client, as OpenTelemetry names them, for both to read.

Recording with OpenTelemetry's own instruments takes some ten times as long for each call.
"""

import os
from collections import Counter as Counts
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.multiprocess import MultiProcessCollector

from imagecall.observing.observer import Operation

if TYPE_CHECKING:
    from imagecall.observing.otlp import MetricsSender

_SECONDS: Final = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1, 2.5, 5, 10, 30, 60, 120, 300,
)  # fmt: skip
"""From a small item to an image."""

_MULTIPROCESS: Final = "PROMETHEUS_MULTIPROC_DIR"
"""The directory in which prometheus-client adds up what several processes count."""


class Instrument(NamedTuple):
    """A metric by its OpenTelemetry names."""

    name: str
    kind: type[MetricWrapperBase]
    unit: str
    attributes: tuple[str, ...]
    help: str


_RPC: Final = ("rpc.response.status_code", "error.type")
_HTTP: Final = ("http.response.status_code", "error.type")
_SERVER: Final = ("server.address", "server.port")
_DOOR: Final = "imagecall.door"
_METHOD: Final = "imagecall.method"
INSTRUMENTS: Final = (
    Instrument(
        "rpc.server.call.duration",
        Histogram,
        "s",
        ("rpc.system.name", "rpc.method", *_RPC),
        "Calls at the gRPC door",
    ),
    Instrument(
        "http.server.request.duration",
        Histogram,
        "s",
        ("http.request.method", "http.route", "url.scheme", *_HTTP),
        "Requests at the HTTP door",
    ),
    Instrument(
        "rpc.client.call.duration",
        Histogram,
        "s",
        ("rpc.system.name", "rpc.method", *_SERVER, *_RPC),
        "Calls to the gRPC backend",
    ),
    Instrument(
        "http.client.request.duration",
        Histogram,
        "s",
        ("http.request.method", *_SERVER, *_HTTP),
        "Requests to the API",
    ),
    Instrument("imagecall.received", Counter, "By", (_DOOR, _METHOD), "Bytes of requests"),
    Instrument("imagecall.sent", Counter, "By", (_DOOR, _METHOD), "Bytes of answers"),
    Instrument("imagecall.calls.in_progress", Gauge, "{call}", (_DOOR,), "Calls in progress"),
    Instrument(
        "imagecall.images.in_flight",
        Gauge,
        "{call}",
        (_DOOR,),
        "Calls in progress that generate images",
    ),
    Instrument(
        "imagecall.items",
        Counter,
        "{item}",
        ("imagecall.direction", "imagecall.variant", "imagecall.outcome"),
        "Items parsed, formatted or generated; the outcome is ok, or the reason of the refusal",
    ),
    Instrument(
        "imagecall.calls.refused", Counter, "{call}", (_DOOR, "error.type"), "Calls not taken"
    ),
)
_SUFFIXES: Final = {"s": "_seconds", "By": "_bytes"}


class Metrics:
    """See the module. Each has its own registry."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # Twice the lines, read by few.
        self._registry = CollectorRegistry()
        self.by_name: dict[str, Any] = {each.name: self._made(each) for each in INSTRUMENTS}
        self._in_progress = Counts[str]()
        self._in_flight = Counts[str]()
        self._duration = cache(self._duration_of)
        self._series = cache(self._labelled)
        self._sender: MetricsSender | None = None
        self._together = _MULTIPROCESS in os.environ
        if not self._together:
            ProcessCollector(registry=self._registry)

    def send_with(self, sender: "MetricsSender") -> None:
        """Has them sent, too."""
        self._sender = sender

    def close(self) -> None:
        """Sends them a last time."""
        if self._sender:
            self._sender.close()

    def begun(self, operation: Operation) -> None:
        """Notes that a call has begun; `settle` shows it."""
        self._in_progress[operation.door] += 1
        if operation.generates:
            self._in_flight[operation.door] += 1

    def over(self, operation: Operation) -> None:
        """Notes that a call is over; `settle` shows it."""
        self._in_progress[operation.door] -= 1
        if operation.generates:
            self._in_flight[operation.door] -= 1

    def settle(self) -> None:
        """Shows the calls in progress."""
        for name, counted in (
            ("imagecall.calls.in_progress", self._in_progress),
            ("imagecall.images.in_flight", self._in_flight),
        ):
            for door, calls in counted.items():
                self._series(name, door).set(calls)

    def moved(self, operation: Operation, received: int, sent: int) -> None:
        """Counts the bytes of a call."""
        self._series("imagecall.received", operation.door, operation.name).inc(received)
        self._series("imagecall.sent", operation.door, operation.name).inc(sent)

    def ended(self, operation: Operation, code: str | int, reason: str, seconds: float) -> None:
        self._duration(operation, code, reason).observe(seconds)

    def item(self, direction: str, variant: str, outcome: str) -> None:
        self._series("imagecall.items", direction, variant, outcome).inc()

    def refused(self, operation: Operation, reason: str) -> None:
        self._series("imagecall.calls.refused", operation.door, reason).inc()

    def text(self, accepted: str) -> tuple[bytes, str]:
        """The metrics as Prometheus takes them, and the media type, by an Accept header.

        Where processes share a directory, these are the metrics of all.
        """
        registry = self._registry
        if self._together:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        encode, media_type = choose_encoder(accepted)
        return encode(registry), media_type

    def _made(self, each: Instrument) -> MetricWrapperBase:
        name = each.name.replace(".", "_") + _SUFFIXES.get(each.unit, "")
        labels = [attribute.replace(".", "_") for attribute in each.attributes]
        options: dict[str, Any] = {"registry": self._registry}
        if each.kind is Histogram:
            options["buckets"] = _SECONDS
        if each.kind is Gauge:
            options["multiprocess_mode"] = "livesum"
        return each.kind(name, each.help, labels, **options)

    def _duration_of(self, operation: Operation, code: str | int, reason: str) -> Any:
        return self._labelled(operation.metric, *operation.attributes.values(), code, reason)

    def _labelled(self, name: str, *values: str | int) -> Any:
        return self.by_name[name].labels(*values)


def samples(metric: MetricWrapperBase) -> Iterable[Any]:
    """The samples of a metric, of this process."""
    return (sample for family in metric.collect() for sample in family.samples)
