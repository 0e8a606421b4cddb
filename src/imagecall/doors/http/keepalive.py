"""Keepalive comments of an event stream, for clients and proxies that drop silent connections."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Final, Generic, TypeVar

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

    async def is_ready(self) -> bool:
        """Begins to wait for the next item. Returns True if it comes at once."""
        waiting = self._begin()
        await asyncio.sleep(0)
        return waiting.done()

    async def next(self, seconds: float) -> _T | None:
        """Returns the next item; None if the item does not come in time.

        Raises StopAsyncIteration after the last item.
        """
        waiting = self._begin()
        if not waiting.done():
            await asyncio.wait({waiting}, timeout=seconds)
        if not waiting.done():
            return None
        self._next = None
        return waiting.result()

    def _begin(self) -> "asyncio.Future[_T]":
        if self._next is None:
            self._next = asyncio.ensure_future(anext(self._items))
        return self._next

    async def aclose(self) -> None:
        """Cancels the wait, and closes the generator."""
        if self._next is not None:
            self._next.cancel()
            await asyncio.wait({self._next})
            if not self._next.cancelled():
                self._next.exception()  # asyncio logs an exception that nothing retrieves.
        await self._items.aclose()
