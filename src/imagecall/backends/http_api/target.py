"""Address of an HTTP API: its URL, and the proxy on the way there."""

from typing import Final, NamedTuple
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

_SCHEMES: Final = ("http", "https")


class Target(NamedTuple):
    """Address of an API.

    Attributes:
        url: URL of requests, with the query of the base URL.
        public_url: URL without the query, which may contain a key.
        proxy: URL of the proxy, which may contain a password. None: there is no proxy.
    """

    url: str
    public_url: str
    proxy: str | None


def target_of(base_url: str, path: str) -> Target:
    """Returns the address of a path below a base URL, whose query is kept behind the path.

    HTTP_PROXY, HTTPS_PROXY and NO_PROXY determine the proxy. Only credentials in the proxy's URL
    are sent to it: ~/.netrc, which aiohttp's `trust_env` reads, is not used.

    Raises ValueError for an invalid base URL or proxy.
    """
    parts = _checked(base_url)
    path = parts.path.rstrip("/") + path
    public_url = parts._replace(path=path, query="").geturl()
    return Target(parts._replace(path=path).geturl(), public_url, proxy_of(parts))


def _checked(base_url: str) -> SplitResult:
    parts = urlsplit(base_url)
    if parts.username is not None or any(map(str.isspace, base_url)):
        raise ValueError("the base URL must not have a user name or white space in it")
    if parts.scheme not in _SCHEMES or not parts.hostname or parts.fragment:
        public_url = parts._replace(query="", fragment="").geturl()
        raise ValueError(f"{public_url!r} is not a base URL such as https://openrouter.ai/api/v1")
    _ = parts.port  # Raises ValueError for an invalid port.
    parts.hostname.encode("idna")  # Raises UnicodeError, a ValueError, for an invalid host.
    return parts


def proxy_of(parts: SplitResult) -> str | None:
    """Returns the proxy for a URL. None: there is no proxy. Raises ValueError for a faulty one."""
    proxy = getproxies().get(parts.scheme)
    if not proxy or proxy_bypass(parts.netloc):
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    try:
        url = urlsplit(proxy)
        usable = url.scheme in _SCHEMES and bool(url.hostname) and url.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError(f"{parts.scheme.upper()}_PROXY is not http://HOST:PORT")
    return proxy
