"""Turns on the event loop, for work in large pieces: who does small work waits for one at most.

Twenty streams that each handle a megabyte in every round of the loop would make a small call, which
takes some rounds, wait for a hundred of them. So each such piece is begun after `await turn()`,
which lets one begin every few rounds.
"""

import asyncio
from collections import deque
from typing import Final, TypeAlias
from weakref import WeakKeyDictionary

_ROUNDS: Final = 4
"""In how many rounds of the loop there is one turn: about those that a small call takes."""

_Waiting: TypeAlias = deque[asyncio.Future[None]]
_waiting: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, _Waiting]] = WeakKeyDictionary()


async def fair_turn() -> None:
    """Waits for a turn. They come in the order in which they were asked for."""
    loop = asyncio.get_running_loop()
    waiting = _waiting.setdefault(loop, deque())
    mine: asyncio.Future[None] = loop.create_future()
    waiting.append(mine)
    if len(waiting) == 1:
        loop.call_soon(_next, loop, waiting, 1)
    await mine


def _next(loop: asyncio.AbstractEventLoop, waiting: _Waiting, rounds: int) -> None:
    if rounds > 1:
        loop.call_soon(_next, loop, waiting, rounds - 1)
        return
    while waiting and waiting[0].done():  # One that was cancelled.
        waiting.popleft()
    if waiting:
        waiting[0].set_result(None)  # It goes when the next comes, so that nobody overtakes.
        loop.call_soon(_next, loop, waiting, _ROUNDS)
