"""The backend that asks a Responses API over HTTP: OpenRouter's, OpenAI's, or any other.

A call is never sent twice. Whether an error may have come after the API began to bill is said with
it, see GenerationError.may_be_billed.
"""

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Collection,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from typing import Final

import aiohttp

from imagecall.access.limits import Limits
from imagecall.backends.responses_api.errors import (
    failed,
    not_understood,
    refused,
    secrets_of,
    without_secrets,
)
from imagecall.backends.responses_api.stream import ResponseStream
from imagecall.backends.responses_api.target import target_of
from imagecall.errors import ConversionError, GenerationError, damaged_answer, too_large_answer
from imagecall.generation.backend import Part
from imagecall.generation.call_context import CALL
from imagecall.generation.fairness import LARGE, turn
from imagecall.generation.parts import in_parts
from imagecall.generation.request import request_to_json
from imagecall.generation.response import ReadResponse, end_of, ending_of, response_from_json
from imagecall.json.text import MAX_BYTES, members, parse
from imagecall.observing.observer import http_called, upstream
from imagecall.rpc.headers import AUTHORIZATION, FORWARDED, Header, by_name, forwarded, lower
from imagecall.v1.image_generation_service_pb2 import (
    GenerateImageRequest,
    GenerateImageResponse,
    StreamImageRequest,
)

CONNECT_SECONDS: Final = 10.0
IDLE_SECONDS: Final = 300.0
"""How long an API may be silent: it draws for minutes without a word."""

_READ_BYTES: Final = 256 * 1024
_LARGE_BYTES: Final = 1024 * 1024
"""The size from which an answer is read beside the event loop."""

_SLICE_BYTES: Final = 16 * 1024
_MAX_ERROR_BYTES: Final = 64 * 1024
_MAX_HEADER_BYTES: Final = 64 * 1024
_ERROR_SECONDS: Final = 2.0
"""How long the body of an error is waited for, as its status is known."""

_IDENTITY: Final = "identity"


