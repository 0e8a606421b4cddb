"""Operations that are observed, in the words of OpenTelemetry's semantic conventions."""

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
"""gRPC codes that are a fault of the server, and not of its client, by the conventions."""

_Attributes: TypeAlias = Mapping[str, str | int]


@dataclass(frozen=True)
class Operation:
    """A method or a route: of a door of ours, or of the service behind a backend.

    Attributes:
        name: of its spans.
        duration: the name of the histogram of its durations.
        attributes: of its spans and, in this order, labels of the histogram.
        code_attribute: the attribute for the status code.
        span_attributes: further attributes, of its spans only.
        door: "grpc" or "http"; "" for a call to the service behind a backend.
        generates: true if it generates images.
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
        """True for gRPC, false for HTTP."""
        return self.code_attribute == _RPC_CODE

    def is_fault(self, code: str | int) -> bool:
        """Returns true if a status code alone makes a span one that failed."""
        if isinstance(code, int):
            # 424: the service behind failed, and the request is not to be sent again.
            return code >= (500 if self.door else 400) or code == _FAILED_DEPENDENCY
        return code in _SERVER_FAULTS if self.door else code != "OK"

    def is_failed(self, code: str | int, reason: str) -> bool:
        """Returns true if a span failed: by its code, or later, as a stream does after its 200."""
        after_success = isinstance(code, int) and code < 400
        return self.is_fault(code) or bool(reason and (after_success or not self.door))


@cache
def rpc_served(method: str, generates: bool) -> Operation:
    """A method of the gRPC door, "package.Service/Method"."""
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
    """A route of the HTTP door; the route is "" for a path that has none."""
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
    """A method of another gRPC server, at HOST:PORT."""
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
def http_called(url: str) -> Operation:
    """A POST to a URL. Its query and user are left out, as they may hold secrets."""
    parts = urlsplit(url)
    shown = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="")
    return Operation(
        "POST",
        "http_client_request_duration_seconds",
        {
            "http.request.method": "POST",
            "server.address": parts.hostname or "",
            "server.port": parts.port or _PORTS[parts.scheme],
        },
        _HTTP_CODE,
        {"url.full": shown.geturl()},
    )
