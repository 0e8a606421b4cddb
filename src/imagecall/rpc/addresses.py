"""Addresses of servers in command lines, settings and browsers."""

import ipaddress
from typing import Final, NamedTuple
from urllib.parse import urlsplit

_SCHEMES: Final = {"grpc://": False, "grpcs://": True}
_LOOPBACKS: Final = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}
_HIGHEST_PORT: Final = 2**16 - 1


class ServerAddress(NamedTuple):
    """Address of a server: HOST:PORT, and True for TLS."""

    target: str
    tls: bool = False


def is_address(text: str) -> bool:
    """True for a text that is HOST:PORT."""
    host, _, port = text.rpartition(":")
    number = port.isascii() and port.isdecimal() and len(port) < 10
    return bool(host) and "/" not in host and number and int(port) <= _HIGHEST_PORT


def is_loopback(host: str) -> bool:
    """True for a loopback address, which may be in brackets, or the name localhost."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def is_local(url: str) -> bool:
    """True for a URL whose host is this machine, as in an Origin or Host header."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return False
    return is_loopback(host) or host.endswith(".localhost")


def reachable(address: str) -> str:
    """Returns HOST:PORT at which this machine reaches a listener: loopback for a wildcard."""
    host, _, port = address.rpartition(":")
    return f"{_LOOPBACKS.get(host, host)}:{port}"


def server_address(text: str) -> ServerAddress:
    """Reads HOST:PORT, grpc://HOST:PORT, or grpcs://HOST:PORT for TLS. Raises ValueError."""
    scheme = next((scheme for scheme in _SCHEMES if text.startswith(scheme)), "grpc://")
    target = text.removeprefix(scheme)
    if not is_address(target):
        raise ValueError(f"{text!r} is not {scheme}HOST:PORT with a port of 0 to {_HIGHEST_PORT}")
    return ServerAddress(target, _SCHEMES[scheme])
