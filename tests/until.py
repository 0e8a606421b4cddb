"""Waiting for a condition that no event announces."""

import asyncio
from collections.abc import Callable


async def until(true: Callable[[], bool]) -> None:
    """Waits until a condition is true. The time limit of the test bounds the wait."""
    while not true():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
