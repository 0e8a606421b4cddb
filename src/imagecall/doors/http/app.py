"""The HTTP door: the Responses API in JSON, for unmodified SDKs, before the same backends.

An ASGI app that other apps can mount. imagecall.doors.http.answers makes its answers.
"""

import time
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Collection,
    Mapping,
)
from contextlib import aclosing
from typing import Final

import msgspec
from google.protobuf import text_format
from google.protobuf.message import Message
from pybase64 import b64encode
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from imagecall.access.admission import Admission
from imagecall.access.budget import counted
from imagecall.conversion.batch import Count, parse_call, uncounted
from imagecall.conversion.view import view
from imagecall.doors.http.answers import whole_answer
from imagecall.doors.http.body import read_body
from imagecall.doors.http.errors import API, JSON, error_response, http_error
from imagecall.doors.http.event_stream import Arrived, EventStream
from imagecall.doors.http.head import CheckedHead
from imagecall.doors.http.keepalive import KEEPALIVE_SECONDS
from imagecall.doors.http.middleware import Admitted
from imagecall.doors.http.page import page
from imagecall.doors.http.responses import (
    NoResponse,
    StreamResponse,
    WholeResponse,
    unless_gone,
)
from imagecall.doors.http.upgrade import WithoutWebSocket
from imagecall.doors.internal_error import internal_error
from imagecall.errors import ImagecallError
from imagecall.formats import media_type
from imagecall.generation.assembly import ImagesApart, reassemble, size_of_part
from imagecall.generation.backend import Backend
from imagecall.generation.call_context import CALL, CallContext
from imagecall.generation.chunked_fields import image_fields
from imagecall.generation.offload import offloaded, run_offloaded
from imagecall.generation.request import ReadRequest, request_from_json
from imagecall.generation.response_keys import new_response_id, response_keys
from imagecall.json.text import members
from imagecall.observing.asgi import Observed, expect_posts
from imagecall.observing.observer import Observer
from imagecall.rpc.headers import AUTHORIZATION, FORWARDED, forwarded, lower
from imagecall.sizes import OFFLOAD
from imagecall.turns import take_turn
from imagecall.v1.conversion_service_pb2 import Profile
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall
from imagecall.v1.image_generation_service_pb2 import (
    GenerateImageRequest,
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
_PAGE: Final = "/"
_HEALTH: Final = "/health"
_PREVIEW_BYTES: Final = 64


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
        admission: admits calls within its limits.
        observer: counts and traces the calls. None: calls are not observed.
        forward_headers: names of the headers of a caller that a backend may forward.
        keepalive_seconds: longest silence of a stream.
    """
    admission = admission or Admission()
    count = observer.count_item if observer else uncounted
    door = _Door(backend, admission, forward_headers, keepalive_seconds, count)
    paths = {**dict.fromkeys(PATHS, True), _CONVERT: False}
    if observer:
        expect_posts(observer, paths)
    return Starlette(
        routes=[
            *(Route(path, _guarded(door.responses), methods=["POST"]) for path in PATHS),
            Route(_CONVERT, _guarded(door.convert), methods=["POST"]),
            Route(_PAGE, page, methods=["GET"]),
            Route(_HEALTH, door.health, methods=["GET"]),
        ],
        middleware=[
            Middleware(Observed, observer, paths, (_PAGE, _HEALTH)),
            Middleware(CheckedHead, admission),
            Middleware(WithoutWebSocket),
            Middleware(Admitted, admission),
        ],
        exception_handlers={HTTPException: http_error, ImagecallError: error_response},
    )


Endpoint = Callable[[Request], Awaitable[Response]]


def _guarded(endpoint: Endpoint) -> Endpoint:
    """Wraps an endpoint: 500 for an unexpected exception, no answer after a disconnect."""

    async def guarded(request: Request) -> Response:
        try:
            return await endpoint(request)
        except (ImagecallError, HTTPException):
            raise
        except ClientDisconnect:
            return NoResponse()
        except Exception as error:  # The text of any exception would reach the client.
            return await error_response(request, internal_error(error))

    return guarded


class _Door:
    def __init__(
        self,
        backend: Backend,
        admission: Admission,
        forward_headers: Collection[str],
        keepalive_seconds: float,
        count: Count,
    ) -> None:
        self._backend = backend
        self._admission = admission
        self._count = count
        # The token of this server is not for the upstream API.
        self._forward = lower(forward_headers) - (
            {AUTHORIZATION} if admission.needs_token else set()
        )
        self._max_bytes = admission.limits.json_bytes
        self._keepalive_seconds = keepalive_seconds

    async def responses(self, request: Request) -> Response:
        """POST /v1/responses, plain and as a stream."""
        body = await read_body(request, self._max_bytes)
        posted, keys = await run_offloaded(len(body), self._read, body)
        CALL.set(self._call_context(request))
        if not posted.stream:
            return await unless_gone(request, self._answer(posted.request, keys))
        stream_request = StreamImageRequest(
            request=posted.request, include_document=True, include_other_events=True
        )
        return StreamResponse(
            self._arriving(stream_request), EventStream(keys), self._keepalive_seconds
        )

    def _read(self, body: bytes) -> tuple[ReadRequest, dict[str, bytes]]:
        """Reads the body of a request, and the keys of its response."""
        posted = request_from_json(body, max_bytes=self._max_bytes)
        return posted, response_keys(members(body), new_response_id())

    def _call_context(self, request: Request) -> CallContext:
        """Returns the part of a request that a backend may forward."""
        connection = ",".join(request.headers.getlist("connection"))  # RFC 9110, section 7.6.1.
        names = self._forward - {name.strip().lower() for name in connection.split(",")}
        seconds = self._admission.limits.call_seconds
        return CallContext(forwarded(request.headers.items(), names), time.monotonic() + seconds)

    async def _arriving(self, request: StreamImageRequest) -> AsyncGenerator[Arrived, None]:
        large = ImagesApart()
        async with aclosing(self._backend.stream_image(request)) as parts:
            limit = self._admission.limits.image_bytes
            async for item in reassemble(counted(parts, size_of_part), limit, large.keep):
                yield Arrived(item, large.take())

    async def _answer(self, request: ImageRequest, keys: Mapping[str, bytes]) -> Response:
        generate_request = GenerateImageRequest(request=request, include_document=True)
        answer = await self._backend.generate_image(generate_request)
        return WholeResponse(await offloaded(whole_answer, answer.response, keys))

    async def convert(self, request: Request) -> Response:
        """POST /convert: converts an item to protobuf text, for the page."""
        body = await read_body(request, self._max_bytes)
        text = await run_offloaded(len(body), self._converted, body)
        return Response(text, media_type=JSON)

    def _converted(self, body: bytes) -> bytes:
        call = self._parsed(body)
        take_turn()
        values = view(call)
        image = values.image
        size = call.ByteSize()
        note = _shortened(call, size)
        result = {
            "text": note + text_format.MessageToString(call, as_utf8=True),
            "message_bytes": size,
            "json_bytes": len(body),
            "variant": values.variant,
            "status": values.status,
            "media_type": media_type(image or b""),
            "image": b64encode(image).decode() if image else None,
        }
        take_turn()
        return msgspec.json.encode(result)

    def _parsed(self, body: bytes) -> ImageGenerationCall:
        call = ImageGenerationCall()
        parse_call(call, body, "", Profile.PROFILE_UNSPECIFIED, self._max_bytes, False, self._count)
        return call

    async def health(self, request: Request) -> Response:
        """GET /health: 200, or 503 once the server is about to stop."""
        status = "NOT_SERVING" if self._admission.draining else "SERVING"
        body = msgspec.json.encode({"status": status})
        return Response(body, 503 if self._admission.draining else 200, media_type=JSON)


def _shortened(call: ImageGenerationCall, size: int) -> str:
    """Cuts the images of a call, and its texts if the call is large; returns a note on the cuts."""
    note = ""
    for place in image_fields(call):
        if len(place.value) > _PREVIEW_BYTES:
            note = f"# The first {_PREVIEW_BYTES} bytes of each image.\n"
            place.value = place.value[:_PREVIEW_BYTES]
    if size >= OFFLOAD and call.ByteSize() >= OFFLOAD:
        note += f"# The first {_PREVIEW_BYTES} characters of each text.\n"
        _cut_texts(call)
    return note


def _cut_texts(message: Message) -> None:
    for field, value in message.ListFields():
        take_turn()
        if field.type == field.TYPE_STRING and not field.is_repeated:
            setattr(message, field.name, value[:_PREVIEW_BYTES])
        elif field.type == field.TYPE_STRING:
            value[:] = [text[:_PREVIEW_BYTES] for text in value]
        elif field.type == field.TYPE_MESSAGE:
            for inner in value if field.is_repeated else [value]:
                _cut_texts(inner)
