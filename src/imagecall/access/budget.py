"""Budget of memory: the bytes that calls hold, from their requests until their answers have left.

A call has a `Memory`, to which doors and backends add the sizes of large values. A call that holds
little is admitted to the whole budget, a larger one only to a part of it: so large requests, or
answers that nobody reads, leave room for health and small calls.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from imagecall.errors import GenerationError

RETRY_SECONDS: Final = 1.0
"""Time after which a refused call may be sent again."""

CALL_OVERHEAD: Final = 32 * 1024
"""Bytes of a call itself. Measured: 27 KiB of a call that waits, in Python and in gRPC's core."""

FACTOR: Final = 4
"""Bytes that a request takes while it is worked on, to the bytes of the request.

An estimate for images: the text, the decoded image, the answer, and the copies of gRPC.
"""

COPIES: Final = 2
"""Copies of an answer that is on its way: one in Python, one in gRPC's core."""

_ROOM_SECONDS: Final = 10.0
"""Longest wait for room, of a call whose work may be billed already."""

_MAX_QUIET_BYTES: Final = 16 * 1024 * 1024
_MAX_SMALL_BYTES: Final = 256 * 1024
_SHARE_OF_LARGE: Final = 0.875
"""Part of the budget that calls which hold more than _MAX_SMALL_BYTES may fill."""


class Budget:
    """Bytes that all calls in progress may hold.

    Args:
        most: the limit, in bytes. None: no limit.
    """

    def __init__(self, most: int | None) -> None:
        self._most = most
        self.held = 0
        """Bytes that are held now."""
        self._waiting: list[asyncio.Future[None]] = []

    def is_quiet(self) -> bool:
        """Returns True if little is held."""
        return self.held < _MAX_QUIET_BYTES

    def memory(self) -> "Memory":
        """Returns the memory of a new call."""
        return Memory(self)

    def check(self, more: int, large: bool) -> None:
        """Raises GenerationError (TOO_MANY_CALLS) unless `more` bytes fit."""
        if self._most is None:
            return
        room = int(self._most * _SHARE_OF_LARGE) if large else self._most
        if self.held + more > room:
            message = (
                f"the calls in progress hold {self.held:,} of the {room:,} bytes that they may, "
                f"and this one needs {more:,} more"
            )
            raise GenerationError("TOO_MANY_CALLS", message, retry_seconds=RETRY_SECONDS)

    def count(self, more: int) -> None:
        """Counts bytes that are held from now on, or fewer of them."""
        self.held += more
        if more < 0:
            waiting, self._waiting = self._waiting, []
            for each in waiting:
                if not each.done():
                    each.set_result(None)

    async def released(self) -> None:
        """Waits until bytes are released."""
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        await waiting


class Memory:
    """Bytes of a budget that one call holds, or one part of its work."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.size = 0
        """Bytes that are held now."""

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
        """Adds bytes of an answer, and waits a while for room.

        Raises GenerationError (TOO_MANY_CALLS) if there is none: the work may be billed already.
        """
        try:
            async with asyncio.timeout(_ROOM_SECONDS):
                while True:
                    try:
                        return self.add(size)
                    except GenerationError as error:
                        full = error
                        await self._budget.released()
        except TimeoutError:
            full.may_be_billed = True
            raise full from None

    def release(self) -> None:
        """Returns all bytes to the budget."""
        self._budget.count(-self.size)
        self.size = 0

    @contextmanager
    def part(self) -> Iterator["Memory"]:
        """Yields the memory of a part of the work, which is released at the part's end."""
        part = Memory(self._budget)
        try:
            yield part
        finally:
            part.release()


MEMORY: Final[ContextVar[Memory]] = ContextVar("MEMORY", default=Memory(Budget(None)))  # noqa: B039
"""Memory of the current call; without a call of a server, memory without a limit."""
