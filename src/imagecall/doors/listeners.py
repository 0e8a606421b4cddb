"""The addresses that this process listens on, where gRPC's core has no word for what is wanted."""

import errno
import os
import socket
import stat
from collections.abc import Collection
from contextlib import ExitStack, suppress
from typing import Any, Final

_MISSING: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""What an address is refused with that this machine does not have, such as those of IPv6."""


def not_free(address: str) -> OSError:
    """What is raised for an address that nothing can listen on."""
    return OSError(f"cannot listen on {address}: is it free, and a HOST:PORT?")


def reserved(address: str, stack: ExitStack) -> str:
    """The address, HOST:PORT, with the port that it got, if that is 0.

    Until the end of the stack only who sets SO_REUSEPORT can listen there. Raises OSError if
    someone does already, in whatever way.
    """
    host, _, text = address.rpartition(":")
    port = int(text)
    try:
        found = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, *_, place in found:
            port = _reserve(family, (place[0], port, *place[2:]), stack)
    except OSError:
        raise not_free(address) from None
    return f"{host}:{port}"


def _reserve(family: int, place: Any, stack: ExitStack) -> int:
    """The port. Raises OSError."""
    reserving = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
    reserving.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        reserving.bind(place)  # Raises if another server has it.
    except OSError as error:
        if error.errno in _MISSING:
            return int(place[1])
        raise
    reserving.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return int(reserving.getsockname()[1])


def listeners() -> set[int]:
    """The descriptors that listen for connections; none where that cannot be seen."""
    try:
        names = os.listdir("/dev/fd")
    except OSError:
        return set()
    return {int(name) for name in names if _listens(int(name))}


def close(descriptors: Collection[int]) -> None:
    """Refuses further connections at these, if they still listen.

    The number stays taken, by a socket that nothing comes to, until its owner closes it.
    """
    for descriptor in listeners().intersection(descriptors):
        with socket.socket() as inert:
            os.dup2(inert.fileno(), descriptor, inheritable=False)


def _listens(descriptor: int) -> bool:
    with suppress(OSError):  # It may be closed meanwhile.
        if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            with socket.socket(fileno=os.dup(descriptor)) as copy:
                return bool(copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    return False
