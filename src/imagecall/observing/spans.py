"""The spans of traces, sent by OTLP.

Sampler, ids, batches and the sending are the SDK's. Its spans are made where they are sent, if at
all: its way of making them takes some ten times as long.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import DEFAULT_ON, Decision
from opentelemetry.trace import SpanKind, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from imagecall.observing.observer import TRACE_HEADERS, Operation
from imagecall.observing.span import Outcome, Span
from imagecall.observing.span_exporter import SpanExporter

_W3C: Final = TraceContextTextMapPropagator()
_outcome: Final = lru_cache(1024)(Outcome)


class Spans:
    """See the module. The variables OTEL_TRACES_SAMPLER, OTEL_BSP_... count."""

    def __init__(self, who: Resource) -> None:
        self._provider = TracerProvider(resource=who, shutdown_on_exit=False)
        self._ids = self._provider.id_generator
        self._sampler = self._provider.sampler
        self._samples_every_root = self._sampler is DEFAULT_ON
        self._processor = BatchSpanProcessor(SpanExporter(who))

    def begin(self, operation: Operation, headers: Mapping[str, Any]) -> Span:
        """A span under that of the caller, if the headers name one."""
        parent, within = None, None
        if TRACE_HEADERS[0] in headers:
            carrier = {key: headers[key] for key in TRACE_HEADERS if key in headers}
            within = _W3C.extract(carrier)
            found = get_current_span(within).get_span_context()
            parent = found if found.is_valid else None
        trace_id = parent.trace_id if parent else self._ids.generate_trace_id()
        span_id = self._ids.generate_span_id()
        if parent is None and self._samples_every_root:
            return Span(trace_id, span_id)
        decided = self._sampler.should_sample(
            within if parent else None,
            trace_id,
            operation.name,
            SpanKind.SERVER,
            operation.attributes,
        )
        sampled = decided.decision is Decision.RECORD_AND_SAMPLE
        return Span(trace_id, span_id, parent, sampled, decided.trace_state)

    def begin_under(self, span: Span) -> Span:
        """A span of the same trace, sampled if that is."""
        span_id = self._ids.generate_span_id()
        return Span(span.trace_id, span_id, span.own_context(), span.sampled, span.state)

    def end(
        self, span: Span, operation: Operation, code: str | int, reason: str, failed: bool
    ) -> None:
        """Ends a span, and has it sent if it is sampled."""
        if not span.sampled:
            return
        span.outcome = _outcome(operation, code, reason, failed)
        sent: Any = span
        self._processor.on_end(sent)

    def close(self) -> None:
        """Sends what is left."""
        self._processor.shutdown()  # type: ignore[no-untyped-call]
