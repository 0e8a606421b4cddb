"""The sockets of this process that listen, which gRPC's core keeps to itself.

Its server stops all at once: a call that is on its way in that moment ends with CANCELLED, which
few clients retry (grpc/grpc#41785). So nobody is let in for a while before.
"""

import os
import socket
import stat
from collections.abc import Collection
from contextlib import suppress


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
