"""The HTTP door: the Responses API in JSON, for unmodified SDKs, before the same backends.

An ASGI app, which can stand in another one, and a server for it. What it answers is made in
imagecall.doors.http_answers.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from functools import partial
from importlib.resources import files
from math import ceil
from typing import TYPE_CHECKING, Any, Final

import msgspec
from google.protobuf import text_format
from pybase64 import b64encode
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from imagecall.backends import Backend
from imagecall.call_view import view
from imagecall.client import Happening, put_together
from imagecall.converter import from_json
from imagecall.doors.admission import Admission
from imagecall.doors.http_answers import DONE, Answers, EventAnswers, error_object, status_of
from imagecall.doors.large_answers import LargeImages
from imagecall.doors.threads import done
from imagecall.doors.unforeseen import unforeseen
from imagecall.errors import GenerationError, ImagecallError
from imagecall.formats import media_type
from imagecall.image_request import request_from_json
from imagecall.json_text import members, too_large
from imagecall.large_values import images
from imagecall.observing.asgi import Observed
from imagecall.observing.observer import Observer, note_caller, note_failure, note_refusal
from imagecall.v1.image_generation_service_pb2 import GenerateImageRequest, StreamImageRequest
from imagecall.v1.image_request_pb2 import ImageRequest

if TYPE_CHECKING:
    from imagecall.observing.metrics import Metrics

PATHS: Final = (
    "/v1/responses",
    "/api/v1/responses",
    "/api/alpha/responses",
    "/api/v1/api/alpha/responses",
)
"""Where the API is: OpenAI's, OpenRouter's, and those of OpenRouter's first SDKs."""

_CONVERT: Final = "/convert"
_METRICS: Final = "/metrics"
_JSON: Final = "application/json"
_SSE: Final = "text/event-stream"
_IDENTITY: Final = "identity"
_PAGE_POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_BODY_SECONDS: Final = 20.0
_BODY_BYTES_A_SECOND: Final = 16 * 1024
"""How long a body may take to come: so long, and a second for each so many bytes of it."""

_SMALL_BODY_BYTES: Final = 16 * 1024
"""Up to which size a body is not counted while it is read: less than its connection costs."""

_SHOWN_BYTES: Final = 64
_MAX_RETRY_SECONDS: Final = 24 * 3600
_STOPPED: Final = "the server ended the call"


def http_app(
    backend: Backend, admission: Admission | None = None, observer: Observer | None = None
) -> Starlette:
    """The app.

    `admission` says which calls are taken, and `observer` sees them; the backend is not closed.
    """
    admission = admission or Admission()
    door = _Door(backend, admission)
    metrics = observer.metrics if observer else None
    paths = {**dict.fromkeys(PATHS, True), _CONVERT: False}
    return Starlette(
        routes=[
            *(Route(path, _guarded(door.responses), methods=["POST"]) for path in PATHS),
            Route(_CONVERT, _guarded(door.convert), methods=["POST"]),
            Route("/", door.page, methods=["GET"]),
            Route("/health", door.health, methods=["GET"]),
            *([Route(_METRICS, _shown(metrics, admission), methods=["GET"])] if metrics else []),
        ],
        middleware=[
            Middleware(Observed, observer, paths),
            Middleware(_Admitted, admission),
        ],
        exception_handlers={HTTPException: _http_error, ImagecallError: _refused},
    )


Endpoint = Callable[[Request], Awaitable[Response]]


def _guarded(endpoint: Endpoint) -> Endpoint:
    """The endpoint, with an answer for what nobody foresaw, and none for a client that has gone."""

    async def guarded(request: Request) -> Response:
        try:
            return await endpoint(request)
        except (ImagecallError, HTTPException):
            raise
        except ClientDisconnect:
            return _Gone()
        except Exception as error:  # So that nothing of it is told to the client.
            return await _refused(request, unforeseen(error))

    return guarded


def _shown(metrics: "Metrics", admission: Admission) -> Endpoint:
    """GET /metrics, however many calls there are, for who has a token if one is asked for."""

    async def shown(request: Request) -> Response:
        admission.holder(request.headers.get("authorization", ""))
        text, media_type = metrics.text(request.headers.get("accept", ""))
        return Response(text, headers={"content-type": media_type})

    return shown


