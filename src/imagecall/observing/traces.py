"""Traces: spans that OpenTelemetry's SDK samples, batches and sends by OTLP."""

from collections.abc import Mapping
from typing import Any, Final
from uuid import uuid4

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.propagate import extract, inject
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context

from imagecall.observing.operations import Operation

_ERROR_TYPE: Final = "error.type"
_REQUEST_ID: Final = "imagecall.request_id"


class Traces:
    """Spans of calls. The variables OTEL_... set the sampler, receiver, resource and more."""

    def __init__(self) -> None:
        self._provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("imagecall")

    def start_server(self, operation: Operation, headers: Mapping[str, Any]) -> Span:
        """Starts the span of a call at a door, within the trace that the headers continue."""
        return self._start(operation, SpanKind.SERVER, extract(headers))

    def start_client(self, operation: Operation, parent: Span) -> Span:
        """Starts the span of a call to an upstream service."""
        return self._start(operation, SpanKind.CLIENT, _within(parent))

    def _start(self, operation: Operation, kind: SpanKind, context: Context) -> Span:
        attributes = {**operation.attributes, **operation.span_attributes}
        return self._tracer.start_span(operation.name, context, kind, attributes)

    def end(
        self, span: Span, operation: Operation, code: str | int, reason: str, request_id: str
    ) -> None:
        """Ends a span; an absent code, reason or request id is ""."""
        outcome = {
            operation.code_attribute: code,
            _ERROR_TYPE: reason,
            _REQUEST_ID: request_id,
        }
        span.set_attributes({name: value for name, value in outcome.items() if value != ""})
        if operation.is_failed(code, reason):
            span.set_status(Status(StatusCode.ERROR, reason))
        span.end()

    def inject(self, headers: dict[str, str], span: Span) -> None:
        """Adds the headers that continue the trace of a span at the next server."""
        inject(headers, _within(span))

    def close(self) -> None:
        """Flushes the remaining spans."""
        self._provider.shutdown()


def _within(span: Span) -> Context:
    return set_span_in_context(span, Context())


def _resource() -> Resource:
    """Returns the resource of this process; attributes from OTEL_... variables take precedence."""
    defaults = {"service.name": "imagecall", "service.instance.id": str(uuid4())}
    return Resource.create(defaults).merge(OTELResourceDetector().detect())
