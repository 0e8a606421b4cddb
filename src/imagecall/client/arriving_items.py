"""Requests for the items of a stream of conversions, whose items may arrive asynchronously."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar

from imagecall.client.conversions import BulkConversion

_Item = TypeVar("_Item")


@asynccontextmanager
async def sent(
    conversion: BulkConversion[_Item, Any], items: Iterable[_Item] | AsyncIterable[_Item]
) -> AsyncIterator[Any]:
    """Yields the requests for items, for the call in the block.

    Items that arrive are awaited in a task that ends with the block: gRPC would wait for the next
    one also after the server has ended the call.
    """
    if not isinstance(items, AsyncIterable):
        yield conversion.requests(items)
        return
    queue: asyncio.Queue[Any] = asyncio.Queue(1)
    feeding = asyncio.create_task(_feed(queue, conversion.requests_of(items)))
    try:
        yield _taken(queue)
    finally:
        feeding.cancel()
        await asyncio.wait({feeding})
        while not queue.empty():
            queue.get_nowait()
        queue.put_nowait(None)


async def _feed(queue: asyncio.Queue[Any], requests: AsyncGenerator[Any, None]) -> None:
    """Puts the requests into the queue, then None."""
    async with aclosing(requests):
        async for request in requests:
            await queue.put(request)
    await queue.put(None)


async def _taken(queue: asyncio.Queue[Any]) -> AsyncIterator[Any]:
    """Yields the requests of a queue up to None."""
    while (request := await queue.get()) is not None:
        yield request
