"""The spans of traces, sent by OTLP.

Sampler, ids, batches and the sending are the SDK's. Its spans are made where they are sent, if at
all: its way of making them takes some ten times as long.
"""

import time
from collections.abc import Mapping
from typing import Any, Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import DEFAULT_ON, Decision
from opentelemetry.trace import (
    SpanContext,
    SpanKind,
    TraceFlags,
    get_current_span,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from imagecall.observing.observer import TRACE_HEADERS, Operation
from imagecall.observing.request_id import REQUEST_ID
from imagecall.observing.span_exporter import Alike, EndedSpan, SpanExporter

_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_NOT_SAMPLED: Final = TraceFlags(TraceFlags.DEFAULT)
_W3C: Final = TraceContextTextMapPropagator()


class Span:
    """A span that has begun."""

    __slots__ = ("begun", "context", "parent")

    def __init__(self, context: SpanContext, parent: SpanContext | None) -> None:
        self.context = context
        self.parent = parent
        self.begun = time.time_ns()

    @property
    def trace_id(self) -> str:
        return f"{self.context.trace_id:032x}"

    @property
    def headers(self) -> dict[str, str]:
        """What takes the trace to the next hop."""
        context = self.context
        found = {
            "traceparent": f"00-{self.trace_id}-{context.span_id:016x}-{context.trace_flags:02x}"
        }
        if context.trace_state:
            found["tracestate"] = context.trace_state.to_header()
        return found


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
        if parent is None and self._samples_every_root:
            span_id = self._ids.generate_span_id()
            return Span(SpanContext(trace_id, span_id, False, _SAMPLED), None)
        decided = self._sampler.should_sample(
            within if parent else None,
            trace_id,
            operation.name,
            SpanKind.SERVER,
            operation.attributes,
        )
        flags = _SAMPLED if decided.decision is Decision.RECORD_AND_SAMPLE else _NOT_SAMPLED
        state = decided.trace_state
        context = SpanContext(trace_id, self._ids.generate_span_id(), False, flags, state)
        return Span(context, parent)

    def begin_under(self, span: Span) -> Span:
        """A span of the same trace, sampled if that is."""
        above = span.context
        span_id = self._ids.generate_span_id()
        flags, state = above.trace_flags, above.trace_state
        return Span(SpanContext(above.trace_id, span_id, False, flags, state), above)

    def end(
        self, span: Span, operation: Operation, code: str | int, reason: str, failed: bool
    ) -> None:
        """Ends a span, and has it sent if it is sampled."""
        if not span.context.trace_flags:
            return
        alike = Alike(operation, code, reason, failed)
        ended: Any = EndedSpan(
            span.context, span.parent, alike, REQUEST_ID.get(), span.begun, time.time_ns()
        )
        self._processor.on_end(ended)

    def close(self) -> None:
        """Sends what is left."""
        self._processor.shutdown()  # type: ignore[no-untyped-call]
