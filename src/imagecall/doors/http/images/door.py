"""Endpoints of the Images API: POST /v1/images/generations and /v1/images/edits."""

from collections.abc import Collection
from contextlib import aclosing
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from imagecall.doors.http.body import arriving_body, media_type_of, read_body
from imagecall.doors.http.calls import Calls
from imagecall.doors.http.errors import JSON
from imagecall.doors.http.images.answers import Form, ImageEvents, whole
from imagecall.doors.http.images.body import Body, body_from_form, body_from_json
from imagecall.doors.http.images.form import FORM, FormReader, Part
from imagecall.doors.http.images.generation import generate_all, stream_all
from imagecall.doors.http.images.request import ImagesRequest, read_request, require_images
from imagecall.doors.http.paths import IMAGES_API
from imagecall.doors.http.responses import StreamResponse, WholeResponse, unless_gone
from imagecall.errors import quoted
from imagecall.generation.images_api import EDIT, GENERATION
from imagecall.generation.offload import offloaded, run_offloaded

GENERATION_PATHS: Final = (IMAGES_API, "/api/v1/images", "/api/v1/images/generations")
"""Paths of OpenAI's API, and of OpenRouter's."""

EDIT_PATHS: Final = ("/v1/images/edits", "/api/v1/images/edits")
_OPENROUTER: Final = "/api/"


class ImagesDoor:
    """Endpoints of the Images API.

    Args:
        calls: calls to the backend.
        keepalive_seconds: longest silence of a stream.
        main_model: model that calls the image tool. None: the backend needs none.
        origins: origins of web pages that may send forms.
    """

    def __init__(
        self,
        calls: Calls,
        keepalive_seconds: float,
        main_model: str | None,
        origins: Collection[str],
    ) -> None:
        self._calls = calls
        self._keepalive_seconds = keepalive_seconds
        self._main_model = main_model
        self._origins = origins
        self._max_bytes = calls.admission.limits.json_bytes

    async def generations(self, request: Request) -> Response:
        """POST /v1/images/generations, plain and as a stream."""
        body = await read_body(request, self._max_bytes)
        read = await run_offloaded(len(body), self._read_json, body, GENERATION)
        self._calls.begin(request, len(body))
        return await self._answer(request, read, GENERATION)

    async def edits(self, request: Request) -> Response:
        """POST /v1/images/edits with a form or JSON, plain and as a stream."""
        if media_type_of(request) == FORM:
            self._check_origin(request)
            parts = await self._parts(request)
            read = await offloaded(self._read_form, parts)
            size = sum(part.size for part in parts)
        elif media_type_of(request) == JSON:
            body = await read_body(request, self._max_bytes)
            read = await run_offloaded(len(body), self._read_json, body, EDIT)
            size = len(body)
        else:
            raise HTTPException(415, f"the Content-Type must be {FORM} or {JSON}")
        self._calls.begin(request, size)
        return await self._answer(request, read, EDIT)

    def _check_origin(self, request: Request) -> None:
        """Raises HTTPException (403) for a form of another site.

        A browser sends a form to any server without asking the server first, unlike JSON.
        """
        origin = request.headers.get("origin")
        own = request.headers.get("host", "")
        same = (f"http://{own}", f"https://{own}", *self._origins)
        if origin is None or origin in same:
            return
        message = f"a page of {quoted(origin)} may not send forms: see --cors-origin"
        raise HTTPException(403, message)

    async def _parts(self, request: Request) -> list[Part]:
        reader = FormReader(request.headers["content-type"])
        async with aclosing(arriving_body(request, self._max_bytes)) as pieces:
            async for piece in pieces:
                await run_offloaded(len(piece), reader.write, piece)
        return reader.finish()

    def _read_json(self, text: bytes, name: str) -> ImagesRequest:
        return self._read(body_from_json(text, self._max_bytes), name)

    def _read_form(self, parts: list[Part]) -> ImagesRequest:
        return self._read(body_from_form(parts), EDIT)

    def _read(self, body: Body, name: str) -> ImagesRequest:
        if name == EDIT:
            require_images(body)
        return read_request(body, self._main_model)

    async def _answer(self, request: Request, read: ImagesRequest, name: str) -> Response:
        path = request.url.path.removeprefix(request.scope.get("root_path", ""))
        openrouter = path.startswith(_OPENROUTER)
        form = Form(name, read.settings, read.count, openrouter, read.urls)
        if not read.stream:
            return await unless_gone(request, self._whole(read, form))
        progress = stream_all(self._calls, read.request, read.count)
        return StreamResponse(progress, ImageEvents(form), self._keepalive_seconds)

    async def _whole(self, read: ImagesRequest, form: Form) -> Response:
        results = await generate_all(self._calls, read.request, read.count)
        return WholeResponse(await offloaded(whole, results, form))
