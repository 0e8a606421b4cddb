"""The HTTP door: the Responses API in JSON, for unmodified SDKs, before the same backends.

An ASGI app that other apps can mount. imagecall.doors.http.answers makes its answers.
"""

import asyncio
import time
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import aclosing, suppress
from functools import partial
from importlib.resources import files
from typing import Any, Final

import msgspec
from google.protobuf import text_format
from pybase64 import b64encode
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from imagecall.access.admission import Admission
from imagecall.conversion.converter import from_json
from imagecall.conversion.view import view
from imagecall.doors.http.answers import whole_answer
from imagecall.doors.http.body import read_body
from imagecall.doors.http.errors import API, JSON, error_response, http_error
from imagecall.doors.http.event_stream import END_OF_STREAM, Arrived, EventStream
from imagecall.doors.http.head import CheckedHead
from imagecall.doors.http.keepalive import COMMENT, KEEPALIVE_SECONDS, TimedItems, TimedSend
from imagecall.doors.http.middleware import Admitted
from imagecall.doors.http.upgrade import WithoutWebSocket
from imagecall.doors.internal_error import internal_error
from imagecall.doors.offload import run_offloaded
from imagecall.errors import GenerationError, ImagecallError
from imagecall.formats import media_type
from imagecall.generation.assembly import ImagesApart, reassemble
from imagecall.generation.backend import Backend
from imagecall.generation.call_context import CALL, CallContext
from imagecall.generation.chunked_fields import image_fields
from imagecall.generation.fairness import fair_turn
from imagecall.generation.request import request_from_json
from imagecall.generation.response_keys import new_response_id, response_keys
from imagecall.json.pieces import Piece, size_of, slices_of
from imagecall.json.text import members
from imagecall.observing.asgi import Observed
from imagecall.observing.observer import Observer, note_failure
from imagecall.rpc.headers import AUTHORIZATION, FORWARDED, forwarded, lower
from imagecall.sizes import PIECE
from imagecall.v1.image_generation_service_pb2 import (
    GenerateImageRequest,
    StreamEnd,
    StreamImageRequest,
)
from imagecall.v1.image_request_pb2 import ImageRequest

PATHS: Final = (
    API,
    "/api/v1/responses",
    "/api/alpha/responses",
    "/api/v1/api/alpha/responses",
)
"""Paths of the API: OpenAI's, OpenRouter's, and those of OpenRouter's first SDKs."""

_CONVERT: Final = "/convert"
_METRICS: Final = "/metrics"
_SSE: Final = "text/event-stream"
_PAGE_POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_SHOWN_BYTES: Final = 64
_STOPPED: Final = "the server ended the call"


def http_app(
    backend: Backend,
    admission: Admission | None = None,
    observer: Observer | None = None,
    *,
    forward_headers: Collection[str] = FORWARDED,
    keepalive_seconds: float = KEEPALIVE_SECONDS,
) -> Starlette:
    """Returns the ASGI app, which does not close the backend.

    Args:
        backend: generates images.
        admission: decides which calls are taken, and with which limits.
        observer: counts and traces the calls. None: calls are not observed.
        forward_headers: names of the headers of a caller that a backend may pass on.
        keepalive_seconds: longest silence of a stream.
    """
    admission = admission or Admission()
    door = _Door(backend, admission, forward_headers, keepalive_seconds)
    shown = observer if observer and observer.metrics else None
    paths = {**dict.fromkeys(PATHS, True), _CONVERT: False}
    return Starlette(
        routes=[
            *(Route(path, _guarded(door.responses), methods=["POST"]) for path in PATHS),
            Route(_CONVERT, _guarded(door.convert), methods=["POST"]),
            Route("/", door.page, methods=["GET"]),
            Route("/health", door.health, methods=["GET"]),
            *([Route(_METRICS, _shown(shown, admission), methods=["GET"])] if shown else []),
        ],
        middleware=[
            Middleware(Observed, observer, paths),
            Middleware(CheckedHead, admission),
            Middleware(WithoutWebSocket),
            Middleware(Admitted, admission),
        ],
        exception_handlers={HTTPException: http_error, ImagecallError: error_response},
    )