class _Arriving:
    """A request whose body is being read; once that is whole, it is a call in progress.

    Args:
        receive: what it comes from.
        admission: which calls are taken.
        limit: until when the body, and then the call, may take.
    """

    def __init__(self, receive: Receive, admission: Admission, limit: asyncio.Timeout) -> None:
        self._receive = receive
        self._admission = admission
        self._limit = limit
        self._begun = asyncio.get_running_loop().time()
        self._size = 0
        self._counted = False
        self.taken = False
        """Whether it is a call in progress."""

    async def receive(self) -> Message:
        """The next message. Raises GenerationError: TOO_MANY_CALLS."""
        message = await self._receive()
        if self.taken or message["type"] != "http.request":
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
            self.taken = True
            now = asyncio.get_running_loop().time()
            self._limit.reschedule(now + self._admission.limits.call_seconds)
            self._leave_body()
            return
        seconds = _BODY_SECONDS + self._size / _BODY_BYTES_A_SECOND
        self._limit.reschedule(self._begun + seconds)
        if self._size > _SMALL_BODY_BYTES and not self._counted:
            self._admission.take_body()
            self._counted = True

    def _leave_body(self) -> None:
        if self._counted:
            self._admission.leave_body()
            self._counted = False

    def leave(self) -> None:
        """To be called when it is over."""
        self._leave_body()
        if self.taken:
            self._admission.leave()

    def too_late(self) -> Exception:
        """The error for one that is past the limit."""
        if self.taken:
            return self._admission.too_long()
        return HTTPException(408, "the body comes too slowly", {"connection": "close"})


class _Admitted:
    """The app, with the calls that are taken; everyone may see the page."""

    def __init__(self, app: ASGIApp, admission: Admission) -> None:
        self._app = app
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] == "GET":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            note_caller(self._admission.holder(request.headers.get("authorization", "")))
        except ImagecallError as error:
            note_refusal(error)
            await (await _refused(request, error))(scope, receive, send)
            return
        begun = False

        async def noting(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        limit = asyncio.timeout(_BODY_SECONDS)
        arriving = _Arriving(receive, self._admission, limit)
        try:
            async with limit:
                await self._app(scope, arriving.receive, noting)
        except TimeoutError:
            if not limit.expired():
                raise
            if not begun:
                late = arriving.too_late()
                answer = _refused if isinstance(late, ImagecallError) else _http_error
                await (await answer(request, late))(scope, receive, send)
        finally:
            arriving.leave()


class _Door:
    def __init__(self, backend: Backend, admission: Admission) -> None:
        self._backend = backend
        self._admission = admission
        self._max_bytes = admission.limits.json_bytes

    async def responses(self, request: Request) -> Response:
        """POST /v1/responses, plain and as a stream."""
        body = await self._body(request)
        read = partial(request_from_json, body, max_bytes=self._max_bytes)
        wanted = await done(len(body), read)
        answers = Answers(members(body))
        if not wanted.stream:
            return await _unless_gone(request, self._answer(wanted.request, answers))
        asked = StreamImageRequest(
            request=wanted.request, include_document=True, include_other_events=True
        )
        return await _unless_gone(request, _begin(self._happenings(asked), answers.events()))

    async def _happenings(self, asked: StreamImageRequest) -> AsyncGenerator[Happening, None]:
        async with aclosing(self._backend.stream_image(asked)) as parts:
            async for happening in put_together(parts, self._max_bytes):
                yield happening

    async def _answer(self, request: ImageRequest, answers: Answers) -> Response:
        asked = GenerateImageRequest(request=request, include_document=True)
        answer = await self._backend.generate_image(asked)
        return _Whole(answers.response(answer.response), answers.images)

    async def convert(self, request: Request) -> Response:
        """POST /convert: an item as protobuf text, for the page."""
        body = await self._body(request)
        call = await done(len(body), partial(from_json, body, max_bytes=self._max_bytes))
        seen = view(call)
        image = seen.image
        size = call.ByteSize()
        note = ""
        for place in images(call):
            if len(place.value) > _SHOWN_BYTES:
                note = f"# The first {_SHOWN_BYTES} bytes of each image.\n"
                place.value = place.value[:_SHOWN_BYTES]
        shown = {
            "text": note + text_format.MessageToString(call, as_utf8=True),
            "message_bytes": size,
            "json_bytes": len(body),
            "variant": seen.variant,
            "status": seen.status,
            "media_type": media_type(image or b""),
            "image": b64encode(image).decode() if image else None,
        }
        return Response(msgspec.json.encode(shown), media_type=_JSON)

    async def health(self, request: Request) -> Response:
        """GET /health: 200, or 503 once the server is about to stop."""
        status = "NOT_SERVING" if self._admission.draining else "SERVING"
        body = msgspec.json.encode({"status": status})
        return Response(body, 503 if self._admission.draining else 200, media_type=_JSON)

    async def page(self, request: Request) -> Response:
        """GET /: a page to try it."""
        headers = {"Content-Security-Policy": _PAGE_POLICY, "X-Content-Type-Options": "nosniff"}
        page = files("imagecall.doors").joinpath("page.html").read_bytes()
        return Response(page, media_type="text/html", headers=headers)

    async def _body(self, request: Request) -> bytes:
        """The body. Raises ConversionError: TOO_LARGE before it is read whole; HTTPException."""
        declared = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if declared != _JSON:
            raise HTTPException(415, f"the Content-Type must be {_JSON}")
        if request.headers.get("content-encoding", _IDENTITY).lower() != _IDENTITY:
            raise HTTPException(415, "the body must not be compressed")
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._max_bytes:
            raise too_large(int(length), self._max_bytes)
        body = bytearray()
        async for piece in request.stream():
            body += piece
            if len(body) > self._max_bytes:
                raise too_large(len(body), self._max_bytes)
        return bytes(body)


async def _http_error(request: Request, error: Exception) -> Response:
    """What there is no route for, or not with this method."""
    assert isinstance(error, HTTPException)
    message = error.detail
    if error.status_code in (404, 405):
        message = f"{message}: the API is at POST {PATHS[0]}"
    said = {"code": error.status_code, "message": message, "type": "invalid_request", "param": None}
    return _error(said, error.status_code, dict(error.headers or {}))


async def _refused(request: Request, error: Exception) -> Response:
    """What the converters or the backend raised."""
    assert isinstance(error, ImagecallError)
    note_failure(error)
    status = status_of(error)
    headers = {}
    if error.reason == "TOKEN_REQUIRED":
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, GenerationError) and error.retry_seconds is not None:
        headers["Retry-After"] = str(max(1, min(ceil(error.retry_seconds), _MAX_RETRY_SECONDS)))
    return _error(error_object(error, status), status, headers)


