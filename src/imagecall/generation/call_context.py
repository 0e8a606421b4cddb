"""What a door knows of the call that it passes to a backend, for backends that pass it on."""

import time
from contextvars import ContextVar
from dataclasses import dataclass

from imagecall.rpc.headers import Metadata


@dataclass
class AnswerMetadata:
    """Metadata that a backend answered with, for a door that passes metadata on.

    Attributes:
        initial: came before the answer.
        trailing: came after the answer. That of a failure is in ImagecallError.trailers.
    """

    initial: Metadata = ()
    trailing: Metadata = ()


@dataclass(frozen=True)
class CallContext:
    """A call that is in progress.

    Attributes:
        metadata: what the caller sent beside the request.
        deadline: when the call is to be over, by time.monotonic(). None: it has no deadline.
        answer: takes the metadata of the answer. None: the door passes none on.
    """

    metadata: Metadata = ()
    deadline: float | None = None
    answer: AnswerMetadata | None = None

    @property
    def seconds_left(self) -> float | None:
        """How long the call may still take. None: it has no deadline."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())


CALL: ContextVar[CallContext] = ContextVar("CALL", default=CallContext())  # noqa: B039  # frozen
"""The call that the current task works for."""
