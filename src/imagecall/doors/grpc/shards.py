"""Many servers of gRPC's core on one port, so that who floods one keeps few others waiting.

The core hands the calls that it took to Python one after another, those too that were reset
meanwhile, and knows no limit of resets. So each of its servers is a queue. The kernel spreads the
connections over them (SO_REUSEPORT), and Python takes a call of each in turn. A server that nobody
calls costs a descriptor and ten kilobytes.
"""

import asyncio
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Final

import grpc

from imagecall.doors.grpc.listeners import listeners, not_free, refuse, reserved

LAST_SECONDS: Final = 0.25
"""How long those who connected last have for their first call."""

_MOST_SERVERS: Final = 256
_CONNECTIONS_OF_A_SERVER: Final = 32
_DESCRIPTORS_OF_A_SERVER: Final = 16
_FEW_CONNECTIONS: Final = 2048
"""Up to how many connections are counted by one server, exactly."""

_PENDING_CALLS: Final = 100_000
_PENDING_CALLS_OF_A_SERVER: Final = 1000
"""How many calls may wait to be taken, of all and of each; past them the core cancels any."""


class Shards:
    """See the module.

    Args:
        handler: what handles the calls.
        options: of each server, for gRPC's core.
        connections: the most of them. Where there are several servers, each takes an equal part.
        share_port: whether others may listen on the same port already. Where there are several
            servers, other programs of the same user that set SO_REUSEPORT can come to it later.
    """

    def __init__(
        self,
        handler: grpc.GenericRpcHandler,
        options: Sequence[tuple[str, int]],
        connections: int,
        share_port: bool,
    ) -> None:
        count = _count(connections)
        pending = max(_PENDING_CALLS_OF_A_SERVER, _PENDING_CALLS // count)
        own = [
            *options,
            ("grpc.so_reuseport", int(share_port or count > 1)),
            ("grpc.max_allowed_incoming_connections", connections // count),
            ("grpc.server.max_pending_requests", pending),
            ("grpc.server.max_pending_requests_hard_limit", pending),
        ]
        self._servers = [grpc.aio.server(options=own) for _ in range(count)]
        for server in self._servers:
            server.add_generic_rpc_handlers((handler,))
        self._shared = share_port
        self._listening: dict[int, int] = {}

    async def start(
        self, address: str, credentials: Callable[[], grpc.ServerCredentials] | None
    ) -> str:
        """Listens; returns HOST:PORT with the port that it got. Raises OSError.

        Each of the servers is given credentials of its own.
        """
        before = listeners()
        try:
            place, port = self._listen(address, credentials)
        except OSError:
            refuse(_since(before))
            raise
        self._listening = {key: own for key, own in _since(before).items() if own == port}
        for server in self._servers:
            await server.start()
        return place

    def _listen(
        self, address: str, credentials: Callable[[], grpc.ServerCredentials] | None
    ) -> tuple[str, int]:
        port = 0
        with ExitStack() as stack:
            alone = self._shared or len(self._servers) == 1
            place = address if alone else reserved(address, stack)
            for server in self._servers:
                try:
                    if credentials:
                        port = server.add_secure_port(place, credentials())
                    else:
                        port = server.add_insecure_port(place)
                except RuntimeError:
                    raise not_free(address) from None
                place = f"{address.rpartition(':')[0]}:{port}"
        return place, port

    async def close(self, seconds: float) -> None:
        """Takes no new connections, and waits a moment, of `seconds` at most, for their calls.

        `stop` stops all at once: a call that is on its way then ends with CANCELLED, which few
        clients retry (grpc/grpc#41785).
        """
        closing, self._listening = self._listening, {}
        if closing:
            refuse(closing)
            await asyncio.sleep(min(seconds, LAST_SECONDS))

    async def stop(self, grace: float) -> None:
        """Takes no new calls, and gives those in progress `grace` seconds."""
        await asyncio.gather(*(server.stop(grace) for server in self._servers))


def _since(before: dict[int, int]) -> dict[int, int]:
    """The listeners that were not there before."""
    return dict(listeners().items() - before.items())


def _count(connections: int) -> int:
    """How many servers there are for so many connections, and the descriptors that we may have."""
    if connections <= _FEW_CONNECTIONS or not sys.platform.startswith("linux"):
        return 1  # Other systems give all connections to one of those that listen.
    import resource  # Not everywhere.

    count = min(_MOST_SERVERS, connections // _CONNECTIONS_OF_A_SERVER)
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        return count
    return max(1, min(count, descriptors // _DESCRIPTORS_OF_A_SERVER))
