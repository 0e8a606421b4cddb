"""Door for Prometheus: GET /metrics, by plain HTTP, without tokens and without admission.

The door serves no calls: a monitoring system needs no credential that could pay for an image.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeAlias

from aiohttp import web

from imagecall.access.ports import not_free
from imagecall.rpc.addresses import is_local, is_loopback

PATH: Final = "/metrics"
_LAST_SECONDS: Final = 1.0
"""Longest wait for answers in progress when the server stops."""

Text: TypeAlias = Callable[[str], tuple[bytes, str]]
"""Formats the metrics for an Accept header: the text and its media type."""


class MetricsServer:
    """HTTP server of the metrics, on one address.

    On loopback, the Host header of a request must name this machine. Otherwise a foreign web page
    could read the metrics: DNS rebinding.

    Args:
        address: HOST:PORT; port 0 selects a free one.
        text: formats the metrics.
        share_port: allows other processes to listen on the same port.
    """

    def __init__(self, address: str, text: Text, *, share_port: bool = False) -> None:
        self._address = address
        self._host, _, self._port = address.rpartition(":")
        self._text = text
        self._share_port = share_port
        # A thread of its own, so that a scrape does not wait for large requests.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="metrics")
        app = web.Application()
        app.router.add_get(PATH, self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=_LAST_SECONDS)

    async def start(self) -> str:
        """Listens; returns HOST:PORT with the port that was bound. Raises OSError."""
        await self._runner.setup()
        site = web.TCPSite(
            self._runner,
            self._host.strip("[]"),
            int(self._port),
            reuse_port=self._share_port or None,
        )
        try:
            await site.start()
        except OSError:
            raise not_free(self._address) from None
        return f"{self._host}:{self._runner.addresses[0][1]}"

    async def drain(self) -> None:
        """Does nothing: Prometheus reads the metrics until the server stops."""

    async def stop(self, grace: float) -> None:
        """Closes the listener and its connections."""
        await self._runner.cleanup()
        self._thread.shutdown(wait=False)

    async def _answer(self, request: web.Request) -> web.Response:
        if is_loopback(self._host) and not is_local(f"http://{request.host}"):
            raise web.HTTPForbidden(text="the Host header names another machine")
        accepted = request.headers.get("accept", "")
        loop = asyncio.get_running_loop()
        text, media_type = await loop.run_in_executor(self._thread, self._text, accepted)
        return web.Response(body=text, headers={"content-type": media_type})
