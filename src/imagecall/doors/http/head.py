"""Checks of a request's head that uvicorn lacks."""

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from imagecall.access.admission import Admission
from imagecall.doors.http.errors import http_error
from imagecall.errors import ConversionError
from imagecall.observing.observer import note_refusal

_FRAMING = frozenset({b"content-length", b"transfer-encoding"})


class CheckedHead:
    """Middleware that checks the head of a request.

    Answers 431 to a head above the limit. uvicorn limits only a head that arrives in several reads.
    """

    def __init__(self, app: ASGIApp, admission: Admission) -> None:
        self._app = app
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = scope["headers"]
        if {name for name, _ in headers} >= _FRAMING:
            send = _closing(send)
        try:
            self._admission.check_metadata([(scope["path"], scope["query_string"]), *headers])
        except ConversionError as error:
            note_refusal(error)
            answer = await http_error(Request(scope), HTTPException(431, str(error)))
            await answer(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _closing(send: Send) -> Send:
    """Closes the connection after the answer: RFC 9112, section 6.3, for two kinds of framing."""

    async def closing(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"connection", b"close")]
        await send(message)

    return closing
