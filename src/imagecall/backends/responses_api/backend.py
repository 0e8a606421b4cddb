"""Backend that calls a Responses API over HTTP: OpenRouter's, OpenAI's, or any other.

A call is never sent twice. GenerationError.may_be_billed is set if the API may have begun to bill
before the error. An API may answer a unary request with a stream, and a streaming request with one
response: the first bytes of the answer decide how the answer is read.
"""

import asyncio
import ssl
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Collection,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Final

import aiohttp

from imagecall.access.budget import COPIES, counted
from imagecall.access.limits import Limits
from imagecall.access.watched_files import WatchedFiles
from imagecall.backends.masking import masked_errors
from imagecall.backends.responses_api.body import IDENTITY, TRANSPORT_ERRORS, Body, inflater_of
from imagecall.backends.responses_api.errors import (
    error_answer,
    error_event,
    not_understood,
)
from imagecall.backends.responses_api.stream import ResponseStream
from imagecall.backends.responses_api.target import target_of
from imagecall.backends.secret_words import secrets_of, without_secrets
from imagecall.errors import ConversionError, GenerationError, damaged_answer
from imagecall.generation.assembly import reassemble, size_of_part
from imagecall.generation.backend import Part
from imagecall.generation.call_context import CALL
from imagecall.generation.composition import compose
from imagecall.generation.fairness import fair_turn
from imagecall.generation.offload import offloaded, run_offloaded
from imagecall.generation.parts import in_parts
from imagecall.generation.request import request_to_json
from imagecall.generation.response import ReadResponse, end_of, ending_of, response_from_json
from imagecall.json.text import MAX_BYTES, parse
from imagecall.observing.observer import client_call
from imagecall.observing.operations import http_called
from imagecall.rpc.client_tls import WITHOUT_FILES, ClientTls
from imagecall.rpc.handshake import cause_of, is_refused_certificate
from imagecall.rpc.headers import AUTHORIZATION, FORWARDED, Header, by_name, forwarded, lower
from imagecall.sizes import FOLLOWED, PIECE
from imagecall.v1.image_generation_service_pb2 import (
    GenerateImageRequest,
    GenerateImageResponse,
    StreamImageRequest,
)
from imagecall.v1.image_request_pb2 import ImageRequest
from imagecall.v1.image_response_pb2 import ImageResponse

CONNECT_SECONDS: Final = 10.0
IDLE_SECONDS: Final = 300.0
"""Longest silence of an API: models draw for minutes."""

_READ_BYTES: Final = 256 * 1024
_MAX_ERROR_BYTES: Final = 64 * 1024
_MAX_HEADER_BYTES: Final = 64 * 1024
_ERROR_SECONDS: Final = 2.0
"""Longest wait for the body of an error, whose status is known already."""