Endpoint = Callable[[Request], Awaitable[Response]]


def _guarded(endpoint: Endpoint) -> Endpoint:
    """Wraps an endpoint: 500 for an unexpected exception, no answer for a client that has gone."""

    async def guarded(request: Request) -> Response:
        try:
            return await endpoint(request)
        except (ImagecallError, HTTPException):
            raise
        except ClientDisconnect:
            return _Gone()
        except Exception as error:  # Its text must not reach the client.
            return await error_response(request, internal_error(error))

    return guarded


def _shown(observer: Observer, admission: Admission) -> Endpoint:
    """Returns the endpoint of GET /metrics: it needs a token where calls do, and no admission."""

    async def shown(request: Request) -> Response:
        admission.holder(request.headers.get("authorization", ""))
        text, media_type = observer.metrics_text(request.headers.get("accept", ""))
        return Response(text, headers={"content-type": media_type})

    return shown


class _Door:
    def __init__(
        self,
        backend: Backend,
        admission: Admission,
        forward_headers: Collection[str],
        keepalive_seconds: float,
    ) -> None:
        self._backend = backend
        self._admission = admission
        # The token of this server is not for the upstream API.
        self._forward = lower(forward_headers) - ({AUTHORIZATION} if admission.asks else set())
        self._max_bytes = admission.limits.json_bytes
        self._keepalive_seconds = keepalive_seconds

    async def responses(self, request: Request) -> Response:
        """POST /v1/responses, plain and as a stream."""
        body = await read_body(request, self._max_bytes)
        read = partial(request_from_json, body, max_bytes=self._max_bytes)
        wanted = await run_offloaded(len(body), read)
        CALL.set(self._call_context(request))
        keys = response_keys(members(body), new_response_id())
        if not wanted.stream:
            return await _unless_gone(request, self._answer(wanted.request, keys))
        asked = StreamImageRequest(
            request=wanted.request, include_document=True, include_other_events=True
        )
        return _Stream(self._arriving(asked), EventStream(keys), self._keepalive_seconds)

    def _call_context(self, request: Request) -> CallContext:
        """Returns the part of a request that a backend may pass on."""
        connection = ",".join(request.headers.getlist("connection"))  # RFC 9110, section 7.6.1.
        names = self._forward - {name.strip().lower() for name in connection.split(",")}
        seconds = self._admission.limits.call_seconds
        return CallContext(forwarded(request.headers.items(), names), time.monotonic() + seconds)

    async def _arriving(self, asked: StreamImageRequest) -> AsyncGenerator[Arrived, None]:
        large = ImagesApart()
        async with aclosing(self._backend.stream_image(asked)) as parts:
            async for item in reassemble(parts, self._max_bytes, large.keep):
                yield Arrived(item, large.take())

    async def _answer(self, request: ImageRequest, keys: Mapping[str, bytes]) -> Response:
        asked = GenerateImageRequest(request=request, include_document=True)
        answer = await self._backend.generate_image(asked)
        return _Whole(whole_answer(answer.response, keys))

    async def convert(self, request: Request) -> Response:
        """POST /convert: converts an item to protobuf text, for the page."""
        body = await read_body(request, self._max_bytes)
        call = await run_offloaded(len(body), partial(from_json, body, max_bytes=self._max_bytes))
        seen = view(call)
        image = seen.image
        size = call.ByteSize()
        note = ""
        for place in image_fields(call):
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
        return Response(msgspec.json.encode(shown), media_type=JSON)

    async def health(self, request: Request) -> Response:
        """GET /health: 200, or 503 once the server is about to stop."""
        status = "NOT_SERVING" if self._admission.draining else "SERVING"
        body = msgspec.json.encode({"status": status})
        return Response(body, 503 if self._admission.draining else 200, media_type=JSON)

    async def page(self, request: Request) -> Response:
        """GET /: serves a page for trying the API."""
        headers = {"Content-Security-Policy": _PAGE_POLICY, "X-Content-Type-Options": "nosniff"}
        page = files("imagecall.doors.http").joinpath("page.html").read_bytes()
        return Response(page, media_type="text/html", headers=headers)


