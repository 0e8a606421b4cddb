"""The addresses that this process listens on, where gRPC's core has no word for what is wanted."""

import errno
import os
import socket
import stat
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import Any, Final

_MISSING: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""What an address is refused with that this machine does not have, such as those of IPv6."""

_ANY: Final = ("::", "0.0.0.0")  # It is the user who asks for it.
"""What "::" means to gRPC's core, which goes without IPv6 where there is none."""


def not_free(address: str) -> OSError:
    """What is raised for an address that nothing can listen on."""
    return OSError(f"cannot listen on {address}: is it free, and a HOST:PORT?")


def reserved(address: str, stack: ExitStack) -> str:
    """The address, HOST:PORT, with the port that it got, if that is 0.

    Until the end of the stack only who sets SO_REUSEPORT can listen there. Raises OSError if
    someone does already, in whatever way.
    """
    host, _, text = address.rpartition(":")
    plain = host.strip("[]")
    try:
        port = int(text)
        for name in _ANY if plain == "::" else (plain,):
            for family, *_, place in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM):
                port = _reserve(family, (place[0], port, *place[2:]), stack)
    except (OSError, ValueError, OverflowError):  # Of names that are none, too.
        raise not_free(address) from None
    return f"{host}:{port}"


def _reserve(family: int, place: Any, stack: ExitStack) -> int:
    """The port. Raises OSError."""
    try:
        reserving = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        reserving.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserving.bind(place)  # Raises if another server has it.
    except OSError as error:
        if error.errno in _MISSING:
            return int(place[1])
        raise
    reserving.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return int(reserving.getsockname()[1])


def listeners() -> dict[int, int]:
    """The descriptors that listen for connections, with their ports; none where it is not told."""
    try:
        names = os.listdir("/dev/fd")
    except OSError:
        return {}
    found = ((int(name), _port(int(name))) for name in names)
    return {descriptor: port for descriptor, port in found if port}


def refuse(found: Mapping[int, int]) -> None:
    """Refuses further connections at these listeners, if they still listen.

    A descriptor stays taken, by a socket that nothing comes to, until its owner closes it.
    """
    with suppress(OSError), socket.socket() as inert:  # There may be none left.
        for descriptor, _ in listeners().items() & found.items():
            os.dup2(inert.fileno(), descriptor, inheritable=False)


def _port(descriptor: int) -> int:
    """The port that it listens on. 0: it does not."""
    with suppress(OSError):  # It may be closed meanwhile.
        if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            with socket.socket(fileno=os.dup(descriptor)) as copy:
                if copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    return int(copy.getsockname()[1])
    return 0
