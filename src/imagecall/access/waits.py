"""Waits for clients: until a client sends its next message, or receives an answer.

Each wait has a time limit. If the server is full, a new call displaces the call that has waited
longest for its client, so that idle clients cannot block the server.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from imagecall.access.budget import RETRY_SECONDS
from imagecall.access.timers import Timers
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
        self.ends: Timers[Wait] = Timers(seconds, lambda wait: wait.end(_too_long(seconds)))
        """Timers of the waits in progress, to their ends."""
        self.slow: Timers[Wait] = Timers(_SLOW_SECONDS, Wait.call_slow)
        """Timers of the same waits, to the time from which they are slow."""

    def wait(
        self, when_slow: Callable[[], None] | None = None, *, answered: bool = False
    ) -> "Wait":
        """Returns the context manager of a wait.

        `when_slow` is called after half a second; an error that it raises ends the wait. With
        `answered`, the client is to receive an answer, whose work may already be billed.
        """
        return Wait(self, when_slow, answered)

    def end_longest(self) -> bool:
        """Ends the longest wait. Returns False if no call can be displaced."""
        longest = self.ends.take_oldest(_SAFE_SECONDS)
        if longest is None:
            return False
        longest.end(_displaced())
        return True


class Wait:
    """Context manager of one wait. No generator, for speed: a stream has two waits per message.

    Raises GenerationError: CALL_TOO_LONG; TOO_MANY_CALLS if a new call displaced the waiting call.

    Args:
        waits: all waits in progress.
        when_slow: called after half a second. None: nothing is called.
        answered: True if the work of the call may already be billed.
    """

    def __init__(self, waits: Waits, when_slow: Callable[[], None] | None, answered: bool) -> None:
        self._waits = waits
        self._when_slow = when_slow
        self._answered = answered
        self._limit = asyncio.timeout(None)
        self._error: GenerationError | None = None
        """Error that ends the wait."""

    async def __aenter__(self) -> None:
        self._waits.ends.start(self)
        if self._when_slow:
            self._waits.slow.start(self)
        await self._limit.__aenter__()

    async def __aexit__(self, *error: Any) -> None:
        self._waits.ends.stop(self)
        if self._when_slow:
            self._waits.slow.stop(self)
        try:
            await self._limit.__aexit__(*error)
        except TimeoutError:
            assert self._error
            self._error.may_be_billed = self._answered
            raise self._error from None

    def call_slow(self) -> None:
        """Calls `when_slow`, whose error ends the wait."""
        assert self._when_slow
        try:
            self._when_slow()
        except GenerationError as error:
            self.end(error)

    def end(self, error: GenerationError) -> None:
        """Ends the wait with an error, unless it has ended already."""
        if not self._error:
            self._error = error
            self._waits.ends.stop(self)
            self._limit.reschedule(0)


def _too_long(seconds: float) -> GenerationError:
    message = f"the client neither sent nor received anything for {seconds:g} s"
    return GenerationError("CALL_TOO_LONG", message)


def _displaced() -> GenerationError:
    message = "the call waited for its client, and a new call needed its place"
    return GenerationError("TOO_MANY_CALLS", message, retry_seconds=RETRY_SECONDS)
