"""Metrics for Prometheus, counted with prometheus-client.

The names are those of OpenTelemetry's semantic conventions, in the spelling of Prometheus.
"""

import os
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector

from imagecall.observing.operations import Operation
from imagecall.observing.worker_metrics import DIRECTORY

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


class Metrics:
    """Metrics of a server, in a registry of their own.

    If PROMETHEUS_MULTIPROC_DIR is set, the metrics add up all processes with that directory.
    """

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # Doubles the lines.
        own = CollectorRegistry()
        self._registry = own
        self._durations = {
            name: Histogram(name, text, labels, registry=own, buckets=_SECONDS)
            for name, (text, labels) in _DURATIONS.items()
        }
        self._received = Counter(
            "imagecall_received_bytes", "Bytes of requests", _METHOD, registry=own
        )
        self._sent = Counter("imagecall_sent_bytes", "Bytes of answers", _METHOD, registry=own)
        self._in_progress = _gauge("imagecall_calls_in_progress", "Calls in progress", own)
        self._generating = _gauge(
            "imagecall_images_in_flight", "Calls in progress that generate images", own
        )
        self._items = Counter(
            "imagecall_items",
            "Items parsed or formatted; the outcome is ok, or the reason of the refusal",
            _ITEM,
            registry=own,
        )
        self._refused = Counter(
            "imagecall_calls_refused", "Calls not taken", (_DOOR, "error_type"), registry=own
        )
        self._is_shared = DIRECTORY in os.environ
        if not self._is_shared:
            ProcessCollector(registry=own)

    def started(self, operation: Operation) -> None:
        """Counts a call in progress at a door."""
        self._in_progress.labels(operation.door).inc()
        if operation.generates:
            self._generating.labels(operation.door).inc()

    def left(self, operation: Operation, received_bytes: int, sent_bytes: int) -> None:
        """Counts the end of a call at a door, and its bytes."""
        self._in_progress.labels(operation.door).dec()
        if operation.generates:
            self._generating.labels(operation.door).dec()
        self._received.labels(operation.door, operation.name).inc(received_bytes)
        self._sent.labels(operation.door, operation.name).inc(sent_bytes)

    def ended(self, operation: Operation, code: str | int, reason: str, seconds: float) -> None:
        """Counts the duration of a call, at a door or from a backend."""
        histogram = self._durations[operation.duration]
        histogram.labels(*operation.attributes.values(), code, reason).observe(seconds)

    def item(self, direction: str, variant: str, outcome: str) -> None:
        """Counts an item that was converted or refused."""
        self._items.labels(direction, variant, outcome).inc()

    def refused(self, operation: Operation, reason: str) -> None:
        """Counts a call that was not admitted."""
        self._refused.labels(operation.door, reason).inc()

    def text(self, accepted: str) -> tuple[bytes, str]:
        """Formats the metrics for Prometheus: the text and its media type, by an Accept header."""
        registry = self._registry
        if self._is_shared:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        encode, media_type = choose_encoder(accepted)
        return encode(registry), media_type


def _gauge(name: str, text: str, registry: CollectorRegistry) -> Gauge:
    """Gauge per door that starts at 0 and sums over live processes."""
    gauge = Gauge(name, text, (_DOOR,), registry=registry, multiprocess_mode="livesum")
    for door in _DOORS:
        gauge.labels(door)
    return gauge
