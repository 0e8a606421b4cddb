"""Runs generators in tasks of their own, whichever tasks take their items."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeAlias, TypeVar

_T = TypeVar("_T")

_Queue: TypeAlias = asyncio.Queue[tuple[_T] | Exception | None]


def in_own_task(items: AsyncGenerator[_T, None]) -> AsyncGenerator[_T, None]:
    """Yields the items of a generator, which runs at most two items ahead.

    A timeout and a context variable in the generator hold across its yields. Closing this
    generator cancels the other one, and waits for its end.
    """
    return merged([items])


async def merged(streams: Sequence[AsyncGenerator[_T, None]]) -> AsyncGenerator[_T, None]:
    """Yields the items of several generators as they come, each as `in_own_task` does.

    The first exception of one cancels the others.
    """
    queue: _Queue[_T] = asyncio.Queue(1)
    running = {asyncio.create_task(_run(items, queue)) for items in streams}
    left = len(running)
    try:
        while left:
            item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                left -= 1
            else:
                yield item[0]
    finally:
        for task in running:
            task.cancel()
        await asyncio.wait(running)


async def _run(items: AsyncGenerator[_T, None], queue: _Queue[_T]) -> None:
    """Puts the items into the queue, each in a tuple, then None or the exception."""
    try:
        async with aclosing(items):
            async for item in items:
                await queue.put((item,))
    except Exception as error:  # Raised again in the task that takes the items.
        await queue.put(error)
    else:
        await queue.put(None)
