"""Runs a generator in a task of its own, whichever tasks take its items."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TypeVar

_T = TypeVar("_T")


async def in_own_task(items: AsyncGenerator[_T, None]) -> AsyncGenerator[_T, None]:
    """Yields the items of a generator, which runs at most two items ahead.

    A timeout and a context variable in the generator hold across its yields. Closing this
    generator cancels the other one, and waits for its end.
    """
    queue: asyncio.Queue[tuple[_T] | Exception | None] = asyncio.Queue(1)
    running = asyncio.create_task(_run(items, queue))
    try:
        while (item := await queue.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item[0]
    finally:
        running.cancel()
        await asyncio.wait({running})


async def _run(
    items: AsyncGenerator[_T, None], queue: "asyncio.Queue[tuple[_T] | Exception | None]"
) -> None:
    """Puts the items into the queue, each in a tuple, then None or the exception."""
    try:
        async with aclosing(items):
            async for item in items:
                await queue.put((item,))
    except Exception as error:
        await queue.put(error)
    else:
        await queue.put(None)