class HttpBackend:
    """See the module.

    Args:
        base_url: the URL of the API without "/responses": "https://openrouter.ai/api/v1". A query
            is kept behind the path.
        api_key: sent as a bearer token. "": none is sent.
        headers: sent with each request.
        forward_headers: names of the headers, or metadata, of a caller that are sent too.
        idle_seconds: after how long a silence a call is given up.
        max_bytes: the limit of an answer, or of an event of a stream without its image.
        max_image_bytes: the limit of an image of a stream.

    Raises ValueError for a URL, proxy, key or header that cannot be used.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str = "",
        *,
        headers: Sequence[Header] = (),
        forward_headers: Collection[str] = FORWARDED,
        idle_seconds: float = IDLE_SECONDS,
        max_bytes: int = MAX_BYTES,
        max_image_bytes: int = Limits.image_bytes,
    ) -> None:
        self._target = target_of(base_url)
        self._operation = http_called(self._target.shown)
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
        body = request_to_json(request.request, stream=False)
        async with self._post(body, "application/json") as answer:
            read = await self._response(await self._whole(answer), answer.headers)
        end = end_of(read, 0, request.include_document)
        return GenerateImageResponse(response=end.response)

    async def stream_image(self, request: StreamImageRequest) -> AsyncGenerator[Part, None]:
        body = request_to_json(request.request, stream=True)
        async with self._post(body, "text/event-stream") as answer:
            parts = self._parts(answer, request)
            async with aclosing(parts):
                async for part in parts:
                    yield part

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    @asynccontextmanager
    async def _post(self, body: bytes, accept: str) -> AsyncIterator[aiohttp.ClientResponse]:
        """Sends a request; the answer, once it is known to be none of an error."""
        with upstream(self._operation) as hop, _failures():
            async with asyncio.timeout(self._idle_seconds):
                answer = await self._opened().post(
                    self._target.url,
                    data=body,
                    headers=self._headers(accept, hop.headers),
                    allow_redirects=False,
                    proxy=self._target.proxy,
                )
            async with answer:
                hop.code = answer.status
                await self._accept(answer)
                yield answer

    def _headers(self, accept: str, of_hop: Mapping[str, str]) -> list[tuple[str, str]]:
        """Returns the headers of a request. Those of the caller give way to others."""
        others = [("Accept", accept), ("Content-Type", "application/json"), *of_hop.items()]
        sent = forwarded(CALL.get().metadata, self._forward - self._own.keys())
        return [*others, *self._own.values(), *((name, str(value)) for name, value in sent)]

    async def _accept(self, answer: aiohttp.ClientResponse) -> None:
        """Raises GenerationError for an answer that is an error, or not as it was asked for."""
        if answer.status != 200:
            start = await _start(answer)
            raise refused(answer.status, answer.headers, start, self._secrets)
        if answer.headers.get("content-encoding", _IDENTITY).lower() != _IDENTITY:
            raise not_understood("compressed bytes, which were not asked for", may_be_billed=True)

    async def _read(self, answer: aiohttp.ClientResponse) -> bytes:
        """The next bytes of an answer; empty at its end."""
        async with asyncio.timeout(self._idle_seconds):
            return await answer.content.readany()

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                auto_decompress=False,
                connector=aiohttp.TCPConnector(limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Accept-Encoding": _IDENTITY, "User-Agent": "imagecall"},
                read_bufsize=_READ_BYTES,
                # How long it is silent is ours to measure: while a slow client keeps us from
                # reading, it is not.
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
                max_field_size=_MAX_HEADER_BYTES,
                max_line_size=_MAX_HEADER_BYTES,
            )
        return self._session

    async def _parts(
        self, answer: aiohttp.ClientResponse, request: StreamImageRequest
    ) -> AsyncGenerator[Part, None]:
        """The parts of a stream, or of a whole response of an API that does not stream."""
        first = await self._read(answer)
        while first.isspace():
            first = await self._read(answer)
        match first.lstrip()[:1]:
            case b"{" | b"[":
                read = await self._response(first + await self._whole(answer), answer.headers)
                end = end_of(read, ending_of(read.response), request.include_document)
                for part in in_parts(end):
                    yield part
                return
            case b"<":
                raise not_understood("HTML", may_be_billed=True)
        stream = ResponseStream(request, self._secrets, self._max_bytes, self._max_image_bytes)
        received = first
        while received and not stream.ended:
            for piece in _slices(received, stream):
                await (turn() if len(piece) > LARGE else asyncio.sleep(0))
                for part in stream.feed(piece):
                    yield part
            received = b"" if stream.ended else await self._read(answer)
        for part in stream.finish():
            yield part

    async def _whole(self, answer: aiohttp.ClientResponse) -> bytes:
        """The rest of an answer. Raises GenerationError: TOO_LARGE."""
        pieces: list[bytes] = []
        size = 0
        while piece := await self._read(answer):
            pieces.append(piece)
            size += len(piece)
            if size > self._max_bytes:
                raise too_large_answer("the API's answer", self._max_bytes)
        return b"".join(pieces)

    async def _response(self, body: bytes, headers: Mapping[str, str]) -> ReadResponse:
        """Reads a whole answer. Raises GenerationError, also for the error that it may be."""
        if len(body) > _LARGE_BYTES:
            return await asyncio.to_thread(self._read_response, body, headers)
        return self._read_response(body, headers)

    def _read_response(self, body: bytes, headers: Mapping[str, str]) -> ReadResponse:
        body = without_secrets(body, self._secrets)
        try:
            read = response_from_json(body, max_bytes=self._max_bytes)
        except ConversionError as error:
            if body.lstrip()[:1] == b"{":
                raise damaged_answer(f"{error.pointer or 'it'}: {error}") from None
            what = "HTML" if body.lstrip()[:1] == b"<" else "what is not JSON"
            raise not_understood(what, may_be_billed=True) from None
        raws = members(read.document.json.encode())
        if "output" in raws or raws.get("object") == b'"response"':
            return read
        if said := parse(raws.get("error", b"null")):
            raise failed(said, self._secrets, headers)
        raise not_understood("JSON without a response", may_be_billed=True)


async def _start(answer: aiohttp.ClientResponse) -> bytes:
    """What comes of the body of an error in a short time."""
    body = b""
    with suppress(TimeoutError, aiohttp.ClientError, ConnectionError):
        async with asyncio.timeout(_ERROR_SECONDS):
            while len(body) < _MAX_ERROR_BYTES and (piece := await answer.content.readany()):
                body += piece
    return body[:_MAX_ERROR_BYTES]


def _slices(received: bytes, stream: ResponseStream) -> Iterator[bytes]:
    """What was received in pieces that do not keep others waiting for long."""
    position = 0
    while position < len(received) and not stream.ended:
        end = len(received) if stream.in_string else position + _SLICE_BYTES
        yield received[position:end]
        position = end


@contextmanager
def _failures() -> Iterator[None]:
    """Turns failures of the connection into GenerationErrors; no text of theirs is shown."""
    try:
        yield
    except (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError) as error:
        message = f"there is no connection to the API: {_why(error)}"
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
        raise not_understood("what is not HTTP", may_be_billed=True) from None
    except (aiohttp.ClientError, ConnectionError):
        message = "the API closed the connection before it answered"
        raise GenerationError("UPSTREAM_DISCONNECTED", message, may_be_billed=True) from None


def _why(error: Exception) -> str:
    match error:
        case aiohttp.ClientConnectorDNSError():
            return "no such host"
        case aiohttp.ClientConnectorCertificateError():
            return "its certificate is not trusted"
        case aiohttp.ClientSSLError():
            return "TLS failed"
        case aiohttp.ClientConnectorError() if isinstance(error.os_error, ConnectionRefusedError):
            return "it was refused"
        case aiohttp.ConnectionTimeoutError():
            return "it takes too long"
    return "it failed"


def _checked_key(api_key: str) -> str:
    key = api_key.strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ValueError("the API key has characters that no key has")
    return key
