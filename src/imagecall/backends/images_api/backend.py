"""Backend that calls an Images API over HTTP: OpenAI's, OpenRouter's, or an engine of your own.

An Images API has neither events nor ids of calls: the events are made here. A stream is requested
only for a caller that streams and requests partial images; the first bytes of the answer decide how
the answer is read.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import Final, Unpack
from urllib.parse import urlsplit

from imagecall.access.budget import MEMORY
from imagecall.access.limits import Limits
from imagecall.backends.http_api.body import (
    TRANSPORT_ERRORS,
    WHOLE_SECONDS,
    Body,
    begins_json,
    is_whole_json,
)
from imagecall.backends.http_api.connection import ApiOptions, Endpoint, HttpApi
from imagecall.backends.http_api.errors import not_understood, response_error
from imagecall.backends.http_api.sse import JsonReader, slices
from imagecall.backends.images_api.answers import ImageEvent, ImagesJson, ImagesStream, LateError
from imagecall.backends.images_api.body import Method, Sent, to_send
from imagecall.backends.images_api.fetch import ImageFetcher
from imagecall.backends.images_api.request import ImagesCall, images_call
from imagecall.backends.made_answer import parts_of, whole_response
from imagecall.errors import GenerationError
from imagecall.generation.backend import Part
from imagecall.generation.call_context import request_size
from imagecall.generation.fairness import fair_turn
from imagecall.generation.image_answer import Answer, Made
from imagecall.generation.image_events import FinalImage, ImageLink
from imagecall.generation.offload import offloaded
from imagecall.sizes import PIECE
from imagecall.v1.image_generation_service_pb2 import (
    GenerateImageRequest,
    GenerateImageResponse,
    StreamImageRequest,
)
from imagecall.v1.image_request_pb2 import ImageRequest

_OPENROUTER: Final = "openrouter.ai"
_REQUEST_COPIES: Final = 3
"""Copies of a request's images: in the request, and in the body while it is written and sent."""


