"""Keepalive comments of an event stream, for clients and proxies that drop silent connections."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Final, Generic, TypeVar

from starlette.types import Message, Send

_T = TypeVar("_T")

KEEPALIVE_SECONDS: Final = 15.0
"""Longest silence of a stream."""

COMMENT: Final = b": keepalive\n\n"
"""Comment line, which readers of server-sent events skip."""


class TimedItems(Generic[_T]):
    """Items of an async generator, each awaited as long as the reader chooses.

    A wait that times out loses no item: the next wait is for the same item.
    """

    def __init__(self, items: AsyncGenerator[_T, None]) -> None:
        self._items = items
        self._next: asyncio.Future[_T] | None = None

    async def next(self, seconds: float) -> _T | None:
        """Returns the next item; None if the item does not come in time.

        Raises StopAsyncIteration after the last item.
        """
        if self._next is None:
            self._next = asyncio.ensure_future(anext(self._items))
        done, _ = await asyncio.wait({self._next}, timeout=seconds)
        if not done:
            return None
        ready, self._next = self._next, None
        return ready.result()

    async def aclose(self) -> None:
        """Cancels the wait, and closes the generator."""
        if self._next is not None:
            self._next.cancel()
            await asyncio.wait({self._next})
            if not self._next.cancelled():
                self._next.exception()  # asyncio logs an exception that nothing retrieves.
        await self._items.aclose()


class TimedSend:
    """ASGI `send` that measures the time since its last message."""

    def __init__(self, send: Send, longest_silence: float) -> None:
        self._send = send
        self._longest_silence = longest_silence
        self._sent = 0.0

    async def __call__(self, message: Message) -> None:
        await self._send(message)
        self._sent = asyncio.get_running_loop().time()

    @property
    def seconds_left(self) -> float:
        """Seconds until the silence is too long."""
        now = asyncio.get_running_loop().time()
        return max(0.0, self._sent + self._longest_silence - now)
