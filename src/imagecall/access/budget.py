"""Budget of memory: bytes that calls hold from the arrival of a request until its answer is sent.

Each call has a `Memory`, to which doors and backends add the sizes of large values. Small calls may
fill the whole budget, and large calls only a part of the budget: so large requests, and answers
that no client reads, leave room for small calls.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import suppress
from contextvars import ContextVar
from typing import Final, TypeVar

from imagecall.errors import GenerationError

_Part = TypeVar("_Part")

RETRY_SECONDS: Final = 1.0
"""Delay before the retry of a refused call, which the refusal suggests to the client."""

CALL_OVERHEAD: Final = 32 * 1024
"""Bytes of a call without its messages. Measured for a waiting call: 27 KiB, in Python and gRPC."""

FACTOR: Final = 4
"""Memory for the work on a request, as a multiple of the size of the request.

An estimate for images: the text, the decoded image, the answer, and the copies of gRPC.
"""

COPIES: Final = 2
"""Copies of an answer while it is sent: one in Python, one in gRPC's core."""

_ROOM_SECONDS: Final = 10.0
"""Longest wait for memory, of a call whose work may already be billed."""

_MAX_QUIET_BYTES: Final = 16 * 1024 * 1024
_MAX_SMALL_BYTES: Final = 256 * 1024
_SHARE_OF_LARGE: Final = 0.875
"""Fraction of the budget that may be filled by calls above _MAX_SMALL_BYTES."""


class Budget:
    """Bytes that all calls in progress may hold.

    Args:
        limit: most bytes. None: no limit.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self.held = 0
        """Bytes held now."""
        self._waiters: list[asyncio.Future[None]] = []

    def is_quiet(self) -> bool:
        """Returns True if the calls hold less than 16 MiB."""
        return self.held < _MAX_QUIET_BYTES

    def memory(self) -> "Memory":
        """Returns the memory of a new call."""
        return Memory(self)

    def check(self, more: int, large: bool) -> None:
        """Raises GenerationError (TOO_MANY_CALLS) unless `more` bytes fit."""
        if self._limit is None:
            return
        room = int(self._limit * _SHARE_OF_LARGE) if large else self._limit
        if self.held + more > room:
            message = (
                f"the calls in progress hold {self.held:,} of the {room:,} bytes that they may, "
                f"and this call needs {more:,} more"
            )
            raise GenerationError("TOO_MANY_CALLS", message, retry_seconds=RETRY_SECONDS)

    def count(self, change: int) -> None:
        """Adds a change to the bytes held; if they become fewer, wakes the calls that wait."""
        self.held += change
        if change < 0:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    async def released(self) -> None:
        """Waits until bytes are released."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter


class Memory:
    """Bytes of a budget that are held by one call, or by one part of its work."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.size = 0
        """Bytes held now."""

    def resize(self, size: int) -> None:
        """Sets the number of bytes. Raises GenerationError (TOO_MANY_CALLS) if they do not fit."""
        more = size - self.size
        if more > 0:
            self._budget.check(more, size > _MAX_SMALL_BYTES)
        self.size = size
        self._budget.count(more)

    def add(self, size: int) -> None:
        """Adds bytes. Raises GenerationError (TOO_MANY_CALLS) if they do not fit."""
        self.resize(self.size + size)

    async def grow(self, size: int) -> None:
        """Adds bytes of an answer once they fit, within 10 s; a negative size releases bytes.

        Raises GenerationError (TOO_MANY_CALLS) if they never do: the work may already be billed.
        """
        try:
            return self.add(size)  # Most bytes fit at once, without a timer.
        except GenerationError as error:
            full = error
        try:
            async with asyncio.timeout(_ROOM_SECONDS):
                while True:
                    await self._budget.released()
                    with suppress(GenerationError):
                        return self.add(size)
        except TimeoutError:
            full.may_be_billed = True
            raise full from None

    def release(self) -> None:
        """Returns all bytes to the budget."""
        self._budget.count(-self.size)
        self.size = 0

    def part(self) -> "Memory":
        """Returns the memory of a part of the work; its context manager releases it at the end."""
        return Memory(self._budget)

    def __enter__(self) -> "Memory":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


MEMORY: Final[ContextVar[Memory]] = ContextVar("MEMORY", default=Memory(Budget(None)))  # noqa: B039
"""Memory of the current call; without a call of a server, memory without a limit."""


async def counted(
    parts: AsyncIterator[_Part], size_of: Callable[[_Part], int], copies: int = 1
) -> AsyncGenerator[_Part, None]:
    """Yields the parts of an answer that is held whole; adds their copies to the call's memory.

    Raises GenerationError (TOO_MANY_CALLS) if they do not fit in time.
    """
    memory = MEMORY.get()
    async for part in parts:
        await memory.grow(copies * size_of(part))
        yield part