class _Gone(Response):
    """Empty answer to a client that has gone."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        return


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _unless_gone(request: Request, work: Awaitable[Response]) -> Response:
    """Awaits an answer, or cancels the work when the client disconnects first."""
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
            working.exception()  # Retrieved, or asyncio logs a failure during cancellation.


class _Whole(Response):
    """Answer of a JSON text in pieces."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        super().__init__(media_type=JSON)
        self.headers["content-length"] = str(size_of(pieces))
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def work() -> Response:
            await self._send(send)
            return _Gone()

        await _unless_gone(Request(scope, receive), work())

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        with suppress(OSError):  # The client has gone.
            await _send_pieces(self._pieces, send)
            await send({"type": "http.response.body", "body": b"", "more_body": False})


class _Stream(Response):
    """Stream of server-sent events, with keepalive comments; the stream ends when the client goes.

    A failure before the first byte has an HTTP status of its own.
    """

    def __init__(
        self,
        arriving: AsyncGenerator[Arrived, None],
        events: EventStream,
        keepalive_seconds: float,
    ) -> None:
        super().__init__(media_type=_SSE)
        self.headers["cache-control"] = "no-cache"
        self.headers["x-accel-buffering"] = "no"
        del self.headers["content-length"]
        self._arriving = arriving
        self._events = events
        self._keepalive_seconds = keepalive_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def work() -> Response:
            await self._send(send)
            return _Gone()

        await _unless_gone(Request(scope, receive), work())

    async def _send(self, send: Send) -> None:
        async with aclosing(TimedItems(self._arriving)) as items:
            first = await self._first(items)
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            with suppress(OSError):  # The client has gone.
                try:
                    await self._say_all(first, items, send)
                except ImagecallError as error:
                    await self._say_error(error, send)
                except asyncio.CancelledError:  # The server stops, or the client has gone.
                    await self._say_error(GenerationError("", _STOPPED, code="UNAVAILABLE"), send)
                    raise
                except Exception as error:  # Its text must not reach the client.
                    await self._say_error(internal_error(error), send)
                await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _first(self, items: TimedItems[Arrived]) -> Arrived | None:
        """Returns the first item; None if the stream begins with a keepalive comment."""
        try:
            return await items.next(self._keepalive_seconds)
        except ImagecallError:
            raise
        except Exception as error:
            raise internal_error(error) from None

    async def _say_all(self, first: Arrived | None, items: TimedItems[Arrived], send: Send) -> None:
        timed = TimedSend(send, self._keepalive_seconds)
        item = first
        while item is None or not isinstance(item.item, StreamEnd):
            await (timed(_piece(COMMENT)) if item is None else self._say(item, timed))
            item = await items.next(timed.seconds_left)
        await self._say(item, timed)

    async def _say_error(self, error: ImagecallError, send: Send) -> None:
        note_failure(error)
        await _send_pieces([*self._events.error(error), END_OF_STREAM], send)

    async def _say(self, arrived: Arrived, send: Send) -> None:
        for line in self._events.lines(arrived):
            await _send_pieces(line, send)


async def _send_pieces(pieces: Iterable[Piece], send: Send) -> None:
    """Sends a text, and encodes its images slice by slice, with turns for other calls between."""
    for text in slices_of(pieces):
        if len(text) >= PIECE:
            await fair_turn()
        await send(_piece(text))


def _piece(line: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": line, "more_body": True}
