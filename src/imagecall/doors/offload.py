"""Offload of long work from the event loop to worker threads."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Final, TypeVar

from imagecall.sizes import OFFLOAD

_T = TypeVar("_T")

_pool: Final = ThreadPoolExecutor(max_workers=2, thread_name_prefix="imagecall")


async def run_offloaded(size: int, work: Callable[..., _T], *arguments: object) -> _T:
    """Runs work on `size` bytes: inline below 1 MiB, else in a worker thread."""
    if size < OFFLOAD:
        return work(*arguments)
    run = copy_context().run
    return await asyncio.get_running_loop().run_in_executor(_pool, run, work, *arguments)
