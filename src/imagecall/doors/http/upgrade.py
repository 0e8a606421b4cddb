"""Refusal of WebSocket handshakes, with a sentence that the API is plain HTTP.

Other upgrades, such as the `h2c` that Java's client offers, are ignored: RFC 9110, section 7.8.
"""

from typing import Final

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from imagecall.doors.http.errors import http_error
from imagecall.doors.http.paths import API

_WEBSOCKET: Final = "websocket"
_DENIAL: Final = "websocket.http.response"
_REFUSAL: Final = HTTPException(
    426,
    f"the server has no WebSocket: the API is at POST {API}",
    {"Upgrade": "HTTP/1.1", "Connection": "Upgrade"},
)
"""RFC 9110, section 15.5.22."""


class WithoutWebSocket:
    """Middleware that answers 426 to a WebSocket handshake."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == _WEBSOCKET and _DENIAL not in scope.get("extensions", {}):
            await WebSocketClose()(scope, receive, send)
        elif scope["type"] == _WEBSOCKET or _is_handshake(scope):
            refusal = await http_error(Request({**scope, "type": "http"}), _REFUSAL)
            await refusal(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _is_handshake(scope: Scope) -> bool:
    """Returns True for a WebSocket handshake (RFC 6455, section 4.1)."""
    if scope["type"] != "http" or scope["method"] != "GET" or scope["http_version"] == "1.0":
        return False
    headers = Headers(scope=scope)
    return _WEBSOCKET in _words(headers, "upgrade") and "upgrade" in _words(headers, "connection")


def _words(headers: Headers, name: str) -> set[str]:
    return {word.strip().lower() for value in headers.getlist(name) for word in value.split(",")}