class HttpBackend:
    """Calls a Responses API over HTTP.

    Args:
        base_url: URL of the API without "/responses": "https://openrouter.ai/api/v1". A query
            is kept behind the path.
        api_key: bearer token of each request. "": requests have no token.
        headers: headers of each request.
        tls: files for TLS, reloaded when they change, and the name of the certificate.
        forward_headers: names of the caller's headers, or metadata, that are forwarded.
        idle_seconds: longest silence of the API before a call fails.
        max_bytes: largest answer, or event of a stream without its image.
        max_image_bytes: largest image of a stream.

    Raises ValueError for a URL, proxy, key or header that cannot be used, OSError for a faulty file
    of TLS.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str = "",
        *,
        headers: Sequence[Header] = (),
        tls: ClientTls = WITHOUT_FILES,
        forward_headers: Collection[str] = FORWARDED,
        idle_seconds: float = IDLE_SECONDS,
        max_bytes: int = MAX_BYTES,
        max_image_bytes: int = Limits.image_bytes,
    ) -> None:
        self._target = target_of(base_url)
        self._server_name = tls.name
        self._tls: WatchedFiles[ssl.SSLContext | bool] = WatchedFiles(
            tls.files, tls.context if tls.files else lambda: True
        )
        self._operation = http_called(self._target.public_url)
        key = _checked_key(api_key)
        self._own = {name: (h.name, h.value) for name, h in by_name(headers, key).items()}
        if key:
            self._own[AUTHORIZATION] = ("Authorization", f"Bearer {key}")
        self._forward = lower(forward_headers)
        self._secrets = secrets_of(key, headers)
        self._idle_seconds = idle_seconds
        self._max_bytes = max_bytes
        self._max_image_bytes = max_image_bytes
        self._session: aiohttp.ClientSession | None = None

    async def generate_image(self, request: GenerateImageRequest) -> GenerateImageResponse:
        body = await _body_of(request.request, stream=False)
        async with self._post(body, "application/json") as (answer, received):
            start = await received.beginning()
            if _is_json(start):
                read = await self._response(received, start, answer.headers)
                response = (await offloaded(end_of, read, 0, request.include_document)).response
            else:
                response = await self._composed(received, start, request)
        return GenerateImageResponse(response=response)

    async def stream_image(self, request: StreamImageRequest) -> AsyncGenerator[Part, None]:
        body = await _body_of(request.request, stream=True)
        async with self._post(body, "text/event-stream") as (answer, received):
            start = await received.beginning()
            if _is_json(start):
                read = await self._response(received, start, answer.headers)
                ending = ending_of(read.response)
                end = await offloaded(end_of, read, ending, request.include_document)
                for part in in_parts(end):
                    yield part
                return
            parts = self._parts(received, start, request, self._max_image_bytes)
            async with aclosing(parts):
                async for part in parts:
                    yield part

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    @asynccontextmanager
    async def _post(
        self, body: bytes, accept: str
    ) -> AsyncIterator[tuple[aiohttp.ClientResponse, Body]]:
        """Sends a request; yields the answer and its body.

        Raises GenerationError for a failed connection, and for a status other than 200.
        """
        with client_call(self._operation) as observed, masked_errors(self._secrets), _failures():
            async with asyncio.timeout(self._idle_seconds):
                answer = await self._opened().post(
                    self._target.url,
                    data=body,
                    headers=self._headers(accept, observed.headers),
                    allow_redirects=False,
                    proxy=self._target.proxy,
                    ssl=self._tls.get(),
                    server_hostname=self._server_name,
                )
            async with answer:
                observed.code = answer.status
                if answer.status != 200:
                    start = await _start_of_error(answer)
                    raise error_answer(answer.status, answer.headers, start, self._secrets)
                inflater = inflater_of(answer)
                yield answer, Body(answer, inflater, self._idle_seconds, self._max_bytes)

    def _headers(self, accept: str, of_call: Mapping[str, str]) -> list[tuple[str, str]]:
        """Headers of a request. The backend's own headers take precedence over the caller's."""
        own = [("Accept", accept), ("Content-Type", "application/json"), *of_call.items()]
        of_caller = forwarded(CALL.get().metadata, self._forward - self._own.keys())
        return [*own, *self._own.values(), *((name, str(value)) for name, value in of_caller)]

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                auto_decompress=False,
                connector=aiohttp.TCPConnector(limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Accept-Encoding": IDENTITY, "User-Agent": "imagecall"},
                read_bufsize=_READ_BYTES,
                # Body measures the silence of the API: aiohttp's timeout would also count the
                # time in which a slow client keeps this process from reading.
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
                max_field_size=_MAX_HEADER_BYTES,
                max_line_size=_MAX_HEADER_BYTES,
            )
        return self._session

    async def _parts(
        self, body: Body, start: bytes, request: StreamImageRequest, max_image_bytes: int
    ) -> AsyncGenerator[Part, None]:
        """Yields the parts of a stream. Raises GenerationError."""
        if start.startswith(b"<"):
            raise not_understood("HTML", may_be_billed=True)
        stream = ResponseStream(request, self._secrets, self._max_bytes, max_image_bytes)
        received = start
        failure: Exception | None = None
        while received and not stream.ended:
            for piece in _slices(received, stream):
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
    ) -> ImageResponse:
        """Composes one response from the stream with which an API answered."""
        stream_request = StreamImageRequest(
            request=request.request, include_document=request.include_document
        )
        async with aclosing(self._parts(body, start, stream_request, self._max_bytes)) as parts:
            items = [
                item
                async for item in reassemble(counted(parts, size_of_part, COPIES), self._max_bytes)
            ]
        return compose(items, request.include_document)

    async def _response(self, body: Body, start: bytes, headers: Mapping[str, str]) -> ReadResponse:
        """Reads a whole answer. Raises GenerationError, also for an error sent with status 200."""
        text = await body.whole_json(start)
        return await run_offloaded(len(text), self._read_response, text, headers)

    def _read_response(self, body: bytes, headers: Mapping[str, str]) -> ReadResponse:
        body = without_secrets(body, self._secrets)
        try:
            read = response_from_json(body, max_bytes=self._max_bytes)
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


async def _start_of_error(answer: aiohttp.ClientResponse) -> bytes:
    """Start of the body of an error that arrives in time; undecoded in an unknown encoding."""
    inflater = None
    with suppress(GenerationError):
        inflater = inflater_of(answer)
    body = Body(answer, inflater, _ERROR_SECONDS, _MAX_ERROR_BYTES)
    start = b""
    with suppress(GenerationError, *TRANSPORT_ERRORS):
        async with asyncio.timeout(_ERROR_SECONDS):
            while len(start) < _MAX_ERROR_BYTES and (piece := await body.read()):
                start += piece
    return start[:_MAX_ERROR_BYTES]


def _is_json(start: bytes) -> bool:
    """True for the start of a JSON body, false for that of a stream of events."""
    return start[:1] in (b"{", b"[")


def _slices(received: bytes, stream: ResponseStream) -> Iterator[bytes]:
    """Received bytes in pieces that delay other calls only briefly."""
    position = 0
    while position < len(received) and not stream.ended:
        end = len(received) if stream.in_string else position + FOLLOWED
        yield received[position:end]
        position = end


async def _body_of(request: ImageRequest, *, stream: bool) -> bytes:
    return await offloaded(partial(request_to_json, request, stream=stream))


@contextmanager
def _failures() -> Iterator[None]:
    """Turns exceptions of aiohttp into GenerationErrors, without the text of the exception."""
    try:
        yield
    except (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError) as error:
        message = f"there is no connection to the API: {_cause_of(error)}"
        raise GenerationError("UPSTREAM_UNREACHABLE", message) from None
    except (TimeoutError, aiohttp.SocketTimeoutError):
        message = "the API was silent for too long"
        raise GenerationError("UPSTREAM_TIMEOUT", message, may_be_billed=True) from None
    except aiohttp.ClientPayloadError:
        raise damaged_answer("it ends in the middle") from None
    except aiohttp.ClientHttpProxyError as error:
        message = f"there is no connection to the API: its proxy answered {error.status}"
        raise GenerationError("UPSTREAM_UNREACHABLE", message) from None
    except aiohttp.ClientResponseError:
        raise not_understood("bytes that are not HTTP", may_be_billed=True) from None
    except (aiohttp.ClientError, ConnectionError) as error:
        if isinstance(error, aiohttp.ClientOSError) and is_refused_certificate(str(error)):
            message = f"there is no connection to the API: {cause_of(str(error), tls=True)}"
            raise GenerationError("UPSTREAM_UNREACHABLE", message) from None
        message = "the API closed the connection before it answered"
        raise GenerationError("UPSTREAM_DISCONNECTED", message, may_be_billed=True) from None


def _cause_of(error: Exception) -> str:
    """Short phrase for the cause of a failed connection."""
    match error:
        case aiohttp.ClientConnectorDNSError():
            return "no such host"
        case aiohttp.ClientConnectorCertificateError() as failed:
            return cause_of(str(failed.certificate_error), tls=True)
        case aiohttp.ClientConnectorSSLError() as failed:
            return cause_of(str(failed.os_error), tls=True) or "TLS failed"
        case aiohttp.ClientConnectorError() if isinstance(error.os_error, ConnectionRefusedError):
            return "it was refused"
        case aiohttp.ConnectionTimeoutError():
            return "it takes too long"
    return "it failed"


def _checked_key(api_key: str) -> str:
    key = api_key.strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ValueError("the API key has characters other than printable ASCII, or a space")
    return key
