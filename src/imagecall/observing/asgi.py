"""ASGI middleware that gives each request an id and observes it."""

import asyncio
from collections.abc import Collection, Mapping

from starlette.datastructures import Headers
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from imagecall.observing.observer import Call, Observer
from imagecall.observing.operations import http_served
from imagecall.observing.request_id import HEADER, take_request_id

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def expect_posts(observer: Observer, routes: Mapping[str, bool]) -> None:
    """Sets the counts of an app's POST requests to 0.

    `routes` are those of Observed, which Starlette does not construct before the first request.
    """
    for route, generates in routes.items():
        observer.expect(http_served("POST", route, "http", generates))


class Observed:
    """Middleware that gives each request of an app an id, and observes the request.

    Args:
        app: wrapped app.
        observer: observer of the requests. None: requests have ids, but are not observed.
        routes: paths of the API, such as "/v1/responses/{id}"; True for a path that generates
            images.
        unobserved: further paths, whose GET and HEAD requests, such as probes, are not observed.
    """

    def __init__(
        self,
        app: ASGIApp,
        observer: Observer | None,
        routes: Mapping[str, bool],
        unobserved: Collection[str] = (),
    ) -> None:
        self._app = app
        self._observer = observer
        self._routes = routes
        self._templates = {compile_path(route)[0]: route for route in routes if "{" in route}
        self._unobserved = unobserved

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        send = _with_request_id(send, take_request_id(headers.get(HEADER)))
        if call := self._start(scope, headers):
            await _observed(call, self._app, scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _start(self, scope: Scope, headers: Headers) -> Call | None:
        """Starts the call of a request; returns None for a request that is not observed."""
        method = scope["method"]
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        is_probe = method in ("GET", "HEAD") and path in self._unobserved
        if self._observer is None or is_probe:
            return None
        route = self._route(path)
        method_label = method if method in _METHODS else "_OTHER"
        generates = self._routes.get(route, False)
        operation = http_served(method_label, route, scope.get("scheme", "http"), generates)
        return self._observer.start(operation, headers)

    def _route(self, path: str) -> str:
        """Returns the route of a path; "" for an unknown path."""
        if path in self._routes:
            return path
        templates = self._templates.items()
        return next((route for pattern, route in templates if pattern.fullmatch(path)), "")


def _with_request_id(send: Send, request_id: str) -> Send:
    header = (HEADER.encode(), request_id.encode())

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], header]
        await send(message)

    return sending


async def _observed(call: Call, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Runs the app for a request, counts the bytes, and ends the call."""
    status: int | str = ""

    async def receiving() -> Message:
        message = await receive()
        call.received_bytes += len(message.get("body", b""))
        return message

    async def sending(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        call.sent_bytes += len(message.get("body", b""))
        await send(message)

    try:
        await app(scope, receiving, sending)
    except asyncio.CancelledError:
        call.cancel()
        raise
    finally:
        if not (status or call.code):
            call.cancel()
        call.end(status)
