"""Runs plain generators in threads."""

import asyncio
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, Final, TypeVar

_T = TypeVar("_T")

THREADS: Final = 64
"""Plain generators that run at the same time; further ones wait."""

_pool: Final = ThreadPoolExecutor(THREADS, "imagecall-service")
_END: Final[Any] = object()


async def in_threads(generator: Generator[_T, Any, Any]) -> AsyncGenerator[_T, None]:
    """Yields the items of a plain generator, each step of which runs in a thread.

    A cancelled generator is closed once its current step ends.
    """
    context = copy_context()
    step: Future[_T] | None = None

    def take() -> _T:
        return next(generator, _END)

    try:
        while True:
            step = _pool.submit(context.run, take)
            item = await asyncio.wrap_future(step)
            if item is _END:
                return
            yield item
    finally:
        if step is not None:
            step.add_done_callback(lambda _: _pool.submit(context.run, generator.close))