def _error(said: dict[str, Any], status: int, headers: dict[str, str]) -> Response:
    body = msgspec.json.encode({"error": said})
    return Response(body, status, media_type=_JSON, headers=headers)


class _Gone(Response):
    """The answer to a client that has gone: none."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        return


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _unless_gone(request: Request, work: Awaitable[Response]) -> Response:
    """The answer that the work gives, unless the client goes before: then the work is cancelled."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.create_task(_disconnected(request.receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return await working if working.done() else _Gone()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.wait({working, leaving})
        if not working.cancelled():
            working.exception()  # If it failed as the client went: asked for, or asyncio logs it.


class _Whole(Response):
    """A JSON text with its large images."""

    def __init__(self, text: bytes, images: LargeImages) -> None:
        super().__init__(media_type=_JSON)
        self.headers["content-length"] = str(images.size(text))
        self._pieces = images.pieces(text)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        with suppress(OSError):  # The client has gone.
            for piece in self._pieces:
                await send(_piece(piece))
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _begin(happenings: AsyncGenerator[Happening, None], answers: EventAnswers) -> Response:
    """A stream, once its first event is there: until then a failure has a status of its own."""
    first = await anext(happenings)
    return _Stream(first, happenings, answers)


class _Stream(Response):
    """A stream of events, which ends when the client goes."""

    def __init__(
        self, first: Happening, rest: AsyncGenerator[Happening, None], answers: EventAnswers
    ) -> None:
        super().__init__(media_type=_SSE)
        self.headers["cache-control"] = "no-cache"
        self.headers["x-accel-buffering"] = "no"
        del self.headers["content-length"]
        self._first = first
        self._rest = rest
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def work() -> Response:
            await self._send(send)
            return _Gone()

        await _unless_gone(Request(scope, receive), work())

    async def _send(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        async with aclosing(self._rest):
            with suppress(OSError):  # The client has gone.
                try:
                    await self._say(self._first, send)
                    async for happening in self._rest:
                        await self._say(happening, send)
                except ImagecallError as error:
                    await self._say_error(error, send)
                except asyncio.CancelledError:  # The server stops, or the client has gone.
                    await self._say_error(GenerationError("", _STOPPED, code="UNAVAILABLE"), send)
                    raise
                except Exception as error:  # So that nothing of it is told to the client.
                    await self._say_error(unforeseen(error), send)
                await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _say_error(self, error: ImagecallError, send: Send) -> None:
        note_failure(error)
        await send(_piece(self._answers.error(error)))
        await send(_piece(DONE))

    async def _say(self, happening: Happening, send: Send) -> None:
        for line in self._answers.lines(happening):
            for piece in self._answers.pieces(line):
                await send(_piece(piece))


def _piece(line: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": line, "more_body": True}
