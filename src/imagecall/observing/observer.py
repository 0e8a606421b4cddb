"""The calls of both doors, and the hops to what stands behind them, as they begin and end.

A door begins a `Call` where there is an `Observer`, and ends it. Whoever works for the call finds
it in `CALL_SEEN`, and there is none where nobody wants to know. Nothing here is told a prompt, an
image, a token or a key: sizes, names and codes are all.
"""

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import urlsplit

from imagecall.errors import CODES, ImagecallError
from imagecall.observing.request_id import HEADER, REQUEST_ID

if TYPE_CHECKING:
    from imagecall.observing.metrics import Metrics
    from imagecall.observing.span import Span
    from imagecall.observing.spans import Spans

_log: Final = logging.getLogger("imagecall.calls")

TRACE_HEADERS: Final = ("traceparent", "tracestate")
"""What takes a trace from hop to hop: https://www.w3.org/TR/trace-context/."""

_PORTS: Final = {"http": 80, "https": 443}
REQUEST_ID_ATTRIBUTE: Final = "imagecall.request_id"
CANCELLED: Final = "CANCELLED"
_RPC_CODE: Final = "rpc.response.status_code"
_HTTP_CODE: Final = "http.response.status_code"
_FAULTS: Final = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)
"""The codes that are a fault of the server and not of its client, as OpenTelemetry has it."""


_FAILED_DEPENDENCY: Final = 424

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
"""The reasons whose sentences are of this package alone, and name no more than fields and sizes."""

_SETTLE_SECONDS: Final = 0.01
"""How long what has ended may wait to be counted."""

_Attributes: TypeAlias = Mapping[str, str | int]


@dataclass(frozen=True, eq=False)  # Each is made once, and known again as itself.
class Operation:
    """What is called, in the words of OpenTelemetry's semantic conventions.

    Attributes:
        name: of the span.
        metric: the histogram of how long it takes.
        attributes: of the span and the metric.
        code: the attribute that says how it ended.
        of_span: attributes of the span alone.
        door: "grpc" or "http"; "": it is a hop.
        generates: whether images are made.
    """

    name: str
    metric: str
    attributes: _Attributes
    code: str
    of_span: _Attributes = field(default_factory=dict)
    door: str = ""
    generates: bool = False

    def is_fault(self, code: str | int) -> bool:
        """Whether that code makes it a failed span."""
        if isinstance(code, int):
            # 424: the service behind failed, and the request is not to be sent again.
            return code >= (500 if self.door else 400) or code == _FAILED_DEPENDENCY
        return code in _FAULTS if self.door else code != "OK"

    def is_failed(self, code: str | int, reason: str) -> bool:
        """The same, with what is known beside the code: a stream may fail after its 200."""
        late = isinstance(code, int) and code < 400
        return self.is_fault(code) or bool(reason and (late or not self.door))


class Observer:
    """What is done with what is seen.

    Args:
        metrics: None: there are none.
        spans: None: there are none.
        log_calls: whether each call has a line in the log.
    """

    def __init__(
        self,
        metrics: "Metrics | None" = None,
        spans: "Spans | None" = None,
        *,
        log_calls: bool = False,
    ) -> None:
        self.metrics = metrics
        self.spans = spans
        self.log_calls = log_calls
        self._ended: list[Seen] = []
        self._due: asyncio.AbstractEventLoop | None = None

    def begin(self, operation: Operation, headers: Mapping[str, Any]) -> "Call":
        """A call of the current task, with the headers, or metadata, that came."""
        span = self.spans.begin(operation, headers) if self.spans else None
        call = Call(self, operation, span)
        CALL_SEEN.set(call)
        return call

    def settle_soon(self, ended: "Seen | None" = None) -> None:
        """Has counted, a moment later, what has begun and ended until then.

        Many at a time take less of the processor than each would between other work.
        """
        if not (self.metrics or self.spans):
            return
        if ended is not None:
            self._ended.append(ended)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # It is closed: what is left of a generator ends.
            self.settle()
            return
        if self._due is not loop:
            self._due = loop
            loop.call_later(_SETTLE_SECONDS, self.settle)

    def settle(self) -> None:
        """Counts what has begun and ended."""
        self._due = None
        ended, self._ended = self._ended, []
        for seen in ended:
            try:
                seen.settle()
            except Exception:  # The next is counted all the same.
                _log.exception("a call is not counted")
        if self.metrics:
            self.metrics.settle()

    def metrics_text(self, accepted: str) -> tuple[bytes, str]:
        """The metrics until now, see Metrics.text."""
        assert self.metrics
        self.settle()
        return self.metrics.text(accepted)

    def close(self) -> None:
        """Sends what has not been sent."""
        self.settle()
        for part in (self.metrics, self.spans):
            if part is not None:
                part.close()


