"""A span, from its beginning until it is sent."""

import time
from typing import Final, NamedTuple

from opentelemetry.trace import SpanContext, TraceFlags
from opentelemetry.trace.span import TraceState

from imagecall.observing.observer import Operation

_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_NOT_SAMPLED: Final = TraceFlags(TraceFlags.DEFAULT)


class Outcome(NamedTuple):
    """What many spans have in common."""

    operation: Operation
    code: str | int
    reason: str
    failed: bool


class Span:
    """A span that has begun. Its ids are numbers until someone wants to read them.

    Attributes:
        outcome: what it is once it is over.
        request_id: that of its call, then. "": it was told to nobody.
        end: when that was.
    """

    __slots__ = (
        "begun",
        "end",
        "outcome",
        "parent",
        "request_id",
        "sampled",
        "span_id",
        "state",
        "trace_id",
    )

    context: Final = SpanContext(1, 1, False, TraceFlags(TraceFlags.SAMPLED))
    """What the SDK asks of each that is to be sent: that it is sampled."""

    def __init__(
        self,
        trace_id: int,
        span_id: int,
        parent: SpanContext | None = None,
        sampled: bool = True,
        state: TraceState | None = None,
    ) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.parent = parent
        self.sampled = sampled
        self.state = state
        self.outcome: Outcome
        self.request_id = ""
        self.begun = self.end = time.time_ns()

    def own_context(self) -> SpanContext:
        """Its ids as the SDK has them."""
        flags = _SAMPLED if self.sampled else _NOT_SAMPLED
        return SpanContext(self.trace_id, self.span_id, False, flags, self.state)

    @property
    def headers(self) -> dict[str, str]:
        """What takes the trace to the next hop."""
        ids = f"{self.trace_id:032x}-{self.span_id:016x}"
        found = {"traceparent": f"00-{ids}-{self.sampled:02x}"}
        if self.state:
            found["tracestate"] = self.state.to_header()
        return found
