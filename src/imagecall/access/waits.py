"""Waits for clients: until a client sends its next message, or receives an answer.

Each wait has a time limit. If the server is full, a new call displaces the call that has waited
longest for its client, so that idle clients cannot block the server.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from imagecall.access.budget import RETRY_SECONDS
from imagecall.errors import GenerationError

_SLOW_SECONDS: Final = 0.5
"""Time after which a wait is slow."""

_SAFE_SECONDS: Final = 1.0
"""Time before a call can be displaced: well-behaved clients can be this slow."""


class Waits:
    """Waits for the clients of the calls in progress.

    Args:
        seconds: longest wait.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: dict[Wait, float] = {}
        """Start time of each wait, oldest first."""

    def wait(
        self, seconds: float | None = None, when_slow: Callable[[], None] | None = None
    ) -> "Wait":
        """Returns the context manager of a wait of at most `seconds`; by default, the longest wait.

        `when_slow` is called after half a second; an error that it raises ends the wait.
        """
        return Wait(self._since, self._seconds if seconds is None else seconds, when_slow)

    def end_longest(self) -> bool:
        """Ends the longest wait. Returns False if no call can be displaced."""
        longest = next((wait for wait in self._since if wait.error is None), None)
        now = asyncio.get_running_loop().time()
        if longest is None or now - self._since[longest] < _SAFE_SECONDS:
            return False
        return longest.end(_displaced())


class Wait:
    """Context manager of one wait. No generator, for speed: a stream has two waits per message.

    Raises GenerationError: CALL_TOO_LONG; TOO_MANY_CALLS if a new call displaced the waiting call.

    Args:
        since: start time of each wait in progress.
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
        """Ends the wait with an error. Returns False if the wait has expired already."""
        if self._limit.expired():
            return False
        self.error = error
        self._limit.reschedule(0)
        return True


def _too_long(seconds: float) -> GenerationError:
    message = f"the client neither sent nor received anything for {seconds:g} s"
    return GenerationError("CALL_TOO_LONG", message)


def _displaced() -> GenerationError:
    message = "the call waited for its client, and a new call needed its place"
    return GenerationError("TOO_MANY_CALLS", message, retry_seconds=RETRY_SECONDS)
