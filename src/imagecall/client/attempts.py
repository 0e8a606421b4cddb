"""Attempts of a call: one that failed without cost is repeated, no other one.

gRPC's own retries would also repeat a call whose connection is lost after the generation began, and
then report the last failure as if nothing had been billed. With a retry policy, gRPC's core (1.85)
moreover never ends some streams of a connection that breaks, whatever their deadline is.
"""

from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator
from random import uniform
from time import monotonic
from typing import Final, TypeVar

from imagecall.errors import GenerationError

_Part = TypeVar("_Part")

_MORE_ATTEMPTS: Final = 3
_FIRST_PAUSE_SECONDS: Final = 0.2
_JITTER: Final = 0.2


class Attempts:
    """Attempts of one call.

    Args:
        timeout: seconds that the attempts and the pauses between them may take. None: no limit.
    """

    def __init__(self, timeout: float | None) -> None:
        self._end = None if timeout is None else monotonic() + timeout
        self._failures = 0
        self._answered = False

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the end of the call. None: no limit."""
        return None if self._end is None else self._end - monotonic()

    def noting(self, parts: Iterable[_Part]) -> Iterator[_Part]:
        """Yields the parts of an answer, and notes that the server has begun to answer."""
        for part in parts:
            self._answered = True
            yield part

    async def noting_each(self, parts: AsyncIterable[_Part]) -> AsyncGenerator[_Part, None]:
        """Yields the parts of an answer that arrive, as `noting` does."""
        async for part in parts:
            self._answered = True
            yield part

    def pause_after(self, error: GenerationError) -> float:
        """Returns the seconds until the next attempt. Raises the error if there is none."""
        error.may_be_billed = error.may_be_billed or self._answered
        if error.may_be_billed or error.code != "UNAVAILABLE" or self._failures == _MORE_ATTEMPTS:
            raise error
        seconds = error.retry_seconds
        if seconds is None:
            backoff = _FIRST_PAUSE_SECONDS * 2**self._failures
            seconds = backoff * uniform(1 - _JITTER, 1 + _JITTER)
        if self.seconds_left is not None and self.seconds_left <= seconds:
            raise error
        self._failures += 1
        return seconds
