"""Endpoints of stored responses: GET and DELETE /v1/responses/{id}, POST /v1/responses/{id}/cancel.

The answer is that of the backend. The backend checks the id.
"""

from contextlib import aclosing
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from imagecall.doors.http.answers import answer_pieces
from imagecall.doors.http.body import arriving_body
from imagecall.doors.http.calls import Calls
from imagecall.doors.http.errors import JSON
from imagecall.doors.http.responses import WholeResponse, unless_gone
from imagecall.errors import ConversionError, pointer_to, quoted
from imagecall.generation.backend import UnaryAnswer, WholeAnswer, WithResponse
from imagecall.generation.offload import run_offloaded
from imagecall.generation.response_keys import response_keys
from imagecall.v1.image_generation_service_pb2 import (
    CancelImageResponseRequest,
    DeleteImageResponseRequest,
    GetImageResponseRequest,
)

_STREAM: Final = "stream"
_INCLUDE: Final = ("include", "include[]")
"""Spellings of the parameter "include": OpenAI's SDKs add the brackets."""

_EMPTY: Final = (b"", b"{}", b"null")
"""Bodies of a POST without content."""

_OF_STORED: Final = {"store": b"true"}
"""Keys of a stored response, of which the request is not known."""


class StoredDoor:
    """Endpoints of stored responses."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._max_bytes = calls.admission.limits.json_bytes

    async def get(self, request: Request) -> Response:
        """GET /v1/responses/{id}: returns a stored response."""
        await self._begin(request)
        asked = GetImageResponseRequest(
            id=_id(request), include_document=True, include=_included(request), calls_once=True
        )
        return await unless_gone(request, self._get(asked))

    async def _get(self, asked: GetImageResponseRequest) -> Response:
        return await _response_of(await self._calls.stored.get_image_response(asked), asked.id)

    async def cancel(self, request: Request) -> Response:
        """POST /v1/responses/{id}/cancel: cancels a response that is generated in the background.

        The response is cancelled even if the client disconnects.
        """
        await self._begin(request)
        _refuse_parameters(request)
        asked = CancelImageResponseRequest(id=_id(request), include_document=True, calls_once=True)
        answer = await self._calls.stored.cancel_image_response(asked)
        return await _response_of(answer, asked.id)

    async def delete(self, request: Request) -> Response:
        """DELETE /v1/responses/{id}: deletes a stored response."""
        await self._begin(request)
        _refuse_parameters(request)
        asked = DeleteImageResponseRequest(id=_id(request))
        answer = await self._calls.stored.delete_image_response(asked)
        value = {"id": answer.id or asked.id, "object": "response", "deleted": answer.deleted}
        return Response(msgspec.json.encode(value), media_type=JSON)

    async def _begin(self, request: Request) -> None:
        """Reads the body, which is empty, and sets the context of the call."""
        async with aclosing(arriving_body(request, self._max_bytes)) as pieces:
            body = b"".join([piece async for piece in pieces])
        if body.strip() not in _EMPTY:
            text = f"a {request.method} of a stored response has no body: send none, or {{}}"
            raise ConversionError("UNSUPPORTED", "", text)
        self._calls.begin(request, len(body))


def _id(request: Request) -> str:
    name: str = request.path_params["id"]
    return name


async def _response_of(answer: UnaryAnswer[WithResponse], name: str) -> Response:
    whole, keys = WholeAnswer.of(answer), response_keys(_OF_STORED, name)
    return WholeResponse(await run_offloaded(whole.size, answer_pieces, whole, keys))


def _included(request: Request) -> list[str]:
    """Returns the values of the parameter "include". Raises ConversionError: UNSUPPORTED."""
    included = []
    for name, value in request.query_params.multi_items():
        if name in _INCLUDE:
            included.append(value)
        elif name == _STREAM and value != "false":
            text = "a stored response is not streamed: GET it again until its status is final"
            raise ConversionError("UNSUPPORTED", pointer_to(name), text)
        elif name != _STREAM:
            raise _unknown(name)
    return included


def _refuse_parameters(request: Request) -> None:
    for name in request.query_params:
        raise _unknown(name)


def _unknown(name: str) -> ConversionError:
    text = f"the parameter {quoted(name)} cannot be passed on"
    return ConversionError("UNSUPPORTED", pointer_to(name), text)
