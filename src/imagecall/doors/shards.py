"""Many servers of gRPC's core on one port, so that who floods one keeps few others waiting.

The core hands the calls that it took to Python one after another, those too that were reset
meanwhile, and knows no limit of resets. So each of its servers is a queue. The kernel spreads the
connections over them (SO_REUSEPORT), and Python takes a call of each in turn. A server that nobody
calls costs a descriptor and ten kilobytes.
"""

import asyncio
import resource
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Final

import grpc

from imagecall.doors.listeners import close, listeners, not_free, reserved

_MOST_SERVERS: Final = 256
_CONNECTIONS_OF_A_SERVER: Final = 32
_DESCRIPTORS_OF_A_SERVER: Final = 16
_FEW_CONNECTIONS: Final = 2048
"""Up to how many connections are counted by one server, exactly."""

LAST_SECONDS: Final = 0.25
"""How long those who connected last have for their first call."""


class Shards:
    """See the module.

    Args:
        handler: what handles the calls.
        options: of each server, for gRPC's core.
        connections: the most of them. Where there are several servers, each takes an equal part.
        share_port: whether other processes may listen on the same port.
    """

    def __init__(
        self,
        handler: grpc.GenericRpcHandler,
        options: Sequence[tuple[str, int]],
        connections: int,
        share_port: bool,
    ) -> None:
        count = _count(connections)
        own = [
            *options,
            ("grpc.so_reuseport", 1),
            ("grpc.max_allowed_incoming_connections", connections // count),
        ]
        self._servers = [grpc.aio.server(options=own) for _ in range(count)]
        for server in self._servers:
            server.add_generic_rpc_handlers((handler,))
        self._share_port = share_port
        self._listening: set[int] = set()

    async def start(
        self, address: str, credentials: Callable[[], grpc.ServerCredentials] | None
    ) -> str:
        """Listens; returns HOST:PORT with the port that it got. Raises OSError.

        Each of the servers is given credentials of its own.
        """
        before = listeners()
        with ExitStack() as stack:
            place = address if self._share_port else reserved(address, stack)
            try:
                for server in self._servers:
                    if credentials:
                        port = server.add_secure_port(place, credentials())
                    else:
                        port = server.add_insecure_port(place)
                    place = f"{address.rpartition(':')[0]}:{port}"
            except RuntimeError:
                raise not_free(address) from None
        self._listening = listeners() - before
        for server in self._servers:
            await server.start()
        return place

    async def close(self, seconds: float) -> None:
        """Takes no new connections, and waits a moment, of `seconds` at most, for their calls.

        `stop` stops all at once: a call that is on its way then ends with CANCELLED, which few
        clients retry (grpc/grpc#41785).
        """
        if self._listening:
            close(self._listening)
            await asyncio.sleep(min(seconds, LAST_SECONDS))

    async def stop(self, grace: float) -> None:
        """Takes no new calls, and gives those in progress `grace` seconds."""
        await asyncio.gather(*(server.stop(grace) for server in self._servers))


def _count(connections: int) -> int:
    """How many servers there are for so many connections, and the descriptors that we may have."""
    if connections <= _FEW_CONNECTIONS:
        return 1
    count = min(_MOST_SERVERS, connections // _CONNECTIONS_OF_A_SERVER)
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        return count
    return max(1, min(count, descriptors // _DESCRIPTORS_OF_A_SERVER))
