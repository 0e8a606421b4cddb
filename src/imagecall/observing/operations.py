"""Observed operations, in the terms of OpenTelemetry's semantic conventions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Final, TypeAlias
from urllib.parse import urlsplit

_PORTS: Final = {"http": 80, "https": 443}
_RPC_CODE: Final = "rpc.response.status_code"
_HTTP_CODE: Final = "http.response.status_code"
_FAILED_DEPENDENCY: Final = 424
_SERVER_FAULTS: Final = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)
"""gRPC codes that the conventions count as faults of the server, not of its client."""

CANCELLED: Final = "CANCELLED"
"""Code and reason of a call whose client disconnected."""

REFUSED: Final = "refused"
"""Outcome of a call that admission refused."""

OUTCOMES: Final = ("ok", "rejected", REFUSED, "cancelled", "failed")
"""Outcomes of a call at a door: `rejected` is a fault of the client, `failed` one of the server or
of its backend."""

_Attributes: TypeAlias = Mapping[str, str | int]


@dataclass(frozen=True)
class Operation:
    """Method or route, at a door of this server or of an upstream service.

    Attributes:
        name: name of the spans.
        duration: name of the histogram of durations.
        attributes: attributes of the spans and, in this order, labels of the histogram.
        code_attribute: name of the attribute for the status code.
        span_attributes: further attributes, of the spans only.
        door: "grpc" or "http"; "" for a call to an upstream service.
        generates: True if the operation generates images.
    """

    name: str
    duration: str
    attributes: _Attributes
    code_attribute: str
    span_attributes: _Attributes = field(default_factory=dict)
    door: str = ""
    generates: bool = False

    @property
    def is_rpc(self) -> bool:
        """True for gRPC, False for HTTP."""
        return self.code_attribute == _RPC_CODE

    def is_fault(self, code: str | int) -> bool:
        """Returns True if a status code alone marks a span as failed."""
        if isinstance(code, int):
            # 424: the upstream service failed, and clients must not send the request again.
            return code >= (500 if self.door else 400) or code == _FAILED_DEPENDENCY
        return code in _SERVER_FAULTS if self.door else code != "OK"

    def outcome(self, code: str | int, reason: str) -> str:
        """Returns the outcome of a call that was admitted, one of OUTCOMES."""
        if reason == CANCELLED:
            return "cancelled"
        if self.is_failed(code, reason):
            return "failed"
        is_ok = code == "OK" or (isinstance(code, int) and code < 400)
        return "ok" if is_ok else "rejected"

    def is_failed(self, code: str | int, reason: str) -> bool:
        """Returns True if a span failed: by its code, or after a 200, as a stream can."""
        after_success = isinstance(code, int) and code < 400
        return self.is_fault(code) or bool(reason and (after_success or not self.door))


@cache
def rpc_served(method: str, generates: bool) -> Operation:
    """Returns the operation for a method of the gRPC door, "package.Service/Method"."""
    return Operation(
        method,
        "rpc_server_call_duration_seconds",
        {"rpc.system.name": "grpc", "rpc.method": method},
        _RPC_CODE,
        door="grpc",
        generates=generates,
    )


@cache
def http_served(method: str, route: str, scheme: str, generates: bool) -> Operation:
    """Returns the operation for a route of the HTTP door; the route is "" for an unknown path."""
    return Operation(
        f"{method} {route}".strip(),
        "http_server_request_duration_seconds",
        {"http.request.method": method, "http.route": route, "url.scheme": scheme},
        _HTTP_CODE,
        {"url.path": route} if route else {},
        door="http",
        generates=generates,
    )


@cache
def rpc_called(method: str, address: str) -> Operation:
    """Returns the operation for a method of another gRPC server, at HOST:PORT."""
    host, _, port = address.rpartition(":")
    return Operation(
        method,
        "rpc_client_call_duration_seconds",
        {
            "rpc.system.name": "grpc",
            "rpc.method": method,
            "server.address": host,
            "server.port": int(port),
        },
        _RPC_CODE,
    )


@cache
def http_called(url: str, method: str = "POST") -> Operation:
    """Returns the operation for a request to a URL, whose query and user are omitted as secrets."""
    parts = urlsplit(url)
    redacted = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="")
    return Operation(
        method,
        "http_client_request_duration_seconds",
        {
            "http.request.method": method,
            "server.address": parts.hostname or "",
            "server.port": parts.port or _PORTS[parts.scheme],
        },
        _HTTP_CODE,
        {"url.full": redacted.geturl()},
    )
