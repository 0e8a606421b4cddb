"""Waits for clients: for the next message of one, or until one has taken an answer.

A wait ends after a stated time. If the server has no place for a new call, the call that has waited
longest for its client makes room: so nobody can hold all the places by doing nothing.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Final

from imagecall.access.budget import RETRY_SECONDS
from imagecall.errors import GenerationError

_SAFE_SECONDS: Final = 1.0
"""Time for which no wait is cut short: a client is that slow without intent."""


class Waits:
    """Waits for the clients of the calls in progress.

    Args:
        seconds: the longest wait.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: dict[_Wait, float] = {}
        """Begin of each wait; the longest wait is the first."""

    @asynccontextmanager
    async def wait(
        self, seconds: float | None = None, when_slow: Callable[[], None] | None = None
    ) -> AsyncGenerator[None, None]:
        """Limits a wait for a client to `seconds`, or to the longest wait.

        `when_slow` is called after a second; an error that it raises ends the wait. Raises also
        GenerationError: CALL_TOO_LONG; TOO_MANY_CALLS if a new call needed the place.
        """
        seconds = self._seconds if seconds is None else seconds
        wait = _Wait(asyncio.timeout(seconds))
        loop = asyncio.get_running_loop()
        slow = loop.call_later(_SAFE_SECONDS, wait.slow, when_slow) if when_slow else None
        try:
            async with wait.limit:
                self._since[wait] = loop.time()
                yield
        except TimeoutError:
            if not wait.limit.expired():
                raise
            raise wait.error or _too_long(seconds) from None
        finally:
            self._since.pop(wait, None)
            if slow:
                slow.cancel()

    def end_longest(self) -> bool:
        """Ends the longest wait. Returns False if none is long enough."""
        longest = next((wait for wait in self._since if wait.error is None), None)
        now = asyncio.get_running_loop().time()
        if longest is None or now - self._since[longest] < _SAFE_SECONDS:
            return False
        return longest.end(_displaced())


class _Wait:
    """One wait, and the error that ends it before its time."""

    def __init__(self, limit: asyncio.Timeout) -> None:
        self.limit = limit
        self.error: GenerationError | None = None

    def slow(self, when_slow: Callable[[], None]) -> None:
        """Calls `when_slow`; an error of it ends the wait."""
        try:
            when_slow()
        except GenerationError as error:
            self.end(error)

    def end(self, error: GenerationError) -> bool:
        """Ends the wait with an error. Returns False if the wait ends already."""
        if self.limit.expired():
            return False
        self.error = error
        self.limit.reschedule(0)
        return True


def _too_long(seconds: float) -> GenerationError:
    message = f"the client neither sent nor took anything for {seconds:g} s"
    return GenerationError("CALL_TOO_LONG", message)


def _displaced() -> GenerationError:
    message = "the call waited for its client, and another call needed its place"
    return GenerationError("TOO_MANY_CALLS", message, retry_seconds=RETRY_SECONDS)
