"""Context of a call, such as deadline and metadata, for backends that pass the call on."""

import time
from contextvars import ContextVar
from dataclasses import dataclass

from imagecall.rpc.headers import Metadata


@dataclass
class AnswerMetadata:
    """Metadata of a backend's answer, for a door that passes metadata on.

    Attributes:
        initial: metadata before the answer.
        trailing: metadata after the answer. A failure has its own in ImagecallError.trailers.
    """

    initial: Metadata = ()
    trailing: Metadata = ()


@dataclass(frozen=True)
class CallContext:
    """Context of a call in progress.

    Attributes:
        metadata: metadata that the caller sent with the request.
        deadline: deadline of the call, by time.monotonic(). None: no deadline.
        answer: receives the metadata of the answer. None: the door passes none on.
    """

    metadata: Metadata = ()
    deadline: float | None = None
    answer: AnswerMetadata | None = None

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the deadline. None: the call has no deadline."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())


CALL: ContextVar[CallContext] = ContextVar("CALL", default=CallContext())  # noqa: B039  # frozen
"""Context of the call that the current task serves."""
