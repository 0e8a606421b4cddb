"""The sending of spans: the SDK's, with an encoding that costs a fraction of its own.

The interpreter does one thing at a time, so that time spent encoding is taken from the calls.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Encoded
from opentelemetry.proto.trace.v1.trace_pb2 import SpanFlags
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.trace import SpanKind, Status, StatusCode

from imagecall.observing.observer import REQUEST_ID_ATTRIBUTE
from imagecall.observing.otlp import SCOPE
from imagecall.observing.span import Outcome, Span

_LOCAL: Final = SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
_REMOTE: Final = _LOCAL | SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK
_UNSET: Final = Status()


class SpanExporter(OTLPSpanExporter):
    """Sends spans of one resource, without events and links."""

    def __init__(self, who: Resource) -> None:
        super().__init__()
        self._who = who

    def export(self, spans: Sequence[Any]) -> SpanExportResult:
        """Sends them; each is a Span of ours that has ended."""
        client: Any = getattr(self, "_client", None)
        if client is None or not spans:  # Of another version of the SDK.
            return super().export([_readable(span, self._who) for span in spans])
        request = encode_spans([_readable(spans[0], self._who)])
        encoded = request.resource_spans[0].scope_spans[0].spans
        encoded.extend(map(_encoded, spans[1:]))
        sent = client.export(request.SerializeToString())
        return SpanExportResult.SUCCESS if sent.success else SpanExportResult.FAILURE


def _readable(span: Span, who: Resource) -> ReadableSpan:
    """A span as the SDK has it."""
    operation, code, reason, failed = span.outcome
    attributes = {**operation.attributes, **operation.of_span}
    if code:
        attributes[operation.code] = code
    if reason:
        attributes["error.type"] = reason
    if span.request_id:
        attributes[REQUEST_ID_ATTRIBUTE] = span.request_id
    return ReadableSpan(
        operation.name,
        span.own_context(),
        span.parent,
        who,
        attributes,
        kind=SpanKind.SERVER if operation.door else SpanKind.CLIENT,
        status=Status(StatusCode.ERROR, reason) if failed else _UNSET,
        start_time=span.begun,
        end_time=span.end,
        instrumentation_scope=SCOPE,
    )


def _encoded(span: Span) -> Encoded:
    encoded = Encoded.FromString(_encoded_outcome(span.outcome))
    encoded.trace_id = span.trace_id.to_bytes(16, "big")
    encoded.span_id = span.span_id.to_bytes(8, "big")
    encoded.start_time_unix_nano = span.begun
    encoded.end_time_unix_nano = span.end
    if span.state:
        encoded.trace_state = span.state.to_header()
    if parent := span.parent:
        encoded.parent_span_id = parent.span_id.to_bytes(8, "big")
        encoded.flags = _REMOTE if parent.is_remote else _LOCAL
    if span.request_id:
        kept = encoded.attributes.add(key=REQUEST_ID_ATTRIBUTE)
        kept.value.string_value = span.request_id
    return encoded


@lru_cache(1024)
def _encoded_outcome(outcome: Outcome) -> bytes:
    """What these spans have in common, serialized."""
    span = Span(0, 0)
    span.outcome = outcome
    encoded = (
        encode_spans([_readable(span, Resource.get_empty())])
        .resource_spans[0]
        .scope_spans[0]
        .spans[0]
    )
    for name in ("trace_id", "span_id", "start_time_unix_nano", "end_time_unix_nano"):
        encoded.ClearField(name)
    return encoded.SerializeToString()
