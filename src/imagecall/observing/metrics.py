"""Metrics for Prometheus, counted with prometheus-client.

The names are those of OpenTelemetry's semantic conventions, in the spelling of Prometheus.
"""

import os
import platform
from collections.abc import Callable
from functools import partial
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector

import imagecall
from imagecall.observing.generation import Generation
from imagecall.observing.generation_metrics import GenerationMetrics
from imagecall.observing.operations import OUTCOMES, Operation
from imagecall.observing.process_metrics import ProcessMetrics
from imagecall.observing.worker_metrics import DIRECTORY, live_workers

_SECONDS: Final = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1, 2.5, 5, 10, 30, 60, 120, 300,
)  # fmt: skip
"""Buckets of durations: from a small item to an image."""

_RPC: Final = ("rpc_system_name", "rpc_method")
_RPC_OUTCOME: Final = ("rpc_response_status_code", "error_type")
_HTTP_OUTCOME: Final = ("http_response_status_code", "error_type")
_SERVER: Final = ("server_address", "server_port")
_DURATIONS: Final = {
    "rpc_server_call_duration_seconds": ("Calls at the gRPC door", (*_RPC, *_RPC_OUTCOME)),
    "http_server_request_duration_seconds": (
        "Requests at the HTTP door",
        ("http_request_method", "http_route", "url_scheme", *_HTTP_OUTCOME),
    ),
    "rpc_client_call_duration_seconds": (
        "Calls to the gRPC backend",
        (*_RPC, *_SERVER, *_RPC_OUTCOME),
    ),
    "http_client_request_duration_seconds": (
        "Requests to the API",
        ("http_request_method", *_SERVER, *_HTTP_OUTCOME),
    ),
}
"""Help and labels of each histogram of durations."""

_DOOR: Final = "imagecall_door"
_METHOD: Final = (_DOOR, "imagecall_method")
_ITEM: Final = ("imagecall_direction", "imagecall_variant", "imagecall_outcome")
_DOORS: Final = ("grpc", "http")
_REFUSALS: Final = ("TOKEN_REQUIRED", "TOO_LARGE", "TOO_MANY_CALLS")
"""Reasons of refusals, whose counts are 0 from the start."""


class Metrics:
    """Metrics of a server, in a registry of their own.

    If PROMETHEUS_MULTIPROC_DIR is set, the metrics are sums over all processes with that directory.
    """

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # Doubles the lines.
        registry = CollectorRegistry()
        self._registry = registry
        self._durations = {
            name: Histogram(name, text, labels, registry=registry, buckets=_SECONDS)
            for name, (text, labels) in _DURATIONS.items()
        }
        counter, gauge = partial(Counter, registry=registry), partial(_gauge, registry)
        self._calls = counter(
            "imagecall_calls",
            f"Calls at the doors; the outcome is {', '.join(OUTCOMES)}",
            (*_METHOD, "imagecall_outcome"),
        )
        self._received = counter("imagecall_received_bytes", "Bytes of requests", _METHOD)
        self._sent = counter("imagecall_sent_bytes", "Bytes of answers", _METHOD)
        self._in_progress = gauge("imagecall_calls_in_progress", "Calls in progress", _DOORS)
        self._generating = gauge(
            "imagecall_images_in_flight", "Calls in progress that generate images", _DOORS
        )
        self._items = counter(
            "imagecall_items",
            "Items parsed, formatted or generated; the outcome is ok, or the reason of the refusal",
            _ITEM,
        )
        self._refused = counter(
            "imagecall_calls_refused", "Calls that admission refused", (_DOOR, "error_type")
        )
        for door in _DOORS:
            for reason in _REFUSALS:
                self._refused.labels(door, reason)
        self._most_calls = gauge("imagecall_calls_limit", "Most calls in progress of both doors")
        self._watched: list[tuple[Gauge, Callable[[], float]]] = []
        self._generations = GenerationMetrics(registry, _DOORS)
        _set_build_info(registry)
        self._directory = os.environ.get(DIRECTORY, "")
        if not self._directory:
            ProcessMetrics(lambda: [os.getpid()], registry)

    def expect(self, operation: Operation) -> None:
        """Sets to 0 the counts of an operation at a door."""
        for outcome in OUTCOMES:
            self._calls.labels(operation.door, operation.name, outcome)

    def limit(self, calls: int) -> None:
        """Sets the most calls in progress of this process."""
        self._most_calls.set(calls)

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Adds a gauge of a value of this process that `sample` reads."""
        self._watched.append((_gauge(self._registry, name, text), value))

    def sample(self) -> None:
        """Sets the gauges of the watched values."""
        for gauge, value in self._watched:
            gauge.set(value())

    def started(self, operation: Operation) -> None:
        """Counts a call in progress at a door."""
        self._in_progress.labels(operation.door).inc()
        if operation.generates:
            self._generating.labels(operation.door).inc()

    def left(
        self, operation: Operation, outcome: str, received_bytes: int, sent_bytes: int
    ) -> None:
        """Counts the end of a call at a door, and the call's bytes."""
        door, name = operation.door, operation.name
        self._in_progress.labels(door).dec()
        if operation.generates:
            self._generating.labels(door).dec()
        self._calls.labels(door, name, outcome).inc()
        self._received.labels(door, name).inc(received_bytes)
        self._sent.labels(door, name).inc(sent_bytes)

    def ended(self, operation: Operation, code: str | int, reason: str, seconds: float) -> None:
        """Counts the duration of a call, at a door or from a backend."""
        histogram = self._durations[operation.duration]
        histogram.labels(*operation.attributes.values(), code, reason).observe(seconds)

    def item(self, direction: str, variant: str, outcome: str) -> None:
        """Counts an item that was converted, refused or generated."""
        self._items.labels(direction, variant, outcome).inc()

    def generated(self, operation: Operation, generation: Generation) -> None:
        """Counts a generation of images for a call."""
        self._generations.add(operation.door, generation)
        for variant, count in generation.items.items():
            self._items.labels("generate", variant, "ok").inc(count)

    def refused(self, operation: Operation, reason: str) -> None:
        """Counts a call that was not admitted."""
        self._refused.labels(operation.door, reason).inc()

    def text(self, accepted: str) -> tuple[bytes, str]:
        """Formats the metrics for Prometheus: the text and its media type, by an Accept header."""
        registry = self._registry
        if self._directory:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
            ProcessMetrics(partial(live_workers, self._directory), registry)
        encode, media_type = choose_encoder(accepted)
        return encode(registry), media_type


def _gauge(registry: CollectorRegistry, name: str, text: str, doors: tuple[str, ...] = ()) -> Gauge:
    """Builds a gauge, by door if there are doors, which starts at 0 and sums over processes."""
    labels = (_DOOR,) if doors else ()
    gauge = Gauge(name, text, labels, registry=registry, multiprocess_mode="livesum")
    for door in doors:
        gauge.labels(door)
    return gauge


def _set_build_info(registry: CollectorRegistry) -> None:
    """Adds the version, as the label of a gauge that is 1."""
    text = "1, with the version of imagecall and of Python"
    labels = ("version", "python_version")
    gauge = Gauge(
        "imagecall_build_info", text, labels, registry=registry, multiprocess_mode="livemax"
    )
    gauge.labels(imagecall.__version__, platform.python_version()).set(1)
