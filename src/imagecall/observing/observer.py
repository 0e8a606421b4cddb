"""Observation of calls at the doors, and of calls from backends to upstream services.

A door with an `Observer` starts a `Call`, and ends it. Code that works for the call finds it in
`CURRENT_CALL`. An observation holds sizes, names and codes: no prompt, image, token or key.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from imagecall.errors import CODES, ImagecallError
from imagecall.observing.generation import Generation
from imagecall.observing.operations import CANCELLED, REFUSED, Operation
from imagecall.observing.request_id import HEADER, REQUEST_ID

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from imagecall.observing.metrics import Metrics
    from imagecall.observing.traces import Traces

_log: Final = logging.getLogger("imagecall.calls")

_OF_ANSWERS: Final = frozenset(
    {
        "CHUNKS_DAMAGED",
        "UPSTREAM_ANSWER_TOO_LARGE",
        "UPSTREAM_DAMAGED",
        "UPSTREAM_DISCONNECTED",
        "UPSTREAM_NOT_UNDERSTOOD",
        "UPSTREAM_UNREACHABLE",
    }
)
"""Reasons whose sentences may be logged: they consist of words of this package and sizes."""


class Observer:
    """Records calls as metrics, as spans and in the log.

    Args:
        metrics: metrics to record. None: no metrics.
        traces: traces to record. None: no traces.
        log_calls: True to log one line for each call.
    """

    def __init__(
        self,
        metrics: "Metrics | None" = None,
        traces: "Traces | None" = None,
        *,
        log_calls: bool = False,
    ) -> None:
        self.metrics = metrics
        self.traces = traces
        self.log_calls = log_calls

    def expect(self, operation: Operation) -> None:
        """Sets the counts of a door's operation to 0 before its first call."""
        if self.metrics:
            self.metrics.expect(operation)

    def set_limit(self, calls: int) -> None:
        """Records the most calls in progress of this process."""
        if self.metrics:
            self.metrics.limit(calls)

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Adds a gauge of a value of this process, which is read at each `sample`."""
        if self.metrics:
            self.metrics.watch(name, text, value)

    def sample(self) -> None:
        """Records the watched values, which another process may report to Prometheus."""
        if self.metrics:
            self.metrics.sample()

    def start(self, operation: Operation, headers: Mapping[str, Any]) -> "Call":
        """Starts the call of the current task, and continues the trace in its headers, if any.

        The headers of a gRPC call are its metadata.
        """
        span = self.traces.start_server(operation, headers) if self.traces else None
        if self.metrics:
            self.metrics.started(operation)
        call = Call(self, operation, span)
        CURRENT_CALL.set(call)
        return call

    def count_item(self, direction: str, variant: str, outcome: str) -> None:
        """Counts an item that was converted ("ok") or refused (the reason)."""
        if self.metrics:
            self.metrics.item(direction, variant, outcome)

    def metrics_text(self, accepted: str) -> tuple[bytes, str]:
        """Formats the metrics: the text and its media type, by an Accept header."""
        assert self.metrics
        return self.metrics.text(accepted)

    def close(self) -> None:
        """Flushes the remaining spans."""
        if self.traces:
            self.traces.close()


class _Observation:
    """Started call, which must be ended once.

    Attributes:
        code: gRPC status code or HTTP status; "" before there is one.
        reason: reason of the failure; "" without one.
    """

    __slots__ = ("_observer", "_operation", "_seconds", "_span", "_start", "code", "reason")

    def __init__(self, observer: Observer, operation: Operation, span: "Span | None") -> None:
        self._observer = observer
        self._operation = operation
        self._span = span
        self._seconds = 0.0
        self._start = time.perf_counter()
        self.code: str | int = ""
        self.reason = ""

    def end(self, code: str | int) -> None:
        """Ends the call with a gRPC status code or an HTTP status; "" without either."""
        self._seconds = time.perf_counter() - self._start
        operation, observer = self._operation, self._observer
        self.code = code
        if not self.reason and operation.is_fault(code):
            self.reason = str(code)
        if observer.metrics:
            observer.metrics.ended(operation, code, self.reason, self._seconds)
        if observer.traces and self._span:
            observer.traces.end(self._span, operation, code, self.reason, REQUEST_ID.get())


class Call(_Observation):
    """Call at a door.

    Attributes:
        caller: name of the token's holder; "" without a token.
        received_bytes: size of the requests.
        sent_bytes: size of the answers.
    """

    __slots__ = ("_generation", "_refused", "_sentence", "caller", "received_bytes", "sent_bytes")

    def __init__(self, observer: Observer, operation: Operation, span: "Span | None") -> None:
        super().__init__(observer, operation, span)
        self.caller = ""
        self._generation: Mapping[str, Any] = {}
        self._refused = False
        self._sentence = ""
        self.received_bytes = 0
        self.sent_bytes = 0

    def fail(self, error: ImagecallError) -> None:
        """Records the error with which the call fails."""
        self.code = error.code
        self.reason = reason_of(error)
        is_own = error.reason in _OF_ANSWERS and not error.status
        self._sentence = str(error) if is_own else ""

    def cancel(self, code: str = CANCELLED) -> None:
        """Records an early end of the call, by its client or by its deadline."""
        self.code = self.reason = code

    def refuse(self, error: ImagecallError) -> None:
        """Records the error with which admission refused the call."""
        self.fail(error)
        self._refused = True
        if self._observer.metrics:
            self._observer.metrics.refused(self._operation, self.reason)

    def add_generation(self, generation: "Generation") -> None:
        """Records a generation of images that the call requested."""
        if self._observer.metrics:
            self._observer.metrics.generated(self._operation, generation)
        if self._span:
            self._span.set_attributes(generation.attributes())
        self._generation = generation.log_fields()

    def start_client_call(self, operation: Operation) -> "ClientCall":
        """Starts a call to an upstream service on behalf of this call."""
        traces = self._observer.traces
        span = traces.start_client(operation, self._span) if traces and self._span else None
        return ClientCall(self._observer, operation, span)

    def end(self, code: str | int) -> None:
        super().end(code)
        if metrics := self._observer.metrics:
            metrics.left(self._operation, self._outcome, self.received_bytes, self.sent_bytes)
        if self._observer.log_calls:
            self._log()

    @property
    def _outcome(self) -> str:
        if self._refused:
            return REFUSED
        return self._operation.outcome(self.code, self.reason)

    def _log(self) -> None:
        fields: dict[str, Any] = {
            "door": self._operation.door,
            "method": self._operation.name,
            "code": self.code,
            "reason": self.reason,
            "error": self._sentence,
            "seconds": round(self._seconds, 6),
            "received_bytes": self.received_bytes,
            "sent_bytes": self.sent_bytes,
            "caller": self.caller,
            **self._generation,
            "trace_id": f"{self._span.get_span_context().trace_id:032x}" if self._span else "",
        }
        present = {key: value for key, value in fields.items() if value != ""}
        _log.info("call", extra={"fields": present})


class ClientCall(_Observation):
    """Call from a backend to its upstream service.

    Attributes:
        headers: headers that carry the request id and the trace upstream.
    """

    __slots__ = ("headers",)

    def __init__(self, observer: Observer, operation: Operation, span: "Span | None") -> None:
        super().__init__(observer, operation, span)
        self.headers: dict[str, str] = {}
        if request_id := REQUEST_ID.get():
            self.headers[HEADER] = request_id
        if observer.traces and span:
            observer.traces.inject(self.headers, span)

    def fail(self, error: BaseException) -> None:
        """Records the exception with which the call ends."""
        self.reason = reason_of(error)
        if self._operation.is_rpc:
            self.code = error.code if isinstance(error, ImagecallError) else CANCELLED


def reason_of(error: BaseException) -> str:
    """Returns the reason of a failure, from a bounded set.

    The reason is that of the schema, else the gRPC status code; for other exceptions the name of
    their class.
    """
    match error:
        case ImagecallError():
            return error.reason if error.reason in CODES else error.code
        case asyncio.CancelledError() | GeneratorExit():
            return CANCELLED
    return type(error).__name__


CURRENT_CALL: Final[ContextVar[Call | None]] = ContextVar("CURRENT_CALL", default=None)
"""Call at a door for which the current task works. None: calls are not observed."""

_OFF: Final = Observer()


@contextmanager
def client_call(operation: Operation) -> Iterator[ClientCall]:
    """Observes a call to an upstream service; the body of the `with` sets the answer's code."""
    door_call = CURRENT_CALL.get()
    call = (
        door_call.start_client_call(operation) if door_call else ClientCall(_OFF, operation, None)
    )
    try:
        yield call
    except BaseException as error:  # Also cancellation, and a stream closed early.
        call.fail(error)
        raise
    else:
        call.code = call.code or "OK"
    finally:
        call.end(call.code)


@contextmanager
def observed_generation(provider: str, model: str) -> Iterator[Generation]:
    """Observes a generation for the current call; the body of the `with` sets its figures."""
    call = CURRENT_CALL.get()
    generation = Generation(provider, model)
    try:
        yield generation
    except BaseException as error:  # Also cancellation, and a stream closed early.
        is_over = generation.status is not None and reason_of(error) == CANCELLED
        generation.reason = "" if is_over else reason_of(error)
        raise
    finally:
        generation.end()
        if call:
            call.add_generation(generation)


def note_failure(error: ImagecallError) -> None:
    """Records the error with which the current call fails."""
    if (call := CURRENT_CALL.get()) is not None:
        call.fail(error)


def note_caller(name: str) -> None:
    """Records the name of the caller of the current call."""
    if (call := CURRENT_CALL.get()) is not None:
        call.caller = name


def note_refusal(error: ImagecallError) -> None:
    """Records the error with which admission refused the current call."""
    if (call := CURRENT_CALL.get()) is not None:
        call.refuse(error)
