"""The sending of spans: the SDK's, with an encoding that costs a fraction of its own.

The interpreter does one thing at a time, so that time spent encoding is taken from the calls.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.trace.v1.trace_pb2 import Span, SpanFlags
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode

from imagecall.observing.observer import REQUEST_ID_ATTRIBUTE, Operation
from imagecall.observing.otlp import SCOPE

_LOCAL: Final = SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
_REMOTE: Final = _LOCAL | SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK
_UNSET: Final = Status()


class Alike(NamedTuple):
    """What many spans have in common."""

    operation: Operation
    code: str | int
    reason: str
    failed: bool


class EndedSpan(NamedTuple):
    """A span that is over."""

    context: SpanContext
    parent: SpanContext | None
    alike: Alike
    request_id: str
    start_time: int
    end_time: int


class SpanExporter(OTLPSpanExporter):
    """Sends spans of one resource, without events and links."""

    def __init__(self, who: Resource) -> None:
        super().__init__()
        self._who = who

    def export(self, spans: Sequence[Any]) -> SpanExportResult:
        """Sends them; each is an EndedSpan."""
        client: Any = getattr(self, "_client", None)
        if client is None or not spans:  # Of another version of the SDK.
            return super().export([_readable(span, self._who) for span in spans])
        request = encode_spans([_readable(spans[0], self._who)])
        encoded = request.resource_spans[0].scope_spans[0].spans
        encoded.extend(map(_encoded, spans[1:]))
        sent = client.export(request.SerializeToString())
        return SpanExportResult.SUCCESS if sent.success else SpanExportResult.FAILURE


def _readable(span: EndedSpan, who: Resource) -> ReadableSpan:
    """A span as the SDK has it."""
    operation, code, reason, failed = span.alike
    attributes = {**operation.attributes, **operation.of_span}
    if code:
        attributes[operation.code] = code
    if reason:
        attributes["error.type"] = reason
    if span.request_id:
        attributes[REQUEST_ID_ATTRIBUTE] = span.request_id
    return ReadableSpan(
        operation.name,
        span.context,
        span.parent,
        who,
        attributes,
        kind=SpanKind.SERVER if operation.door else SpanKind.CLIENT,
        status=Status(StatusCode.ERROR, reason) if failed else _UNSET,
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=SCOPE,
    )


def _encoded(span: EndedSpan) -> Span:
    context, parent = span.context, span.parent
    encoded = Span.FromString(_encoded_alike(span.alike))
    encoded.trace_id = context.trace_id.to_bytes(16, "big")
    encoded.span_id = context.span_id.to_bytes(8, "big")
    encoded.start_time_unix_nano = span.start_time
    encoded.end_time_unix_nano = span.end_time
    if context.trace_state:
        encoded.trace_state = context.trace_state.to_header()
    if parent:
        encoded.parent_span_id = parent.span_id.to_bytes(8, "big")
        encoded.flags = _REMOTE if parent.is_remote else _LOCAL
    if span.request_id:
        kept = encoded.attributes.add(key=REQUEST_ID_ATTRIBUTE)
        kept.value.string_value = span.request_id
    return encoded


@lru_cache(1024)
def _encoded_alike(alike: Alike) -> bytes:
    """What these spans have in common, serialized."""
    none = SpanContext(0, 0, is_remote=False)
    readable = _readable(EndedSpan(none, None, alike, "", 0, 0), Resource.get_empty())
    span = encode_spans([readable]).resource_spans[0].scope_spans[0].spans[0]
    for name in ("trace_id", "span_id"):
        span.ClearField(name)
    return span.SerializeToString()
