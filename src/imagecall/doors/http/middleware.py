"""ASGI middleware: token, origin and host, pace of the body and of the answer, admission."""

import asyncio
from collections.abc import Collection
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from imagecall.access.admission import Admission
from imagecall.access.budget import CALL_OVERHEAD, MEMORY
from imagecall.doors.http.errors import NotTaken, error_response, http_error
from imagecall.errors import GenerationError, ImagecallError, quoted
from imagecall.observing.observer import note_caller, note_failure, note_refusal
from imagecall.rpc.addresses import is_local
from imagecall.sizes import PIECE

_READING: Final = frozenset({"GET", "HEAD"})
"""Methods of requests that need no token, and no admission."""

_BODY_SECONDS: Final = 20.0
_READ_BYTES: Final = 16 * 1024
"""Longest time for 16 KiB of a body: 20 s."""


class _Arriving:
    """Request whose body is being read; a request with its whole body is a call in progress.

    Args:
        receive: ASGI function that returns the parts of the body.
        admission: admits the request.
        limit: the deadline of the body, and then of the call.
    """

    def __init__(self, receive: Receive, admission: Admission, limit: asyncio.Timeout) -> None:
        self._receive = receive
        self._admission = admission
        self._limit = limit
        self._size = 0
        """Bytes since the deadline was set."""
        self.admitted = False
        """True while the request is a call in progress."""

    async def receive(self) -> Message:
        """Returns the next ASGI message. Raises GenerationError: TOO_MANY_CALLS."""
        message = await self._receive()
        if self.admitted or message["type"] != "http.request":
            return message
        try:
            self._take(len(message.get("body", b"")), message.get("more_body", False))
        except GenerationError as error:
            note_refusal(error)
            raise
        return message

    def _take(self, size: int, more: bool) -> None:
        self._size += size
        now = asyncio.get_running_loop().time()
        if not more:
            MEMORY.get().add(CALL_OVERHEAD)
            self._admission.take()
            self.admitted = True
            self._limit.reschedule(now + self._admission.limits.call_seconds)
        elif self._size >= _READ_BYTES:
            self._size = 0
            self._limit.reschedule(now + _BODY_SECONDS)

    def leave(self) -> None:
        """Releases the admission of the request, at its end."""
        if self.admitted:
            self._admission.leave()

    def too_late(self) -> Exception:
        """Returns the error for a body or a call that exceeded its deadline."""
        if self.admitted:
            return self._admission.too_long()
        return HTTPException(408, "the body arrives too slowly", {"connection": "close"})


class _Answering:
    """Answer that is being sent, at the pace of the client."""

    def __init__(self, send: Send, admission: Admission) -> None:
        self._send = send
        self._admission = admission
        self.started = False
        self._stalled = False

    async def send(self, message: Message) -> None:
        """Sends an ASGI message. Raises NotTaken once the client has read nothing for too long."""
        self.started = True
        if self._stalled:
            raise NotTaken
        try:
            async with self._admission.waits.wait(answered=True):
                await self._send_or_split(message)
        except GenerationError as error:
            self._stalled = True
            note_failure(error)
            raise NotTaken from None

    async def _send_or_split(self, message: Message) -> None:
        """Sends a message; ends a long answer only once the client has read the rest."""
        if len(message.get("body", b"")) > PIECE and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            message = {**message, "body": b""}
        await self._send(message)


def _foreign_site(request: Request) -> str | None:
    """Returns the origin or host of a page of another machine; None for all other requests.

    A browser always sends the Host, but no Origin with a GET of the page's own site.
    """
    origin, host = request.headers.get("origin"), request.headers.get("host")
    if request.method in _READING:
        return host if host is not None and not is_local(f"http://{host}") else None
    return origin if origin is not None and not is_local(origin) else None


def _not_local(site: str) -> HTTPException:
    """Returns the error for a page whose host name is not of this machine.

    Otherwise a foreign page whose host name resolves to loopback could call: DNS rebinding.
    """
    message = (
        f"a page of {quoted(site)} may not call a server without tokens: "
        "start it with --tokens-file FILE, --without-tokens on, or --cors-origin ORIGIN"
    )
    return HTTPException(403, message)


def _stopped(admitted: bool) -> GenerationError:
    """Returns the error for a call that the shutdown ends; an admitted call may be billed."""
    message = "the server stopped before the call ended"
    return GenerationError("", message, code="UNAVAILABLE", may_be_billed=admitted)


class Admitted:
    """Middleware that admits requests; GET and HEAD, such as for the page, need no admission.

    Args:
        app: wrapped app.
        admission: admits the requests.
        origins: origins of web pages that may call.
    """

    def __init__(self, app: ASGIApp, admission: Admission, origins: Collection[str] = ()) -> None:
        self._app = app
        self._admission = admission
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        site = _foreign_site(request) if self._admission.local else None
        if site is not None and site not in self._origins:
            await (await http_error(request, _not_local(site)))(scope, receive, send)
            return
        if request.method in _READING:
            await self._app(scope, receive, send)
            return
        try:
            note_caller(self._admission.holder(request.headers.get("authorization", "")))
        except ImagecallError as error:
            note_refusal(error)
            await (await error_response(request, error))(scope, receive, send)
            return
        memory = self._admission.budget.memory()
        MEMORY.set(memory)
        answering = _Answering(send, self._admission)
        limit = asyncio.timeout(_BODY_SECONDS)
        arriving = _Arriving(receive, self._admission, limit)
        try:
            async with limit:
                await self._app(scope, arriving.receive, answering.send)
        except TimeoutError:
            if not limit.expired():
                raise
            if not answering.started:
                late = arriving.too_late()
                answer = error_response if isinstance(late, ImagecallError) else http_error
                await (await answer(request, late))(scope, receive, send)
        except asyncio.CancelledError:
            if not answering.started:  # uvicorn would send a 500, which SDKs retry though billed.
                await (await error_response(request, _stopped(arriving.admitted)))(
                    scope, receive, send
                )
            raise
        finally:
            arriving.leave()
            memory.release()
