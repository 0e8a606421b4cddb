"""Waiting for what another process does."""

import asyncio
import time
from collections.abc import Callable


async def until(true: Callable[[], bool], seconds: float) -> bool:
    """Waits until it is true, at most so long; whether it is."""
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:  # noqa: ASYNC110  # Nothing tells of it.
        await asyncio.sleep(0.005)
    return true()
