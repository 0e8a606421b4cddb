"""Starts large steps of work one by one, in every fourth iteration of the event loop.

A small call takes some iterations of the loop. If twenty streams each handled a megabyte in every
iteration, the call would wait for a hundred such steps. So each step starts after
`await fair_turn()`.
"""

import asyncio
from collections import deque
from typing import Final, TypeAlias
from weakref import WeakKeyDictionary

_ITERATIONS: Final = 4
"""Iterations of the loop from one turn to the next: about as many as a small call takes."""

_Waiting: TypeAlias = deque[asyncio.Future[None]]
_waiting: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, _Waiting]] = WeakKeyDictionary()


async def fair_turn() -> None:
    """Waits for a turn, first come, first served."""
    loop = asyncio.get_running_loop()
    waiting = _waiting.setdefault(loop, deque())
    turn: asyncio.Future[None] = loop.create_future()
    waiting.append(turn)
    if len(waiting) == 1:
        loop.call_soon(_next, loop, waiting, 1)
    await turn


def _next(loop: asyncio.AbstractEventLoop, waiting: _Waiting, iterations: int) -> None:
    if iterations > 1:
        loop.call_soon(_next, loop, waiting, iterations - 1)
        return
    while waiting and waiting[0].done():  # Ended its turn, or was cancelled.
        waiting.popleft()
    if waiting:
        waiting[0].set_result(None)  # Stays in the queue until the next turn: no overtaking.
        loop.call_soon(_next, loop, waiting, _ITERATIONS)
