"""The server of the HTTP door: connections, TLS, and how it stops."""

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from math import ceil
from typing import Any, Final, cast

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from imagecall.access.admission import Admission
from imagecall.access.certificates import Certificates
from imagecall.access.ports import not_free
from imagecall.doors.http.app import http_app
from imagecall.doors.http.keepalive import KEEPALIVE_SECONDS
from imagecall.generation.backend import Backend
from imagecall.observing.observer import Observer
from imagecall.rpc.headers import FORWARDED

_ACCEPTED_AT_ONCE: Final = 4
"""How many connections asyncio takes before others go on: what it calls the backlog."""

_BEGUN_AT_ONCE: Final = 4
"""How many of the connections that have sent something begin with it before others go on."""

_BACKLOG: Final = 2048
_HEAD_SECONDS: Final = 20.0
_LAST_WORD_SECONDS: Final = 1.0
"""Longest wait for the answers of calls that the server ended."""


class _Turns:
    """Lets a few begin in each round of the event loop, in order, however many come at once."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()

    def wait(self, begin: Callable[[], None]) -> None:
        """Has it called in its turn, in a later round."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._next)
        self._waiting.append(begin)

    def _next(self) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(min(_BEGUN_AT_ONCE, len(self._waiting))):
            loop.call_soon(self._waiting.popleft())
        if self._waiting:
            loop.call_soon(self._next)


class _Protocol(H11Protocol):
    """A connection, which must send the head of a request in time once it has begun with it.

    As long may it send the rest of a body whose request is answered already. What it sends first
    waits for its turn, so that those who connect all at once keep nobody else waiting.
    """

    _head: asyncio.TimerHandle | None = None
    _begun = False

    def __init__(self, turns: _Turns, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._turns = turns

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        if self._begun:
            self._received(data)
        else:
            self.transport.pause_reading()
            self._turns.wait(partial(self._begin, data))

    def _begin(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._begun = True
        self.transport.resume_reading()
        self._received(data)

    def _received(self, data: bytes) -> None:
        super().data_received(data)
        answered = self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY
        if self.conn.their_state is not h11.IDLE and not answered:
            self._stop_waiting()
        elif self._head is None:
            self._wait_for_head()

    def _should_upgrade(self) -> bool:
        """Leaves upgrades to the app: uvicorn logs each that it does not know."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)
        # uvicorn leaves this timer, and so all of the connection, to its end after a reset.
        self._unset_keepalive_if_required()

    def _wait_for_head(self) -> None:
        self._head = self.loop.call_later(_HEAD_SECONDS, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None


class _Server(uvicorn.Server):
    """A server that leaves signals to the program, and says when it is ready."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


class HttpServer:
    """A server of the app, or of another that it stands in, on one address.

    Args:
        address: HOST:PORT; port 0 takes a free one.
        backend: what generates images. It is not closed with the server.
        admission: which calls are taken, and with which limits.
        certificates: for TLS. None: there is none.
        share_port: whether other processes may listen on the same port.
        app: the app that the app stands in.
        observer: what sees the calls. None: nobody wants to know.
        forward_headers: names of the headers of a caller that a backend may pass on.
        keepalive_seconds: longest silence of a stream.
    """

    def __init__(
        self,
        address: str,
        backend: Backend,
        admission: Admission | None = None,
        *,
        certificates: Certificates | None = None,
        share_port: bool = False,
        app: ASGIApp | None = None,
        observer: Observer | None = None,
        forward_headers: Collection[str] = FORWARDED,
        keepalive_seconds: float = KEEPALIVE_SECONDS,
    ) -> None:
        admission = admission or Admission()
        limits = admission.limits
        host, _, port = address.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        self._address = address
        self._share_port = share_port
        config = uvicorn.Config(
            app
            or http_app(
                backend,
                admission,
                observer,
                forward_headers=forward_headers,
                keepalive_seconds=keepalive_seconds,
            ),
            http=cast(Any, partial(_Protocol, _Turns())),
            ws="none",
            access_log=False,
            log_config=None,
            lifespan="off",
            server_header=False,
            h11_max_incomplete_event_size=limits.metadata_bytes,
            limit_concurrency=limits.connections,
            backlog=_ACCEPTED_AT_ONCE,
            timeout_keep_alive=ceil(limits.idle_seconds),
        )
        config.load()
        config.ssl = certificates.for_http() if certificates else None
        self._server = _Server(config)
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> str:
        """Listens; returns HOST:PORT with the port that it got. Raises OSError."""
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        # asyncio sets TCP_NODELAY only where the protocol is named.
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self._share_port:
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listening.bind((self._host, self._port))
        except OSError:
            listening.close()
            raise not_free(self._address) from None
        self._serving = asyncio.create_task(self._server.serve([listening]))
        await self._server.ready.wait()
        listening.listen(_BACKLOG)  # After asyncio, which would take as many at once.
        return f"{self._address.rpartition(':')[0]}:{listening.getsockname()[1]}"

    async def drain(self) -> None:
        """Nothing to do: GET /health reports what the admission knows."""

    async def stop(self, grace: float) -> None:
        """Takes no new requests, and gives those in progress `grace` seconds."""
        if self._serving is None:
            return
        self._server.config.timeout_graceful_shutdown = int(grace)
        self._server.should_exit = True
        await self._serving
        if ended := self._server.server_state.tasks:  # They still say why they ended.
            await asyncio.wait(ended, timeout=_LAST_WORD_SECONDS)
