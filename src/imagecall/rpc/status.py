"""Exceptions of the package as gRPC statuses, and back.

A status has the code and the sentence, and in its details google.rpc.ErrorInfo (reason, domain,
metadata), google.rpc.BadRequest (the JSON Pointer as the field) for an INVALID_ARGUMENT and
wherever there is a place, and google.rpc.RetryInfo where the API behind us said when to try again.
The details travel in the trailer grpc-status-details-bin.
"""

from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from imagecall.errors import CODES, ConversionError, GenerationError, ImagecallError

DOMAIN: Final = "imagecall"
"""The domain of the reasons in google.rpc.ErrorInfo."""

_DETAILS: Final = "grpc-status-details-bin"
_PUSHBACK: Final = "grpc-retry-pushback-ms"
"""What tells gRPC's own retries when to retry, or not to: gRFC A6."""

_NOT_TO_BE_RETRIED: Final = ((_PUSHBACK, "-1"),)
"""The trailers of a call that may have cost something."""

NOT_SENT: Final = "failed to connect"
"""What gRPC says of a call that did not leave."""

_LOST: Final = ("Socket closed", "Cancelling all calls", "GOAWAY", "Connection reset", "recvmsg")
_UNCERTAIN: Final = frozenset({"CANCELLED", "DEADLINE_EXCEEDED", "INTERNAL", "UNKNOWN"})

_UPSTREAM: Final = "UPSTREAM_"
"""How the reasons begin that are an API's, and not a fault of the request that we found."""

_OF_THE_SERVER: Final = frozenset({"TOO_MANY_CALLS", "TOKEN_REQUIRED", "CALL_TOO_LONG"})
"""The reasons for which a server does not take a call, whatever the request is."""


def code_of(error: ImagecallError) -> grpc.StatusCode:
    """The status code of an error."""
    return grpc.StatusCode[error.code]


def status_of(error: ImagecallError) -> Status:
    """The error as a google.rpc.Status."""
    status = Status(code=code_of(error).value[0], message=str(error))
    if error.pointer or error.code == "INVALID_ARGUMENT":
        violation = BadRequest.FieldViolation(
            field=error.pointer, description=str(error), reason=error.reason
        )
        status.details.add().Pack(BadRequest(field_violations=[violation]))
    info = ErrorInfo(reason=error.reason, domain=DOMAIN)
    if isinstance(error, GenerationError):
        info.metadata.update(error.metadata)
        if error.retry_seconds is not None:
            retry = RetryInfo()
            retry.retry_delay.FromMilliseconds(_milliseconds(error.retry_seconds))
            status.details.add().Pack(retry)
    if error.reason:
        status.details.add().Pack(info)
    return status


def trailers_of(error: ImagecallError) -> tuple[tuple[str, str | bytes], ...]:
    """The trailing metadata of an error."""
    details = (_DETAILS, status_of(error).SerializeToString())
    if isinstance(error, GenerationError):
        if error.may_be_billed:
            return (details, *_NOT_TO_BE_RETRIED)
        if error.retry_seconds is not None:
            # Of 0, gRPC's C core (1.85) makes a retry that never comes.
            return details, (_PUSHBACK, str(max(1, _milliseconds(error.retry_seconds))))
    return (details,)


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def error_of(error: grpc.RpcError) -> ImagecallError:
    """The error that a status stands for: the inverse of `status_of` and `trailers_of`."""
    trailers = dict(_trailers(error))
    code, message = error.code().name, error.details() or ""
    info, bad_request, retry = ErrorInfo(), BadRequest(), RetryInfo()
    for detail in _details(trailers.get(_DETAILS, b"")):
        for known in (info, bad_request, retry):
            if detail.Is(known.DESCRIPTOR):
                with suppress(DecodeError):
                    detail.Unpack(known)
    reason = info.reason if info.domain == DOMAIN else ""
    pointer = next((violation.field for violation in bad_request.field_violations), "")
    if reason in CODES and not (reason.startswith(_UPSTREAM) or reason in _OF_THE_SERVER):
        return ConversionError(reason, pointer, message)
    return GenerationError(
        reason,
        message,
        pointer=pointer,
        code=code,
        retry_seconds=_seconds(retry, trailers.get(_PUSHBACK, "")),
        may_be_billed=trailers.get(_PUSHBACK) == "-1"
        or (not reason and _may_have_begun(code, message)),
        metadata=info.metadata,
    )


def _seconds(retry: RetryInfo, pushback: str) -> float | None:
    if retry.HasField("retry_delay"):
        milliseconds: int = retry.retry_delay.ToMilliseconds()
        return max(0, milliseconds) / 1000
    return int(pushback) / 1000.0 if pushback.isdecimal() else None


def _may_have_begun(code: str, message: str) -> bool:
    """Whether a call that failed with no word of ours may have reached an API."""
    return code in _UNCERTAIN or (code == "UNAVAILABLE" and is_of_the_connection(message))


def is_of_the_connection(message: str) -> bool:
    """Whether gRPC itself says that a connection was lost, after it was there."""
    return any(words in message for words in _LOST)


def _trailers(error: grpc.RpcError) -> Iterable[tuple[str, Any]]:
    metadata: Any = error.trailing_metadata() or ()
    return [(key, value) for key, value in metadata]


def _details(serialized: bytes) -> list[Any]:
    try:
        return list(Status.FromString(serialized).details)
    except DecodeError:
        return []
