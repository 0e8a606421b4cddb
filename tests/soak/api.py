"""A Responses API that answers each request as its prompt says, and notes when clients leave it."""

import asyncio
import time
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from tests.upstream import Answer, Upstream

_LIMIT: Final = 2**20


class Api(Upstream):
    """Upstream API for the soak scenarios.

    Attributes:
        arrived_at: time of arrival of the request, by prompt.
        left_at: time at which the client went before the answer was done, by prompt.
    """

    def __init__(self, answer_to: Callable[[str], Answer]) -> None:
        super().__init__()
        self._answer_to = answer_to
        self.arrived_at: dict[str, float] = {}
        self.left_at: dict[str, float] = {}

    @property
    def connections(self) -> int:
        return len(self._serving)

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                await self._read(head.decode(), reader)
                prompt: Any = self.requests.pop().body["input"]
                self.arrived_at[prompt] = time.monotonic()
                try:
                    if not await self._answer(self._answer_to(prompt), reader, writer):
                        break
                except ConnectionError:
                    self.left_at[prompt] = time.monotonic()
                    raise


@asynccontextmanager
async def api(answer_to: Callable[[str], Answer]) -> AsyncIterator[Api]:
    """An API that runs."""
    server = Api(answer_to)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, limit=_LIMIT, backlog=1024)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
    try:
        yield server
    finally:
        listening.close()
        await server.close()
