"""Timers of equal length, such as the time limits of all calls.

They end in the order of their starts, so the event loop holds one timer, for the oldest. A timer of
the event loop for each call and each message would cost more than the rest of admission.
"""

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Generic, TypeVar

_Key = TypeVar("_Key")


class Timers(Generic[_Key]):
    """Timers of equal length, each with a key.

    Args:
        seconds: length of each timer.
        end: called with the key of each timer that has run to its end.
    """

    def __init__(self, seconds: float, end: Callable[[_Key], object]) -> None:
        self._seconds = seconds
        self._end = end
        self._starts: dict[_Key, float] = {}
        """Start times, oldest first."""
        self._loop: asyncio.AbstractEventLoop | None = None
        """Event loop that is to call `_end_due`. None: none is."""

    def start(self, key: _Key) -> None:
        """Starts a timer, from its beginning if it runs already."""
        loop = asyncio.get_running_loop()
        if self._loop not in (loop, None):  # The loop was closed with its timers.
            self._starts.clear()
        self.stop(key)
        now = self._starts[key] = loop.time()
        if self._loop is not loop:
            self._call(loop, now)

    def stop(self, key: _Key) -> None:
        """Stops a timer, if it runs."""
        self._starts.pop(key, None)

    def take_oldest(self, least_seconds: float) -> _Key | None:
        """Stops the oldest timer, unless it is younger than `least_seconds`; returns its key."""
        key = next(iter(self._starts), None)
        now = asyncio.get_running_loop().time()
        if key is None or now - self._starts[key] < least_seconds:
            return None
        del self._starts[key]
        return key

    def _call(self, loop: asyncio.AbstractEventLoop, start: float) -> None:
        """Makes the event loop call `_end_due` at the end of a timer, in the context of no call."""
        self._loop = loop
        loop.call_at(start + self._seconds, self._end_due, loop, context=Context())

    def _end_due(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            while (key := self.take_oldest(self._seconds)) is not None:
                self._end(key)
        finally:
            self._loop = None
            if (oldest := next(iter(self._starts.values()), None)) is not None:
                self._call(loop, oldest)
