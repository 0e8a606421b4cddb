"""What a door knows of the call that it passes to a backend, for backends that pass it on."""

import time
from contextvars import ContextVar
from dataclasses import dataclass

from imagecall.rpc.headers import Metadata


@dataclass(frozen=True)
class CallContext:
    """A call that is in progress.

    Attributes:
        metadata: what the caller sent beside the request.
        deadline: when the call is to be over, by time.monotonic(). None: it has no deadline.
    """

    metadata: Metadata = ()
    deadline: float | None = None

    @property
    def seconds_left(self) -> float | None:
        """How long the call may still take. None: it has no deadline."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())


CALL: ContextVar[CallContext] = ContextVar("CALL", default=CallContext())  # noqa: B039  # frozen
"""The call that the current task works for."""