class ImagesBackend:
    """Calls an Images API over HTTP.

    Args:
        base_url: URL of the API without "/images/generations": "https://api.openai.com/v1". A query
            is kept behind the path. A URL that ends with "/images", or a host of openrouter.ai,
            is an API of OpenRouter's form.
        fetch_images: True to fetch images of which the API sends a URL at another, public host.
        max_image_bytes: largest image.
        api_key, options: as of HttpApi.

    Raises ValueError for a URL, proxy, key or header that cannot be used, OSError for a faulty file
    of TLS.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str = "",
        *,
        fetch_images: bool = False,
        max_image_bytes: int = Limits.image_bytes,
        **options: Unpack[ApiOptions],
    ) -> None:
        base_url, self._is_openrouter = _form_of(base_url)
        self._api = HttpApi(base_url, api_key, **options)
        self._endpoints: Mapping[Method, Endpoint] = {
            method: self._api.endpoint(method.value) for method in Method
        }
        self._fetcher = ImageFetcher(self._api, base_url, fetch_images, max_image_bytes)
        self._max_image_bytes = max_image_bytes

    async def generate_image(self, request: GenerateImageRequest) -> GenerateImageResponse:
        answer = self._answer(request.request, streams=False)
        return await whole_response(answer, request)

    async def stream_image(self, request: StreamImageRequest) -> AsyncGenerator[Part, None]:
        answer = self._answer(request.request, streams=True)
        async with aclosing(parts_of(answer, other_events=request.include_other_events)) as parts:
            async for part in parts:
                yield part

    async def close(self) -> None:
        await self._fetcher.close()
        await self._api.close()

    async def _answer(self, request: ImageRequest, *, streams: bool) -> AsyncGenerator[Made, None]:
        with MEMORY.get().part() as memory:
            memory.add(_REQUEST_COPIES * request_size(request))
            call, sent = await offloaded(self._read, request, streams)
            answer = Answer(call.model, call.partial_images, call.id_of)
            with _in_request(call):
                async with aclosing(self._events(call, sent)) as events:
                    async for event in events:
                        if isinstance(event, LateError):
                            yield answer.failed_end(response_error(event.error))
                            return
                        for made in answer.of(event):
                            yield made
            for made in answer.end():
                yield made

    def _read(self, request: ImageRequest, streams: bool) -> tuple[ImagesCall, Sent]:
        call = images_call(request)
        return call, to_send(call, streams=streams, openrouter=self._is_openrouter)

    async def _events(self, call: ImagesCall, sent: Sent) -> AsyncGenerator[ImageEvent, None]:
        """Sends a call; yields the images and the usage of the answer. Raises GenerationError."""
        accept = "text/event-stream" if sent.streams else "application/json"
        async with self._api.request(self._endpoints[sent.method], accept, sent.body) as (
            answer,
            received,
        ):
            start = await received.beginning()
            if begins_json(start):
                events = self._of_json(call, received, start, answer.headers)
            else:
                events = self._of_stream(call, received, start)
            async with aclosing(events):
                async for event in events:
                    yield await self._fetched(event) if isinstance(event, ImageLink) else event

    async def _of_json(
        self, call: ImagesCall, body: Body, start: bytes, headers: Mapping[str, str]
    ) -> AsyncGenerator[ImageEvent, None]:
        most = max(call.count, 1) * self._max_image_bytes
        json = ImagesJson(self._api.secrets, self._api.max_bytes, most)
        with MEMORY.get().part() as memory:
            received = start
            while received:
                await memory.grow(len(received))
                for piece in slices(received, json.reader):
                    await (fair_turn() if len(piece) >= PIECE else asyncio.sleep(0))
                    json.reader.feed(piece)
                received = await self._read_on(body, json.reader)
            events: list[ImageEvent] = await offloaded(list, json.finish(headers))
            for event in events:
                yield event

    async def _read_on(self, body: Body, reader: JsonReader) -> bytes:
        """Next bytes of a JSON text; empty at its end, even if the transfer does not end."""
        if not reader.may_be_whole:
            return await body.read()
        try:
            return await body.read(min(WHOLE_SECONDS, self._api.idle_seconds))
        except TRANSPORT_ERRORS as error:
            if await offloaded(is_whole_json, reader.text):
                return b""
            if not isinstance(error, TimeoutError):
                raise
        return await body.read()

    async def _of_stream(
        self, call: ImagesCall, body: Body, start: bytes
    ) -> AsyncGenerator[ImageEvent, None]:
        if start.startswith(b"<"):
            raise not_understood("HTML", may_be_billed=True)
        stream = ImagesStream(
            call.count,
            call.partial_images,
            self._api.secrets,
            self._api.max_bytes,
            self._max_image_bytes,
        )
        received = start
        failure: Exception | None = None
        with MEMORY.get().part() as memory:
            while received and not stream.ended:
                for piece in slices(received, stream):
                    await (fair_turn() if len(piece) >= PIECE else asyncio.sleep(0))
                    await memory.grow(len(piece))
                    for event in stream.feed(piece):
                        yield event
                        memory.release()
                received = b""
                if not stream.ended:
                    try:
                        received = await body.read()
                    except TRANSPORT_ERRORS as error:
                        failure = error
        try:
            for event in stream.finish():
                yield event
        except GenerationError as error:
            raise failure or error from None

    async def _fetched(self, link: ImageLink) -> FinalImage | ImageLink:
        """Fetches the image of a link; returns the link with an absolute URL if not allowed."""
        url = self._fetcher.absolute(link.url)
        settings = {name: value for name, value in vars(link).items() if name != "url"}
        image = await self._fetcher.image_at(url)
        return ImageLink(str(url), **settings) if image is None else FinalImage(image, **settings)


@contextmanager
def _in_request(call: ImagesCall) -> Iterator[None]:
    """Gives an error of the API the pointer of its culprit in the request."""
    try:
        yield
    except GenerationError as error:
        error.pointer = call.place_of(error.pointer)
        raise


def _form_of(base_url: str) -> tuple[str, bool]:
    """Base URL without "/images", and True for an API of OpenRouter's form."""
    parts = urlsplit(base_url)
    path = parts.path.rstrip("/")
    if path.endswith(Method.OPENROUTER.value):
        path = path.removesuffix(Method.OPENROUTER.value)
        return parts._replace(path=path).geturl(), True
    return base_url, f".{parts.hostname or ''}".endswith(f".{_OPENROUTER}")
