"""The requests to the HTTP door: each has an id, and is seen."""

import asyncio
from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from imagecall.observing.observer import Call, Observer, http_served
from imagecall.observing.request_id import HEADER, take_request_id

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Observed:
    """An app, observed.

    Args:
        app: the app.
        observer: None: nobody wants to know.
        routes: the paths that there are, and whether images are generated there.
    """

    def __init__(self, app: ASGIApp, observer: Observer | None, routes: Mapping[str, bool]) -> None:
        self._app = app
        self._observer = observer
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = take_request_id(headers.get(HEADER)).encode()
        call = self._begun(scope, headers)
        status: int | str = ""

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (HEADER.encode(), request_id)]
            elif call:
                call.sent_bytes += len(message.get("body", b""))
            await send(message)

        if call is None:
            await self._app(scope, receive, answer)
            return

        async def take() -> Message:
            message = await receive()
            call.received_bytes += len(message.get("body", b""))
            return message

        try:
            await self._app(scope, take, answer)
        except asyncio.CancelledError:
            call.cancelled()
            raise
        finally:
            if not (status or call.code):
                call.cancelled()
            call.end(status)

    def _begun(self, scope: Scope, headers: Headers) -> Call | None:
        """The call. None: nobody wants to know, or it is a look at a page or at the metrics."""
        method = scope["method"]
        if self._observer is None or method in ("GET", "HEAD"):
            return None
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        route = path if path in self._routes else ""
        known = method if method in _METHODS else "_OTHER"
        generates = self._routes.get(route, False)
        operation = http_served(known, route, scope.get("scheme", "http"), generates)
        return self._observer.begin(operation, headers)
