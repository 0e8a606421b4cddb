"""Fetches the images of which an Images API sent only the URL.

Images of the API's own origin are fetched as the API is called, with its key. Those of other hosts
are fetched if the setting allows that, without any key, and never from an address that is not
public: the host is resolved once, and the connection goes to an address that was checked.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from socket import AddressFamily
from typing import Final
from urllib.parse import urljoin

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from imagecall.access.budget import MEMORY
from imagecall.backends.http_api.body import Body
from imagecall.backends.http_api.connection import CONNECT_SECONDS, HttpApi, failures
from imagecall.errors import GenerationError, damaged_answer, too_large_answer
from imagecall.formats import image_format
from imagecall.generation.fairness import fair_turn

FETCH_SECONDS: Final = 120.0
"""Longest time to fetch an image."""

_COPIES: Final = 2
"""Copies of an image while its pieces are joined."""

_SCHEMES: Final = ("http", "https")
_EMBEDDED_IPV4: Final = (IPv6Network("64:ff9b::/96"), IPv6Network("::/96"))
"""Networks whose addresses end with an IPv4 address: NAT64 (RFC 6052), IPv4-compatible."""


class NotPublic(Exception):
    """Raised for a host without a public address."""


class ImageFetcher:
    """Fetches images by their URLs.

    Args:
        api: API that sends the URLs.
        base_url: URL of the API, to which URLs may be relative.
        others: True to fetch from other public hosts too.
        max_bytes: largest image.
        seconds: longest time to fetch an image.
    """

    def __init__(
        self,
        api: HttpApi,
        base_url: str,
        others: bool,
        max_bytes: int,
        seconds: float = FETCH_SECONDS,
    ) -> None:
        self._api = api
        self._base_url = base_url
        self._origin = _origin(URL(base_url))
        self._others = others
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._session: aiohttp.ClientSession | None = None

    def absolute(self, url: str) -> URL:
        """Returns the absolute URL. Raises GenerationError (UPSTREAM_DAMAGED) for no http URL."""
        try:
            absolute = URL(urljoin(self._base_url, url), encoded=True)  # Signatures stay valid.
            usable = absolute.scheme in _SCHEMES and bool(absolute.host) and absolute.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise damaged_answer("the url of an image is not an http URL")
        return absolute

    async def image_at(self, url: URL) -> bytes | None:
        """Fetches the image at an absolute URL. Returns None if the host is not allowed.

        The URL that is checked is the one that is requested: another parser might find another
        host in the same text. Raises GenerationError, with may_be_billed, if the fetch fails.
        """
        try:
            async with asyncio.timeout(self._seconds):
                if _origin(url) == self._origin:
                    async with self._api.get(url) as body:
                        return await self._read(body)
                if not self._others or url.user is not None or not _may_be_public(url):
                    return None
                with failures():
                    async with self._from_elsewhere(url) as body:
                        return await self._read(body)
        except NotPublic:
            return None
        except TimeoutError:
            raise _not_fetched("it takes too long") from None
        except GenerationError as error:
            raise _not_fetched(str(error)) from None

    async def close(self) -> None:
        """Closes the connections to other hosts."""
        if self._session is not None:
            await self._session.close()

    async def _read(self, body: Body) -> bytes:
        pieces: list[bytes] = []
        with MEMORY.get().part() as memory:
            while piece := await body.read():
                pieces.append(piece)
                await memory.grow(_COPIES * len(piece))
                if memory.size > _COPIES * self._max_bytes:
                    raise too_large_answer("an image", self._max_bytes)
                await fair_turn()
            image = b"".join(pieces)
        if image_format(image) is None:
            raise damaged_answer("there is no image at its url")
        return image

    @asynccontextmanager
    async def _from_elsewhere(self, url: URL) -> AsyncIterator[Body]:
        async with self._opened().get(url, allow_redirects=False) as answer:
            if answer.status != 200:
                raise damaged_answer(f"the url of an image answered {answer.status}")
            yield Body.of(answer, self._seconds, self._max_bytes)

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                auto_decompress=False,
                connector=aiohttp.TCPConnector(resolver=PublicResolver(), use_dns_cache=False),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Accept-Encoding": "identity", "User-Agent": "imagecall"},
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            )
        return self._session


class PublicResolver(AbstractResolver):
    """Resolver that returns only public addresses."""

    def __init__(self) -> None:
        self._resolver = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: AddressFamily = AddressFamily.AF_INET
    ) -> list[ResolveResult]:
        """Resolves a host. Raises NotPublic if any of its addresses is not public."""
        results = await self._resolver.resolve(host, port, family)
        if not all(is_public(result["host"]) for result in results):
            raise NotPublic
        return results

    async def close(self) -> None:
        """Closes the resolver."""
        await self._resolver.close()


def is_public(address: str) -> bool:
    """True for an IP address of the public internet, also where it embeds an IPv4 address."""
    ip = ip_address(address.partition("%")[0])
    return all(each.is_global and not each.is_multicast for each in _with_embedded(ip))


def _with_embedded(ip: IPv4Address | IPv6Address) -> list[IPv4Address | IPv6Address]:
    if isinstance(ip, IPv4Address):
        return [ip]
    if ip.ipv4_mapped is not None:
        return [ip.ipv4_mapped]
    embedded = [ip.sixtofour, *(ip.teredo or ())]
    if any(ip in network for network in _EMBEDDED_IPV4):
        embedded.append(IPv4Address(int(ip) & 0xFFFFFFFF))
    return [ip, *(each for each in embedded if each is not None)]


def _origin(url: URL) -> tuple[str, str | None, int | None]:
    return url.scheme, url.host, url.port


def _may_be_public(url: URL) -> bool:
    """False for an address that is not public; a name is checked when it is resolved."""
    try:
        return is_public(url.host or "")
    except ValueError:
        return True


def _not_fetched(cause: str) -> GenerationError:
    """Error for an image that the API has made, and that was not fetched."""
    return damaged_answer(f"an image was not fetched: {cause}")
