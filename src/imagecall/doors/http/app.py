"""The HTTP door: the Responses API and the Images API in JSON, for unmodified SDKs.

An ASGI app that other apps can mount. imagecall.doors.http.answers makes its answers.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from functools import wraps
from typing import Final, TypeAlias

import msgspec
from google.protobuf import text_format
from google.protobuf.message import Message
from pybase64 import b64encode
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from imagecall.access.admission import Admission
from imagecall.conversion.batch import Count, parse_call, uncounted
from imagecall.conversion.view import view
from imagecall.doors.http import openapi
from imagecall.doors.http.answers import answer_pieces
from imagecall.doors.http.body import read_body
from imagecall.doors.http.calls import Calls
from imagecall.doors.http.errors import JSON, error_response, http_error
from imagecall.doors.http.event_stream import EventStream
from imagecall.doors.http.head import CheckedHead
from imagecall.doors.http.images.door import EDIT_PATHS, GENERATION_PATHS, ImagesDoor
from imagecall.doors.http.keepalive import KEEPALIVE_SECONDS
from imagecall.doors.http.middleware import Admitted
from imagecall.doors.http.models import MODELS_PATHS, Models
from imagecall.doors.http.openapi import OPENAPI_PATH
from imagecall.doors.http.page import page_of
from imagecall.doors.http.paths import CANCEL_PATHS, PATHS, STORED_PATHS
from imagecall.doors.http.responses import (
    NoResponse,
    StreamResponse,
    WholeResponse,
    unless_gone,
)
from imagecall.doors.http.stored import StoredDoor
from imagecall.doors.http.upgrade import WithoutWebSocket
from imagecall.doors.internal_error import internal_error
from imagecall.errors import ImagecallError
from imagecall.formats import media_type
from imagecall.generation.backend import Backend
from imagecall.generation.chunked_fields import image_fields
from imagecall.generation.offload import run_offloaded
from imagecall.generation.request import request_from_json
from imagecall.generation.response_keys import new_response_id, response_keys
from imagecall.json.text import members
from imagecall.observing.asgi import Observed, expect_posts
from imagecall.observing.observer import Observer
from imagecall.observing.request_id import HEADER as REQUEST_ID
from imagecall.rpc.headers import FORWARDED
from imagecall.sizes import OFFLOAD
from imagecall.turns import take_turn
from imagecall.v1.conversion_service_pb2 import Profile
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall
from imagecall.v1.image_generation_service_pb2 import (
    GenerateImageRequest,
    StreamImageRequest,
)

Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]

_CONVERT: Final = "/convert"
_PAGE: Final = "/"
_HEALTH: Final = "/health"
_PREVIEW_BYTES: Final = 64
_POSTS: Final = {
    **dict.fromkeys((*PATHS, *GENERATION_PATHS, *EDIT_PATHS), True),
    _CONVERT: False,
}
"""Observed paths of a POST, and True for those that generate images."""

_OF_STORED: Final = dict.fromkeys((*STORED_PATHS, *CANCEL_PATHS), False)
"""Observed paths of stored responses, none of which generates images."""


def http_app(
    backend: Backend,
    admission: Admission | None = None,
    observer: Observer | None = None,
    *,
    forward_headers: Collection[str] = FORWARDED,
    keepalive_seconds: float = KEEPALIVE_SECONDS,
    main_model: str | None = None,
    models: Sequence[str] = (),
    cors_origins: Collection[str] = (),
    backend_name: str = "",
) -> Starlette:
    """Returns the ASGI app, which does not close the backend.

    Args:
        backend: generates images.
        admission: admits calls within its limits.
        observer: counts and traces the calls. None: calls are not observed.
        forward_headers: names of the headers of a caller that a backend may forward.
        keepalive_seconds: longest silence of a stream.
        main_model: model that calls the image tool, for requests of the Images API. None: the
            backend needs none.
        models: ids of the models that GET /v1/models lists.
        cors_origins: origins of web pages that may call.
        backend_name: name of the backend, for the page.
    """
    admission = admission or Admission()
    count = observer.count_item if observer else uncounted
    calls = Calls(backend, admission, forward_headers)
    door = _Door(calls, keepalive_seconds, count)
    images = ImagesDoor(calls, keepalive_seconds, main_model, cors_origins)
    stored, listed = StoredDoor(calls), Models(admission, models)
    model_paths = [f"{path}/{{name:path}}" for path in MODELS_PATHS]
    if observer:
        expect_posts(observer, _POSTS)
    return Starlette(
        routes=[
            *_routes("POST", PATHS, door.responses),
            *_routes("POST", GENERATION_PATHS, images.generations),
            *_routes("POST", EDIT_PATHS, images.edits),
            *_routes("GET", STORED_PATHS, stored.get),
            *_routes("DELETE", STORED_PATHS, stored.delete),
            *_routes("POST", CANCEL_PATHS, stored.cancel),
            *_routes("POST", [_CONVERT], door.convert),
            *_routes("GET", MODELS_PATHS, listed.list),
            *_routes("GET", model_paths, listed.retrieve),
            *_routes("GET", [_PAGE], page_of(backend_name)),
            *_routes("GET", [_HEALTH], door.health),
            *_routes("GET", [OPENAPI_PATH], openapi.endpoint(admission.needs_token)),
        ],
        middleware=[
            Middleware(
                Observed, observer, {**_POSTS, **_OF_STORED}, (_PAGE, _HEALTH, OPENAPI_PATH)
            ),
            Middleware(CheckedHead, admission),
            *_cors(cors_origins),
            Middleware(WithoutWebSocket),
            Middleware(Admitted, admission, cors_origins),
        ],
        exception_handlers={HTTPException: http_error, ImagecallError: error_response},
    )


def _routes(method: str, paths: Iterable[str], endpoint: Endpoint) -> list[Route]:
    return [Route(path, _guarded(endpoint), methods=[method]) for path in paths]


def _cors(origins: Collection[str]) -> list[Middleware]:
    """Returns the middleware that lets web pages of these origins read answers."""
    if not origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=[REQUEST_ID, "retry-after", "x-should-retry"],
        )
    ]


def _guarded(endpoint: Endpoint) -> Endpoint:
    """Wraps an endpoint: 500 for an unexpected exception, no answer after a disconnect."""

    @wraps(endpoint)
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
    def __init__(self, calls: Calls, keepalive_seconds: float, count: Count) -> None:
        self._calls = calls
        self._admission = calls.admission
        self._count = count
        self._max_bytes = self._admission.limits.json_bytes
        self._keepalive_seconds = keepalive_seconds

    async def responses(self, request: Request) -> Response:
        """POST /v1/responses, plain and as a stream."""
        body = await read_body(request, self._max_bytes)
        asked, keys = await run_offloaded(len(body), self._read, body)
        self._calls.begin(request, len(body))
        if isinstance(asked, GenerateImageRequest):
            return await unless_gone(request, self._answer(asked, keys))
        arriving = self._calls.stream(asked)
        return StreamResponse(arriving, EventStream(keys), self._keepalive_seconds)

    def _read(
        self, body: bytes
    ) -> tuple[GenerateImageRequest | StreamImageRequest, dict[str, bytes]]:
        """Reads the body of a request, and the keys of its response."""
        read = request_from_json(body, max_bytes=self._max_bytes)
        take_turn()
        asked = (
            StreamImageRequest(request=read.request, include_other_events=True)
            if read.stream
            else GenerateImageRequest(request=read.request)
        )
        asked.include_document = asked.calls_once = True
        return asked, response_keys(members(body), new_response_id())

    async def _answer(self, asked: GenerateImageRequest, keys: Mapping[str, bytes]) -> Response:
        answer = await self._calls.generate(asked)
        return WholeResponse(await run_offloaded(answer.size, answer_pieces, answer, keys))

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