class Seen:
    """A call or a hop that has begun, and is to be ended."""

    __slots__ = ("_begun", "_observer", "_operation", "_reason", "_seconds", "code", "span")

    def __init__(self, observer: Observer, operation: Operation, span: "Span | None") -> None:
        self._observer = observer
        self._operation = operation
        self._reason = ""
        self.code: str | int = ""
        self.span = span
        self._begun = time.perf_counter()

    def end(self, code: str | int) -> None:
        """Ends it: with a gRPC status code, or an HTTP status, "" if there was none."""
        self._seconds = time.perf_counter() - self._begun
        self.code = code
        if code != "OK" and not self._reason and self._operation.is_fault(code):
            self._reason = str(code)
        if self.span:
            self.span.request_id = REQUEST_ID.get()
            self.span.end = time.time_ns()
        self._observer.settle_soon(self)

    def settle(self) -> None:
        """Counts it, and has its span sent."""
        operation, observer = self._operation, self._observer
        code, reason = self.code, self._reason
        if observer.metrics:
            observer.metrics.ended(operation, code, reason, self._seconds)
        if observer.spans and self.span:
            failed = operation.is_failed(code, reason)
            observer.spans.end(self.span, operation, code, reason, failed)


class Call(Seen):
    """A call at a door."""

    __slots__ = ("_sentence", "caller", "received_bytes", "sent_bytes")

    def __init__(self, observer: Observer, operation: Operation, span: "Span | None") -> None:
        super().__init__(observer, operation, span)
        self.caller = ""
        self._sentence = ""
        self.received_bytes = 0
        self.sent_bytes = 0
        if observer.metrics:
            observer.metrics.begun(operation)
            observer.settle_soon()

    def failed(self, error: ImagecallError) -> None:
        """Notes why it fails."""
        self.code = error.code
        # Another server may say anything: a label must be one of a few.
        self._reason = error.reason if error.reason in CODES else error.code
        ours = error.reason in _OF_ANSWERS and not error.status
        self._sentence = str(error) if ours else ""

    def item(self, direction: str, variant: str | None, outcome: str = "ok") -> None:
        """Notes an item that was converted or refused: a member of the oneof, and a reason."""
        if self._observer.metrics:
            self._observer.metrics.item(direction, variant or "none", outcome)

    def cancelled(self, code: str = CANCELLED) -> None:
        """Notes that it is over before its end."""
        self.code = self._reason = code

    def refused(self) -> None:
        """Notes that the call was not taken, after `failed`."""
        if self._observer.metrics:
            self._observer.metrics.refused(self._operation, self._reason)

    def hop(self, operation: Operation) -> "Hop":
        """A call to what stands behind."""
        spans = self._observer.spans
        span = spans.begin_under(self.span) if spans and self.span else None
        return Hop(self._observer, operation, span)

    def end(self, code: str | int) -> None:
        if self._observer.metrics:
            self._observer.metrics.over(self._operation)
        super().end(code)
        if self._observer.log_calls:
            self._log()

    def settle(self) -> None:
        super().settle()
        if self._observer.metrics:
            self._observer.metrics.moved(self._operation, self.received_bytes, self.sent_bytes)

    def _log(self) -> None:
        fields: dict[str, Any] = {
            "door": self._operation.door,
            "method": self._operation.name,
            "code": self.code,
            "reason": self._reason,
            "error": self._sentence,
            "seconds": round(self._seconds, 6),
            "received_bytes": self.received_bytes,
            "sent_bytes": self.sent_bytes,
            "caller": self.caller,
            "trace_id": f"{self.span.trace_id:032x}" if self.span else "",
        }
        said = {key: value for key, value in fields.items() if value != ""}
        _log.info("call", extra={"fields": said})


