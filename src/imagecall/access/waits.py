"""Waits for clients: for the next message of one, or until one has taken an answer.

A wait ends after a stated time. If the server has no place for a new call, the call that has waited
longest for its client makes room: so nobody can hold all the places by doing nothing.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from imagecall.access.budget import RETRY_SECONDS
from imagecall.errors import GenerationError

_SLOW_SECONDS: Final = 0.5
"""Time after which a wait is slow."""

_SAFE_SECONDS: Final = 1.0
"""Time for which no wait is cut short: a client is that slow without intent."""


class Waits:
    """Waits for the clients of the calls in progress.

    Args:
        seconds: the longest wait.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: dict[Wait, float] = {}
        """Begin of each wait; the longest wait is the first."""

    def wait(
        self, seconds: float | None = None, when_slow: Callable[[], None] | None = None
    ) -> "Wait":
        """Returns the context of a wait for a client of `seconds`, or of the longest wait.

        `when_slow` is called after half a second; an error that it raises ends the wait.
        """
        return Wait(self._since, self._seconds if seconds is None else seconds, when_slow)

    def end_longest(self) -> bool:
        """Ends the longest wait. Returns False if none is long enough."""
        longest = next((wait for wait in self._since if wait.error is None), None)
        now = asyncio.get_running_loop().time()
        if longest is None or now - self._since[longest] < _SAFE_SECONDS:
            return False
        return longest.end(_displaced())


class Wait:
    """Context of one wait, without a generator, since a stream has two waits for each message.

    Raises GenerationError: CALL_TOO_LONG; TOO_MANY_CALLS if a new call needed the place.

    Args:
        since: begin of each wait in progress.
        seconds: longest wait.
        when_slow: called after half a second. None: nothing is called.
    """

    def __init__(
        self,
        since: "dict[Wait, float]",
        seconds: float,
        when_slow: Callable[[], None] | None,
    ) -> None:
        self._since = since
        self._seconds = seconds
        self._when_slow = when_slow
        self._limit = asyncio.timeout(seconds)
        self._slow: asyncio.TimerHandle | None = None
        self.error: GenerationError | None = None
        """Error that ends the wait before its time."""

    async def __aenter__(self) -> None:
        loop = asyncio.get_running_loop()
        if self._when_slow:
            self._slow = loop.call_later(_SLOW_SECONDS, self._call_slow)
        self._since[self] = loop.time()
        await self._limit.__aenter__()

    async def __aexit__(self, *error: Any) -> None:
        self._since.pop(self, None)
        if self._slow:
            self._slow.cancel()
        try:
            await self._limit.__aexit__(*error)
        except TimeoutError:
            raise self.error or _too_long(self._seconds) from None

    def _call_slow(self) -> None:
        assert self._when_slow
        try:
            self._when_slow()
        except GenerationError as error:
            self.end(error)

    def end(self, error: GenerationError) -> bool:
        """Ends the wait with an error. Returns False if the wait ends already."""
        if self._limit.expired():
            return False
        self.error = error
        self._limit.reschedule(0)
        return True


def _too_long(seconds: float) -> GenerationError:
    message = f"the client neither sent nor took anything for {seconds:g} s"
    return GenerationError("CALL_TOO_LONG", message)


def _displaced() -> GenerationError:
    message = "the call waited for its client, and another call needed its place"
    return GenerationError("TOO_MANY_CALLS", message, retry_seconds=RETRY_SECONDS)
