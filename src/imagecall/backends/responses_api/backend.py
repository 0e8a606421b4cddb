"""Backend that calls a Responses API over HTTP: OpenRouter's, OpenAI's, or any other.

An API may answer a unary request with a stream, and a streaming request with one response: the
first bytes of the answer decide how the answer is read.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Final, Unpack

from aiohttp import ClientResponse

from imagecall.access.budget import COPIES, counted
from imagecall.access.limits import Limits
from imagecall.backends.http_api.body import TRANSPORT_ERRORS, Body, begins_json
from imagecall.backends.http_api.connection import ApiOptions, HttpApi
from imagecall.backends.http_api.errors import error_event, not_understood
from imagecall.backends.http_api.sse import slices
from imagecall.backends.responses_api.stream import ResponseStream
from imagecall.backends.secret_words import without_secrets
from imagecall.errors import ConversionError, GenerationError, damaged_answer
from imagecall.generation.assembly import reassemble, size_of_part
from imagecall.generation.backend import Part, WithResponse
from imagecall.generation.composition import compose
from imagecall.generation.fairness import fair_turn
from imagecall.generation.offload import offloaded, run_offloaded
from imagecall.generation.parts import in_parts
from imagecall.generation.request import request_to_json
from imagecall.generation.response import (
    ReadResponse,
    end_of,
    ending_of,
    response_from_json,
    whole_of,
)
from imagecall.generation.stored_responses import OfStored, checked_id, costs_nothing
from imagecall.json.text import parse
from imagecall.sizes import PIECE
from imagecall.v1.image_generation_service_pb2 import (
    CancelImageResponseRequest,
    CancelImageResponseResponse,
    DeleteImageResponseRequest,
    DeleteImageResponseResponse,
    GenerateImageRequest,
    GenerateImageResponse,
    GetImageResponseRequest,
    GetImageResponseResponse,
    StreamImageRequest,
)
from imagecall.v1.image_request_pb2 import ImageRequest

_JSON: Final = "application/json"
_SSE: Final = "text/event-stream"
_INCLUDE: Final = "include[]"
"""Parameter of a GET, in the spelling of OpenAI's SDKs."""


