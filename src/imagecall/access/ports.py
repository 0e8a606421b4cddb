"""Ports that several processes share: reserved before the first of them listens."""

import errno
import socket
from contextlib import ExitStack
from typing import Any, Final

_MISSING: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""Errors of an address that this machine does not have, such as one of IPv6."""

_ANY: Final = ("::", "0.0.0.0")
"""Addresses that gRPC's core binds for "::": it falls back to IPv4 without IPv6."""


def not_free(address: str) -> OSError:
    """Builds the error for an address that a server cannot listen on."""
    return OSError(f"cannot listen on {address}: it is in use, or not a HOST:PORT of this machine")


def reserved(address: str, stack: ExitStack) -> str:
    """Reserves HOST:PORT, and returns the address with the port that the system chose for 0.

    Until the end of the stack only sockets with SO_REUSEPORT can listen there. Raises OSError if
    any socket listens there already, with SO_REUSEPORT or without.
    """
    host, _, text = address.rpartition(":")
    bare_host = host.strip("[]")
    try:
        port = int(text)
        for name in _ANY if bare_host == "::" else (bare_host,):
            for family, *_, sockaddr in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM):
                port = _reserve(family, (sockaddr[0], port, *sockaddr[2:]), stack)
    except (OSError, ValueError, OverflowError):  # Also of malformed names.
        raise not_free(address) from None
    return f"{host}:{port}"


def _reserve(family: int, sockaddr: Any, stack: ExitStack) -> int:
    """Binds a socket, and returns its port. Raises OSError."""
    try:
        reserved_socket = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        reserved_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved_socket.bind(sockaddr)  # Fails if another server listens there.
    except OSError as error:
        if error.errno in _MISSING:
            return int(sockaddr[1])
        raise
    reserved_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return int(reserved_socket.getsockname()[1])