class Hop(Seen):
    """A call to an API or to another server."""

    __slots__ = ()

    def failed(self, error: BaseException) -> None:
        """Notes why it fails."""
        if isinstance(error, ImagecallError):
            self._reason = error.reason if error.reason in CODES else error.code
        elif isinstance(error, asyncio.CancelledError | GeneratorExit):
            self._reason = CANCELLED
        else:
            self._reason = type(error).__name__


CALL_SEEN: Final[ContextVar[Call | None]] = ContextVar("CALL_SEEN", default=None)
"""The call that the current task works for. None: nobody wants to know."""


def note_failure(error: ImagecallError) -> None:
    """Notes why the current call fails."""
    if (call := CALL_SEEN.get()) is not None:
        call.failed(error)


def note_caller(name: str) -> None:
    """Notes who calls."""
    if (call := CALL_SEEN.get()) is not None:
        call.caller = name


def note_refusal(error: ImagecallError) -> None:
    """Notes that the current call is not taken."""
    if (call := CALL_SEEN.get()) is not None:
        call.failed(error)
        call.refused()


def note_item(direction: str, variant: str | None, outcome: str = "ok") -> None:
    """Notes an item of the current call, see Call.item."""
    if (call := CALL_SEEN.get()) is not None:
        call.item(direction, variant, outcome)


class Upstream:
    """A hop in progress: the headers to send, and where to say how it was answered."""

    def __init__(self, headers: dict[str, str]) -> None:
        self.headers = headers
        self.code: str | int = ""


@contextmanager
def upstream(operation: Operation) -> Iterator[Upstream]:
    """A hop of the current call. How it ended is what it is told, or what is raised."""
    call = CALL_SEEN.get()
    hop = call.hop(operation) if call else None
    headers = {}
    if request_id := REQUEST_ID.get():
        headers[HEADER] = request_id
    if hop and hop.span:
        headers.update(hop.span.headers)
    seen = Upstream(headers)
    if hop is None:
        yield seen
        return
    try:
        yield seen
    except BaseException as error:  # Also where it is cancelled, or nobody wants the rest.
        hop.failed(error)
        if operation.code == _RPC_CODE:
            seen.code = error.code if isinstance(error, ImagecallError) else CANCELLED
        raise
    else:
        seen.code = seen.code or "OK"
    finally:
        hop.end(seen.code)


@cache
def rpc_served(method: str, generates: bool) -> Operation:
    """A method of the gRPC door, "package.Service/Method"."""
    attributes = {"rpc.system.name": "grpc", "rpc.method": method}
    metric = "rpc.server.call.duration"
    return Operation(method, metric, attributes, _RPC_CODE, door="grpc", generates=generates)


@cache
def http_served(method: str, route: str, scheme: str, generates: bool) -> Operation:
    """A request to the HTTP door; the route is "" where there is none."""
    attributes = {"http.request.method": method, "http.route": route, "url.scheme": scheme}
    of_span = {"url.path": route} if route else {}
    name = f"{method} {route}".strip()
    metric = "http.server.request.duration"
    return Operation(name, metric, attributes, _HTTP_CODE, of_span, "http", generates)


@cache
def rpc_called(method: str, address: str) -> Operation:
    """A method that is called elsewhere, at HOST:PORT."""
    host, _, port = address.rpartition(":")
    where: _Attributes = {"server.address": host, "server.port": int(port)}
    attributes: _Attributes = {"rpc.system.name": "grpc", "rpc.method": method, **where}
    return Operation(method, "rpc.client.call.duration", attributes, _RPC_CODE)


@cache
def http_called(url: str) -> Operation:
    """A POST to a URL, which has neither a query nor a password."""
    parts = urlsplit(url)
    where: _Attributes = {
        "server.address": parts.hostname or "",
        "server.port": parts.port or _PORTS[parts.scheme],
    }
    attributes: _Attributes = {"http.request.method": "POST", **where}
    metric = "http.client.request.duration"
    return Operation("POST", metric, attributes, _HTTP_CODE, {"url.full": url})
