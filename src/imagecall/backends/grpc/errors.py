"""Failures that gRPC itself reports, as errors of the backend."""

import re
from typing import Final

from imagecall.errors import GenerationError, ImagecallError
from imagecall.generation.checked_answer import (
    BACKEND,
    AnswerLimits,
    CheckedStream,
    too_large_message,
    too_large_response,
)
from imagecall.rpc.handshake import cause_of
from imagecall.rpc.status import is_lost, is_not_sent

_OVERHEAD_BYTES: Final = 64 * 1024
"""Largest overhead of a request of this server around its JSON."""

_OWN_LIMIT: Final = "CLIENT: Received message larger than max"
"""Start of the message of gRPC's core for an answer over a limit of this process."""

_PAST_LIMIT: Final = re.compile(
    r"(?:SERVER: |CLIENT: |grpc: |gRPC |Error, )?"
    r"(?:attempted to send |trying to send |received |sent |decoded |encoded )?"
    r"message\b.{0,60}\b(?:larger than|exceeds|too large)\b",
    re.IGNORECASE,
)
"""Messages for a size past a limit, from their start: of gRPC for Go, Java, C++, .NET and
Node.js, and of tonic. A backend's own sentence that quotes such a message does not match."""

_OF_ANSWER: Final = re.compile(r"\b(sen[dt]|encoded)\b", re.IGNORECASE)
"""Words of such a message if the backend cannot send its answer."""


def error_of_status(
    error: ImagecallError, limits: AnswerLimits, stream: CheckedStream | None, *, tls: bool
) -> ImagecallError:
    """Returns the error for a status without details, which gRPC itself may have created."""
    message = str(error)
    match error.code:
        case "UNAVAILABLE" if is_not_sent(message):
            cause = cause_of(message, tls=tls)
            text = f"the {BACKEND} is not reachable" + (f": {cause}" if cause else "")
            return GenerationError("UPSTREAM_UNREACHABLE", text)
        case "UNAVAILABLE" if is_lost(message):
            text = f"the connection to the {BACKEND} was lost"
            return GenerationError("UPSTREAM_DISCONNECTED", text, may_be_billed=True)
        case "RESOURCE_EXHAUSTED" if _OWN_LIMIT in message:
            return too_large_message() if stream else too_large_response(limits)
        case "RESOURCE_EXHAUSTED" | "OUT_OF_RANGE" if _PAST_LIMIT.match(message):
            return _past_limit(message, limits)
    return error


def _past_limit(message: str, limits: AnswerLimits) -> GenerationError:
    """Returns the error for a request or an answer over a limit of the backend."""
    if _OF_ANSWER.search(message):
        text = f"the {BACKEND} cannot send its answer: {message}; raise its limit, or use a stream"
        return GenerationError("UPSTREAM_ANSWER_TOO_LARGE", text, may_be_billed=True)
    limit = limits.text_bytes + _OVERHEAD_BYTES
    text = (
        f"the request is too large for the {BACKEND}: {message}; "
        f"raise the receive limit of that server to {limit:,} bytes, this one's largest request"
    )
    return GenerationError("UPSTREAM_TOO_LARGE", text)
