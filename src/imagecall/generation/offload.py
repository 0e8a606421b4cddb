"""Offload of long work from the event loop to worker threads.

The threads and the loop share the GIL. So long work goes piece by piece: of all work, one piece
runs at a time, and after each the loop runs alone for a while, for small calls. Work whose call has
ended stops after its current piece.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

from imagecall.sizes import OFFLOAD
from imagecall.turns import TURN, Abandoned

_T = TypeVar("_T")

_PIECE_SECONDS: Final = 0.01
"""Shortest piece of work."""

_REST: Final = 0.2
"""Time of the loop alone after a piece of work, as a fraction of the time of the piece."""

_MAX_REST_SECONDS: Final = 0.01
_LONG: Final = 1024 * 1024
"""Size of work from which one call into C may be long, in bytes."""

_WAIT_SECONDS: Final = 1.0
"""Interval at which a thread that waits for its turn checks if its call has ended."""

_pool: Final = ThreadPoolExecutor(max_workers=4, thread_name_prefix="imagecall")
_locks: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock]] = WeakKeyDictionary()


class _Work:
    """Work in a thread.

    Attributes:
        ended: true once nobody awaits the work.
    """

    def __init__(self) -> None:
        self.ended = False
        self._loop = asyncio.get_running_loop()
        self._lock = _locks.setdefault(self._loop, asyncio.Lock())
        self._has_lock = False
        self._is_over = False
        self._turned = 0.0

    def run(self, waits: bool, work: Callable[..., _T], *arguments: object) -> _T:
        """Runs the work, with `waits` from its turn on."""
        TURN.set(self._turn)
        try:
            if waits:
                self._take_lock(0.0)
            self._turned = time.monotonic()
            return work(*arguments)
        finally:
            with suppress(RuntimeError):  # The loop is closed.
                self._loop.call_soon_threadsafe(self._finish)

    def _turn(self) -> None:
        seconds = time.monotonic() - self._turned
        if seconds >= _PIECE_SECONDS:
            self._take_lock(min(seconds * _REST, _MAX_REST_SECONDS))
            self._turned = time.monotonic()
        if self.ended:
            raise Abandoned

    def _take_lock(self, rest_seconds: float) -> None:
        """Waits for the next piece. Raises Abandoned if nobody awaits the work any more."""
        if not self.ended:
            self._await(self._next_piece(rest_seconds))
        if self.ended:
            raise Abandoned

    def _await(self, turn: Coroutine[Any, Any, None]) -> None:
        """Waits in the thread until the loop has run the coroutine, or the call has ended."""
        turning = asyncio.run_coroutine_threadsafe(turn, self._loop)
        while True:
            try:
                return turning.result(_WAIT_SECONDS)
            except TimeoutError:
                if self.ended:
                    return None

    async def _next_piece(self, seconds: float) -> None:
        """Lets the loop run alone, then other work, and takes the lock again."""
        await asyncio.sleep(seconds)
        self._release()
        await self._lock.acquire()
        self._has_lock = True
        if self._is_over:  # The thread did not wait so long: its call had ended.
            self._release()

    def _finish(self) -> None:
        self._is_over = True
        self._release()

    def _release(self) -> None:
        if self._has_lock:
            self._has_lock = False
            self._lock.release()


async def run_offloaded(size: int, work: Callable[..., _T], *arguments: object) -> _T:
    """Runs work on `size` bytes: inline below 32 KiB, else in a worker thread.

    Work on 1 MiB or more waits for its turn, as its first piece may be one long call into C.
    """
    if size < OFFLOAD:
        return work(*arguments)
    return await _in_thread(size >= _LONG, work, *arguments)


async def offloaded(work: Callable[..., _T], *arguments: object) -> _T:
    """Runs work in a worker thread; the work ends soon if the caller is cancelled."""
    return await _in_thread(False, work, *arguments)


async def _in_thread(waits: bool, work: Callable[..., _T], *arguments: object) -> _T:
    piece = _Work()
    run = partial(copy_context().run, piece.run, waits, work, *arguments)
    try:
        return await asyncio.get_running_loop().run_in_executor(_pool, run)
    finally:
        piece.ended = True
