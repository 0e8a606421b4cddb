"""Admission of calls: token, number in progress, memory, duration, size of metadata."""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from imagecall.access.budget import RETRY_SECONDS, Budget
from imagecall.access.limits import Limits
from imagecall.access.timers import Timers
from imagecall.access.tokens import Tokens
from imagecall.access.waits import Waits
from imagecall.errors import ConversionError, GenerationError

_ENTRY_BYTES: Final = 32


class Admission:
    """Admission of calls: by token, number, duration and size of metadata.

    Args:
        limits: limits of the calls, and of each call.
        tokens: accepted bearer tokens. None: calls need no token.
        local: true if the server is for programs of this machine only, without tokens.
    """

    def __init__(
        self, limits: Limits | None = None, tokens: Tokens | None = None, *, local: bool = False
    ) -> None:
        self.limits = limits or Limits()
        self.local = local
        self._tokens = tokens
        self.budget = Budget(self.limits.memory_bytes)
        self.waits = Waits(self.limits.stall_seconds)
        self.time_limits: Timers[asyncio.Timeout] = Timers(
            self.limits.call_seconds, lambda limit: limit.reschedule(0)
        )
        """Time limits of the calls in progress, each of which ends a timeout of its call."""
        self.in_progress = 0
        self.draining = False
        """True once the server is about to stop: load balancers should send no new calls."""

    @property
    def needs_token(self) -> bool:
        """True if each call needs a token."""
        return self._tokens is not None

    def holder(self, authorization: str) -> str:
        """Returns the caller's name; "" without tokens. Raises GenerationError: TOKEN_REQUIRED."""
        return self._tokens.holder(authorization) if self._tokens else ""

    def enter(self, authorization: str) -> str:
        """Admits a call, which must `leave`; returns the caller's name, "" without tokens.

        Raises GenerationError: TOKEN_REQUIRED, TOO_MANY_CALLS.
        """
        caller = self.holder(authorization)
        self.take()
        return caller

    def take(self) -> None:
        """Admits a call of a known caller. Raises GenerationError: TOO_MANY_CALLS."""
        if self.in_progress >= self.limits.calls and not self.waits.end_longest():
            message = f"the server has {self.limits.calls:,} calls in progress, its limit"
            raise GenerationError("TOO_MANY_CALLS", message, retry_seconds=RETRY_SECONDS)
        self.in_progress += 1

    @contextmanager
    def further(self, count: int) -> Iterator[None]:
        """Admits further calls of an admitted call, until the end of the block.

        Raises GenerationError: TOO_MANY_CALLS.
        """
        with ExitStack() as admitted:
            for _ in range(count):
                self.take()
                admitted.callback(self.leave)
            yield

    def check_metadata(self, metadata: Iterable[tuple[str | bytes, str | bytes]]) -> None:
        """Raises ConversionError (TOO_LARGE) for metadata, or HTTP headers, above the limit.

        An entry counts its key, its value, and 32 bytes: RFC 9113, section 6.5.2.
        """
        size = sum(len(key) + len(value) + _ENTRY_BYTES for key, value in metadata)
        if size > self.limits.metadata_bytes:
            limit = self.limits.metadata_bytes
            message = f"the metadata has {size:,} bytes; the limit is {limit:,}"
            raise ConversionError("TOO_LARGE", "", message)

    def leave(self) -> None:
        """Ends an admitted call."""
        self.in_progress -= 1

    def too_long(self) -> GenerationError:
        """Builds the error for a call that took longer than the limit."""
        message = f"the call took more than {self.limits.call_seconds:g} s"
        return GenerationError("CALL_TOO_LONG", message, may_be_billed=True)
