"""Offload of long work from the event loop to worker threads.

The threads and the loop share Python's lock. So work that takes longer goes piece by piece: one
piece of all work runs at a time, and the loop rests from threads after each, for small calls. The
work ends with the current piece once its call has ended, so that no thread works for nobody.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

from imagecall.sizes import OFFLOAD
from imagecall.turns import TURN, Abandoned

_T = TypeVar("_T")

_PIECE_SECONDS: Final = 0.01
"""Shortest piece of work."""

_REST: Final = 0.2
"""Rest of the loop from threads after a piece of work, in times of the piece."""

_MAX_REST_SECONDS: Final = 0.01
_WAIT_SECONDS: Final = 1.0
"""Time after which a thread that waits for its turn looks whether its call has ended."""

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

    def run(self, work: Callable[..., _T], *arguments: object) -> _T:
        TURN.set(self._turn)
        self._turned = time.monotonic()
        try:
            return work(*arguments)
        finally:
            with suppress(RuntimeError):  # The loop is closed.
                self._loop.call_soon_threadsafe(self._finish)

    def _turn(self) -> None:
        seconds = time.monotonic() - self._turned
        if seconds >= _PIECE_SECONDS and not self.ended:
            self._await(self._next_piece(min(seconds * _REST, _MAX_REST_SECONDS)))
            self._turned = time.monotonic()
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
        """Lets the loop rest from threads, lets other work run, and takes the lock again."""
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
    """Runs work on `size` bytes: inline below 32 KiB, else in a worker thread."""
    return await offloaded(work, *arguments) if size >= OFFLOAD else work(*arguments)


async def offloaded(work: Callable[..., _T], *arguments: object) -> _T:
    """Runs work in a worker thread; the work ends soon if the caller is cancelled."""
    piece = _Work()
    loop = asyncio.get_running_loop()
    try:
        return await loop.run_in_executor(_pool, copy_context().run, piece.run, work, *arguments)
    finally:
        piece.ended = True
