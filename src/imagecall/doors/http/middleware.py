"""ASGI middleware: token, origin, pace of the body, admission."""

import asyncio
from typing import Final
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from imagecall.access.admission import Admission
from imagecall.doors.http.errors import error_response, http_error
from imagecall.errors import GenerationError, ImagecallError, quoted
from imagecall.observing.observer import note_caller, note_refusal
from imagecall.rpc.addresses import is_loopback
from imagecall.sizes import SMALL_BODY

_BODY_SECONDS: Final = 20.0
_BODY_BYTES_A_SECOND: Final = 16 * 1024
"""Longest time for a body: 20 s, and a second for each 16 KiB of it."""


class _Arriving:
    """Request whose body is being read; with the whole body it becomes a call in progress.

    Args:
        receive: the ASGI function that the body comes from.
        admission: admits the request.
        limit: the deadline of the body, and then of the call.
    """

    def __init__(self, receive: Receive, admission: Admission, limit: asyncio.Timeout) -> None:
        self._receive = receive
        self._admission = admission
        self._limit = limit
        self._began_at = asyncio.get_running_loop().time()
        self._size = 0
        self._counted = False
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
        if not more:
            self._admission.take()
            self.admitted = True
            now = asyncio.get_running_loop().time()
            self._limit.reschedule(now + self._admission.limits.call_seconds)
            self._leave_body()
            return
        seconds = _BODY_SECONDS + self._size / _BODY_BYTES_A_SECOND
        self._limit.reschedule(self._began_at + seconds)
        if self._size > SMALL_BODY and not self._counted:
            self._admission.take_body()
            self._counted = True

    def _leave_body(self) -> None:
        if self._counted:
            self._admission.leave_body()
            self._counted = False

    def leave(self) -> None:
        """Releases the admission of the request, at its end."""
        self._leave_body()
        if self.admitted:
            self._admission.leave()

    def too_late(self) -> Exception:
        """Returns the error for a body or a call that exceeded its deadline."""
        if self.admitted:
            return self._admission.too_long()
        return HTTPException(408, "the body arrives too slowly", {"connection": "close"})


def _is_local(origin: str) -> bool:
    """True for a page of this machine."""
    try:
        host = urlsplit(origin).hostname or ""
    except ValueError:
        return False
    return is_loopback(host) or host.endswith(".localhost")


def _not_local(origin: str) -> HTTPException:
    """Returns the error for a page whose host name is not local.

    Otherwise a foreign page whose host name resolves to loopback could call: DNS rebinding.
    """
    message = (
        f"a page of {quoted(origin)} may not call a server without tokens: "
        "start it with --tokens-file FILE, or with --without-tokens on"
    )
    return HTTPException(403, message)


def _stopped(admitted: bool) -> GenerationError:
    """Returns the error for a call that the shutdown ends; an admitted call may be billed."""
    message = "the server stopped before the call ended"
    return GenerationError("", message, code="UNAVAILABLE", may_be_billed=admitted)


class Admitted:
    """Middleware that admits requests; GET requests, such as for the page, need no admission."""

    def __init__(self, app: ASGIApp, admission: Admission) -> None:
        self._app = app
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] == "GET":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        origin = request.headers.get("origin")
        if self._admission.local and origin is not None and not _is_local(origin):
            await (await http_error(request, _not_local(origin)))(scope, receive, send)
            return
        try:
            note_caller(self._admission.holder(request.headers.get("authorization", "")))
        except ImagecallError as error:
            note_refusal(error)
            await (await error_response(request, error))(scope, receive, send)
            return
        answered = False

        async def noting(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        limit = asyncio.timeout(_BODY_SECONDS)
        arriving = _Arriving(receive, self._admission, limit)
        try:
            async with limit:
                await self._app(scope, arriving.receive, noting)
        except TimeoutError:
            if not limit.expired():
                raise
            if not answered:
                late = arriving.too_late()
                answer = error_response if isinstance(late, ImagecallError) else http_error
                await (await answer(request, late))(scope, receive, send)
        except asyncio.CancelledError:
            if not answered:  # uvicorn would send a 500, which SDKs retry though it may be billed.
                await (await error_response(request, _stopped(arriving.admitted)))(
                    scope, receive, send
                )
            raise
        finally:
            arriving.leave()