class HttpBackend:
    """Calls a Responses API over HTTP.

    Args:
        base_url: URL of the API without "/responses": "https://openrouter.ai/api/v1". A query
            is kept behind the path.
        max_image_bytes: largest image of a stream.
        api_key, options: as of HttpApi.

    Raises ValueError for a URL, proxy, key or header that cannot be used, OSError for a faulty file
    of TLS.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str = "",
        *,
        max_image_bytes: int = Limits.image_bytes,
        **options: Unpack[ApiOptions],
    ) -> None:
        self._api = HttpApi(base_url, api_key, **options)
        self._endpoint = self._api.endpoint("/responses")
        self._stored = {
            GetImageResponseRequest: self._api.endpoint("/responses/{id}", "GET"),
            CancelImageResponseRequest: self._api.endpoint("/responses/{id}/cancel"),
            DeleteImageResponseRequest: self._api.endpoint("/responses/{id}", "DELETE"),
        }
        self._secrets = self._api.secrets
        self._max_image_bytes = max_image_bytes

    async def generate_image(self, request: GenerateImageRequest) -> GenerateImageResponse:
        body = await _body_of(request.request, stream=False)
        async with self._api.request(self._endpoint, _JSON, body) as (answer, received):
            start = await received.beginning()
            if begins_json(start):
                read = await self._response(received, start, answer.headers)
                return await offloaded(whole_of, GenerateImageResponse, read, request)
            return await self._composed(received, start, request)

    async def stream_image(self, request: StreamImageRequest) -> AsyncGenerator[Part, None]:
        body = await _body_of(request.request, stream=True)
        async with self._api.request(self._endpoint, _SSE, body) as (answer, received):
            start = await received.beginning()
            if begins_json(start):
                read = await self._response(received, start, answer.headers)
                ending = ending_of(read.response)
                end = await offloaded(end_of, read, ending, request)
                for part in in_parts(end):
                    yield part
                return
            parts = self._parts(received, start, request, self._max_image_bytes)
            async with aclosing(parts):
                async for part in parts:
                    yield part

    async def get_image_response(
        self, request: GetImageResponseRequest
    ) -> GetImageResponseResponse:
        query = [(_INCLUDE, value) for value in request.include]
        return await self._stored_response(GetImageResponseResponse, request, query)

    async def cancel_image_response(
        self, request: CancelImageResponseRequest
    ) -> CancelImageResponseResponse:
        return await self._stored_response(CancelImageResponseResponse, request)

    async def delete_image_response(
        self, request: DeleteImageResponseRequest
    ) -> DeleteImageResponseResponse:
        async with self._of_stored(request) as (answer, received):
            text = await received.whole_json(await received.beginning())
            return self._deletion(request.id, text, answer.headers)

    async def close(self) -> None:
        await self._api.close()

    async def _stored_response(
        self,
        kind: type[WithResponse],
        request: GetImageResponseRequest | CancelImageResponseRequest,
        query: Sequence[tuple[str, str]] = (),
    ) -> WithResponse:
        async with self._of_stored(request, query) as (answer, received):
            read = await self._response(received, await received.beginning(), answer.headers)
            return await offloaded(whole_of, kind, read, request)

    @asynccontextmanager
    async def _of_stored(
        self, request: OfStored, query: Sequence[tuple[str, str]] = ()
    ) -> AsyncIterator[tuple[ClientResponse, Body]]:
        """Sends a request that concerns a stored response; yields the answer and its body."""
        endpoint = self._stored[type(request)].at(checked_id(request.id))
        with costs_nothing():
            async with self._api.request(endpoint, _JSON, query=query) as received:
                yield received

    async def _parts(
        self, body: Body, start: bytes, request: StreamImageRequest, max_image_bytes: int
    ) -> AsyncGenerator[Part, None]:
        """Yields the parts of a stream. Raises GenerationError."""
        if start.startswith(b"<"):
            raise not_understood("HTML", may_be_billed=True)
        stream = ResponseStream(request, self._secrets, self._api.max_bytes, max_image_bytes)
        received = start
        failure: Exception | None = None
        while received and not stream.ended:
            for piece in slices(received, stream):
                await (fair_turn() if len(piece) >= PIECE else asyncio.sleep(0))
                for part in stream.feed(piece):
                    yield part
            received = b""
            if not stream.ended:
                try:
                    received = await body.read()
                except TRANSPORT_ERRORS as error:
                    failure = error
        try:
            for part in stream.finish():
                yield part
        except GenerationError as error:
            raise failure or error from None

    async def _composed(
        self, body: Body, start: bytes, request: GenerateImageRequest
    ) -> GenerateImageResponse:
        """Composes one response from the stream with which an API answered."""
        stream_request = StreamImageRequest(
            request=request.request, include_document=request.include_document
        )
        async with aclosing(self._parts(body, start, stream_request, self._api.max_bytes)) as parts:
            held = counted(parts, size_of_part, COPIES)
            items = [item async for item in reassemble(held, self._api.max_bytes)]
        return await offloaded(compose, items, request)

    async def _response(self, body: Body, start: bytes, headers: Mapping[str, str]) -> ReadResponse:
        """Reads a whole answer. Raises GenerationError, also for an error sent with status 200."""
        text = await body.whole_json(start)
        return await run_offloaded(len(text), self._read_response, text, headers)

    def _deletion(
        self, name: str, text: bytes, headers: Mapping[str, str]
    ) -> DeleteImageResponseResponse:
        """Reads the answer to a deletion. Raises GenerationError."""
        try:
            value = parse(without_secrets(text, self._secrets) or b"{}")
        except ConversionError:
            raise not_understood("a body that is not JSON") from None
        if not isinstance(value, dict):
            raise not_understood("JSON without a deletion")
        if error := value.get("error"):
            raise error_event(error, self._secrets, headers)
        return DeleteImageResponseResponse(
            id=str(value.get("id") or name), deleted=value.get("deleted", True) is True
        )

    def _read_response(self, body: bytes, headers: Mapping[str, str]) -> ReadResponse:
        body = without_secrets(body, self._secrets)
        try:
            read = response_from_json(body, max_bytes=self._api.max_bytes)
        except ConversionError as error:
            if body.startswith(b"{"):
                raise damaged_answer(f"{error.pointer or 'it'}: {error}") from None
            raise not_understood("a body that is not JSON", may_be_billed=True) from None
        value = parse(read.document.json.encode())
        if "output" in value or value.get("object") == "response":
            return read
        error_value = value.get("error") or value
        if error_value is value and not (value.get("message") or value.get("detail")):
            raise not_understood("JSON without a response", may_be_billed=True)
        raise error_event(error_value, self._secrets, headers)


async def _body_of(request: ImageRequest, *, stream: bool) -> bytes:
    return await offloaded(partial(request_to_json, request, stream=stream))
