"""HTTP API of an upstream service: sends requests, and yields the bodies of the answers.

A request is never sent twice. GenerationError.may_be_billed is set if the API may have begun to
bill before the error.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from io import BytesIO
from typing import Final, NamedTuple, TypeAlias, TypedDict
from urllib.parse import quote, urlsplit

import aiohttp
from yarl import URL

from imagecall.access.watched_files import WatchedFiles
from imagecall.backends.http_api.body import IDENTITY, TRANSPORT_ERRORS, Body, inflater_of
from imagecall.backends.http_api.errors import error_answer, not_understood
from imagecall.backends.http_api.target import Target, proxy_of, target_of
from imagecall.backends.masking import masked_errors
from imagecall.backends.secret_words import secrets_of
from imagecall.errors import GenerationError, damaged_answer
from imagecall.generation.call_context import CALL
from imagecall.json.text import MAX_BYTES
from imagecall.observing.observer import client_call
from imagecall.observing.operations import Operation, http_called
from imagecall.rpc.client_tls import WITHOUT_FILES, ClientTls
from imagecall.rpc.handshake import cause_of, is_refused_certificate
from imagecall.rpc.headers import AUTHORIZATION, FORWARDED, Header, by_name, forwarded, lower

CONNECT_SECONDS: Final = 10.0
IDLE_SECONDS: Final = 300.0
"""Longest silence of an API: models draw for minutes."""

_READ_BYTES: Final = 256 * 1024
_MAX_ERROR_BYTES: Final = 64 * 1024
_MAX_HEADER_BYTES: Final = 64 * 1024
_ERROR_SECONDS: Final = 2.0
"""Longest wait for the body of an error, whose status is known already."""


RequestBody: TypeAlias = bytes | aiohttp.FormData
"""Body of a request: JSON, or the fields of a form."""


_SUCCESSES: Final = {"DELETE": (200, 204)}
"""Statuses of a success, by method. Other methods: 200."""

_ID: Final = "{id}"
"""Place of an identifier in a path. Metrics and traces have this place, not the identifier."""


class Endpoint(NamedTuple):
    """Address of an API's method, and its operation for metrics and traces."""

    method: str
    target: Target
    operation: Operation

    def at(self, name: str) -> "Endpoint":
        """Returns the endpoint of one identifier, whose characters cannot change the path."""
        url = self.target.url.replace(_ID, quote(name, safe=""))
        return self._replace(target=self.target._replace(url=url))


class ApiOptions(TypedDict, total=False):
    """Arguments of HttpApi by name, for the backends that call an API."""

    headers: Sequence[Header]
    tls: ClientTls
    forward_headers: Collection[str]
    idle_seconds: float
    max_bytes: int


class HttpApi:
    """Client of an HTTP API.

    Args:
        base_url: URL of the API without the path of a method: "https://openrouter.ai/api/v1". A
            query is kept behind the path.
        api_key: bearer token of each request. "": requests have no token.
        headers: headers of each request.
        tls: files for TLS, reloaded when they change, and the name of the certificate.
        forward_headers: names of the caller's headers, or metadata, that are forwarded.
        idle_seconds: longest silence of the API before a call fails.
        max_bytes: largest answer, or event of a stream, without its images.

    Attributes:
        secrets: words to mask in texts of the API.
        idle_seconds, max_bytes: the arguments.

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
    ) -> None:
        self._base_url = base_url
        self._server_name = tls.name
        self._tls: WatchedFiles[ssl.SSLContext | bool] = WatchedFiles(
            tls.files, tls.context if tls.files else lambda: True
        )
        key = _checked_key(api_key)
        self._own = {name: (h.name, h.value) for name, h in by_name(headers, key).items()}
        if key:
            self._own[AUTHORIZATION] = ("Authorization", f"Bearer {key}")
        self._forward = lower(forward_headers)
        self.secrets = secrets_of(key, headers)
        self.idle_seconds = idle_seconds
        self.max_bytes = max_bytes
        self._session: aiohttp.ClientSession | None = None

    def endpoint(self, path: str, method: str = "POST") -> Endpoint:
        """Returns the endpoint at a path below the base URL, such as "/responses/{id}"."""
        target = target_of(self._base_url, path)
        return Endpoint(method, target, http_called(target.public_url, method))

    @asynccontextmanager
    async def request(
        self,
        endpoint: Endpoint,
        accept: str,
        body: RequestBody | None = None,
        query: Sequence[tuple[str, str]] = (),
    ) -> AsyncIterator[tuple[aiohttp.ClientResponse, Body]]:
        """Sends a request; yields the answer and its body.

        `query` is added to that of the base URL. Raises GenerationError for a failed connection,
        and for a status that is no success.
        """
        with client_call(endpoint.operation) as observed, masked_errors(self.secrets), failures():
            async with asyncio.timeout(self.idle_seconds):
                answer = await self._opened().request(
                    endpoint.method,
                    URL(endpoint.target.url).extend_query(query),
                    data=BytesIO(body) if isinstance(body, bytes) else body,
                    headers=self._headers(accept, body, observed.headers),
                    allow_redirects=False,
                    proxy=endpoint.target.proxy,
                    ssl=self._tls.get(),
                    server_hostname=self._server_name,
                )
            async with answer:
                observed.code = answer.status
                if answer.status not in _SUCCESSES.get(endpoint.method, (200,)):
                    start = await _start_of_error(answer)
                    raise error_answer(answer.status, answer.headers, start, self.secrets)
                yield answer, Body.of(answer, self.idle_seconds, self.max_bytes)

    @asynccontextmanager
    async def get(self, url: URL) -> AsyncIterator[Body]:
        """Requests a URL of the API's own origin; yields the body of the answer.

        Raises GenerationError as `request` does.
        """
        with masked_errors(self.secrets), failures():
            async with self._opened().get(
                url,
                headers=[*self._own.values()],
                allow_redirects=False,
                proxy=proxy_of(urlsplit(str(url))),
                ssl=self._tls.get(),
                server_hostname=self._server_name,
            ) as answer:
                if answer.status != 200:
                    start = await _start_of_error(answer)
                    raise error_answer(answer.status, answer.headers, start, self.secrets)
                yield Body.of(answer, self.idle_seconds, self.max_bytes)

    async def close(self) -> None:
        """Closes the connections."""
        if self._session is not None:
            await self._session.close()

    def _headers(
        self, accept: str, body: RequestBody | None, of_call: Mapping[str, str]
    ) -> list[tuple[str, str]]:
        """Headers of a request. The backend's own headers take precedence over the caller's."""
        content_type = [("Content-Type", "application/json")] if isinstance(body, bytes) else []
        own = [("Accept", accept), *content_type, *of_call.items()]
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


@contextmanager
def failures() -> Iterator[None]:
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
