"""Context of a call, such as deadline and metadata, for backends that pass the call on."""

import time
from contextvars import ContextVar
from dataclasses import dataclass

from google.protobuf.message import Message

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
        request_bytes: size of the request as it came. None: not known.
    """

    metadata: Metadata = ()
    deadline: float | None = None
    answer: AnswerMetadata | None = None
    request_bytes: int | None = None

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the deadline. None: the call has no deadline."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())


CALL: ContextVar[CallContext] = ContextVar("CALL", default=CallContext())  # noqa: B039  # frozen
"""Context of the call that the current task serves."""


def request_size(request: Message) -> int:
    """Size in bytes of the request of the current call, to count and to offload its reading.

    ByteSize() serializes the message: of a large request it takes long, in the event loop.
    """
    known = CALL.get().request_bytes
    return request.ByteSize() if known is None else known
