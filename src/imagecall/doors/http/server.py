"""Server of the HTTP door: connections, TLS and shutdown."""

import asyncio
import socket
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from math import ceil
from typing import Any, Final

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

_ERROR_ANSWER_SECONDS: Final = 1.0
"""Longest wait for the error answers of calls that the server ended."""


class _Connection(H11Protocol):
    """uvicorn's connection, freed as soon as the connection is lost.

    If the client reads nothing of an answer for too long, the connection is closed.
    """

    def __init__(self, stall_seconds: float, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._stall_seconds = stall_seconds
        self._stall_timer: asyncio.TimerHandle | None = None

    def pause_writing(self) -> None:
        """Starts the timer, as the client does not read its answer."""
        super().pause_writing()
        loop = asyncio.get_running_loop()
        self._stall_timer = loop.call_later(self._stall_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Stops the timer."""
        super().resume_writing()
        self._stop_timer()

    def _stop_timer(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Hides the error: after a reset, uvicorn keeps the connection until its idle timeout."""
        super().connection_lost(None)
        self._stop_timer()


class _Server(uvicorn.Server):
    """uvicorn's server without signal handlers: the command has its own."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer:
    """HTTP server of the app, or of an app that mounts it, on one address.

    Args:
        address: HOST:PORT; port 0 selects a free one.
        backend: generates images. The server does not close the backend.
        admission: admits calls within its limits.
        certificates: for TLS. None: no TLS.
        share_port: allows other processes to listen on the same port.
        app: the app that mounts this one.
        observer: records the calls. None: calls are not recorded.
        forward_headers: names of the headers of a caller that a backend may forward.
        keepalive_seconds: longest silence of a stream.
        main_model: model that calls the image tool, for requests of the Images API.
        models: ids of the models that GET /v1/models lists.
        cors_origins: origins of web pages that may call.
        backend_name: name of the backend, for the page.
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
        main_model: str | None = None,
        models: Sequence[str] = (),
        cors_origins: Collection[str] = (),
        backend_name: str = "",
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
                main_model=main_model,
                models=models,
                cors_origins=cors_origins,
                backend_name=backend_name,
            ),
            http=partial(_Connection, limits.stall_seconds),  # type: ignore[arg-type]  # a factory
            ws="none",
            log_level="error",  # Warnings quote invalid requests and upgrades.
            access_log=False,
            log_config=None,
            lifespan="off",
            server_header=False,
            h11_max_incomplete_event_size=limits.metadata_bytes,
            limit_concurrency=limits.connections,
            timeout_keep_alive=ceil(limits.idle_seconds),
        )
        config.load()
        config.ssl = certificates.for_http() if certificates else None
        self._server = _Server(config)
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> str:
        """Listens; returns HOST:PORT with the port that was bound. Raises OSError."""
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
        # uvicorn sets a flag when it has started, and no event.
        while not (self._server.started or self._serving.done()):  # noqa: ASYNC110
            await asyncio.sleep(0)
        return f"{self._address.rpartition(':')[0]}:{listening.getsockname()[1]}"

    async def drain(self) -> None:
        """Does nothing: GET /health reads the admission, which is draining already."""

    async def stop(self, grace: float) -> None:
        """Refuses new requests, and gives those in progress `grace` seconds."""
        if self._serving is None:
            return
        self._server.config.timeout_graceful_shutdown = ceil(grace)
        self._server.should_exit = True
        await self._serving
        if ended := self._server.server_state.tasks:  # They still send their error answers.
            await asyncio.wait(ended, timeout=_ERROR_ANSWER_SECONDS)
