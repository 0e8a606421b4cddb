"""Starts large steps of work one by one, every 4 rounds of the event loop, so that small calls run.

A small call takes some rounds of the loop. If twenty streams each handled a megabyte in every
round, the call would wait for a hundred such steps. So each step starts after
`await fair_turn()`.
"""

import asyncio
from collections import deque
from typing import Final, TypeAlias
from weakref import WeakKeyDictionary

_ROUNDS: Final = 4
"""Rounds of the loop from one turn to the next: about as many as a small call takes."""

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


def _next(loop: asyncio.AbstractEventLoop, waiting: _Waiting, rounds: int) -> None:
    if rounds > 1:
        loop.call_soon(_next, loop, waiting, rounds - 1)
        return
    while waiting and waiting[0].done():  # Ended its turn, or was cancelled.
        waiting.popleft()
    if waiting:
        waiting[0].set_result(None)  # Stays in the queue until the next turn: no overtaking.
        loop.call_soon(_next, loop, waiting, _ROUNDS)
