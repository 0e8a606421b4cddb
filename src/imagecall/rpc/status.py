"""Converts exceptions of the package to gRPC statuses, and back.

A status has the code and the sentence. Its details have google.rpc.ErrorInfo (reason, domain,
metadata), google.rpc.BadRequest (the JSON Pointer as the field) for an INVALID_ARGUMENT and for any
error with a place, and google.rpc.RetryInfo if the API's answer has a delay for retries. The
details are in the trailer grpc-status-details-bin. The status of an upstream server is passed on
whole, and so are its other trailers.

A call that may have been billed must not be retried: its status has the pushback -1, no RetryInfo,
and "may_be_billed": "true" in the metadata of ErrorInfo.
"""

import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final, NamedTuple

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, LocalizedMessage, RetryInfo
from google.rpc.status_pb2 import Status

from imagecall.errors import CODES, ConversionError, GenerationError, ImagecallError
from imagecall.rpc.headers import Metadata

DOMAIN: Final = "imagecall"
"""Domain of the reasons in google.rpc.ErrorInfo."""

_DETAILS: Final = "grpc-status-details-bin"
_PUSHBACK: Final = "grpc-retry-pushback-ms"
"""Trailer that allows gRPC's own retries, or forbids them: gRFC A6."""

_NOT_TO_BE_RETRIED: Final = ((_PUSHBACK, "-1"),)
"""Trailers of a call that may be billed."""

_BILLED: Final = "may_be_billed"
_TRUE: Final = "true"

_NOT_SENT: Final = re.compile(
    r"failed to connect|errors resolving|DNS resolution failed|empty address list", re.IGNORECASE
)
"""Messages of gRPC's core for a call that was not sent."""

_LOST: Final = re.compile(
    r"socket closed|cancelling all calls|goaway|connection reset|recvmsg|sendmsg|broken pipe"
    r"|stream removed|ping timeout|keepalive|connection timed out|transport is closing"
    r"|http2 header with status: 50[24]"
    r"|disconnect/reset before headers(?!.*(connection failure|connection timeout|overflow))",
    re.IGNORECASE,
)
"""Messages of gRPC's core, of grpc-go and of proxies for the loss of an open connection."""

_UNCERTAIN: Final = frozenset(
    {"CANCELLED", "DATA_LOSS", "DEADLINE_EXCEEDED", "INTERNAL", "UNKNOWN"}
)
"""Codes of calls that may have reached an API, if their status has no reason.

CANCELLED, too: that of a call that a server had not begun when it stopped (grpc/grpc#41785) is the
same as that of a call whose handler called `context.cancel()`.
"""

_UPSTREAM: Final = "UPSTREAM_"
"""Prefix of the reasons for faults of an API, not of the request."""

_OF_THE_SERVER: Final = frozenset({"TOO_MANY_CALLS", "TOKEN_REQUIRED", "CALL_TOO_LONG"})
"""Reasons for which a server refuses a call, whatever the request is."""

_HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "date",
        "keep-alive",
        "server",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-request-id",
    }
)
"""Hop-by-hop metadata of an answer, and metadata that each server sets itself."""


def code_of(error: ImagecallError) -> grpc.StatusCode:
    """Returns the status code of an error."""
    return grpc.StatusCode[error.code]


def to_status(error: ImagecallError) -> Status:
    """Returns the error as a google.rpc.Status."""
    status = Status.FromString(error.status) if error.status else _new_status(error)
    if not (isinstance(error, GenerationError) and error.may_be_billed):
        return status
    details = [detail for detail in status.details if not detail.Is(RetryInfo.DESCRIPTOR)]
    del status.details[:]
    status.details.extend(details)
    _mark_billed(status)
    return status


def _new_status(error: ImagecallError) -> Status:
    """Makes the status for an error that arose in this process."""
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


def _mark_billed(status: Status) -> None:
    """Sets "may_be_billed" in the ErrorInfo of our domain, which is added if there is none."""
    info = ErrorInfo(domain=DOMAIN)
    place = next((detail for detail in status.details if _is_ours(detail)), None)
    if place is None:
        place = status.details.add()
    else:
        place.Unpack(info)
    info.metadata[_BILLED] = _TRUE
    place.Pack(info)


def _is_ours(detail: Any) -> bool:
    info = _unpacked(detail, ErrorInfo)
    return info is not None and info.domain == DOMAIN


def trailers_of(error: ImagecallError) -> Metadata:
    """Returns the trailing metadata of an error."""
    details = (*error.trailers, (_DETAILS, to_status(error).SerializeToString()))
    if isinstance(error, GenerationError):
        if error.may_be_billed:
            return (*details, *_NOT_TO_BE_RETRIED)
        if error.retry_seconds is not None:
            # At 0, gRPC's C core (1.85) never sends the retry.
            return *details, (_PUSHBACK, str(max(1, _milliseconds(error.retry_seconds))))
    return details


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


class _Details(NamedTuple):
    """Details of a status, each the first of its kind."""

    info: ErrorInfo
    bad_request: BadRequest
    retry: RetryInfo
    localized: LocalizedMessage

    @classmethod
    def of(cls, status: Status) -> "_Details":
        return cls(*(_first(status, kind) for kind in cls.__annotations__.values()))

    @property
    def pointer(self) -> str:
        return next((violation.field for violation in self.bad_request.field_violations), "")

    @property
    def sentence(self) -> str:
        """Sentence for a status whose own message is empty."""
        described = (violation.description for violation in self.bad_request.field_violations)
        return self.localized.message or next(described, "")


def _first(status: Status, kind: type[Any]) -> Any:
    """Returns the first detail of a kind, our own ErrorInfo before others; or an empty one."""
    messages = [message for d in status.details if (message := _unpacked(d, kind)) is not None]
    ours = [info for info in messages if kind is ErrorInfo and info.domain == DOMAIN]
    return next(iter([*ours, *messages]), kind())


def _unpacked(detail: Any, kind: type[Any]) -> Any:
    """Returns the message in a detail; None if it is of another kind, or malformed."""
    message = kind()
    with suppress(DecodeError):
        if detail.Unpack(message):
            return message
    return None


def error_of(error: grpc.RpcError) -> ImagecallError:
    """Returns the error for a status: the inverse of `to_status` and `trailers_of`."""
    trailers = dict(_metadata(error.trailing_metadata()))
    serialized = trailers.get(_DETAILS, b"")
    converted = _known(error.code().name, error.details() or "", serialized, trailers)
    if _status(serialized).details:
        converted.status = serialized
    converted.trailers = passed_on(error.trailing_metadata())
    return converted


def _known(code: str, message: str, serialized: bytes, trailers: dict[str, Any]) -> ImagecallError:
    details = _Details.of(_status(serialized))
    ours = details.info if details.info.domain == DOMAIN else ErrorInfo()
    reason, metadata = ours.reason, dict(ours.metadata)
    billed = metadata.pop(_BILLED, "") == _TRUE
    message = message or details.sentence
    if reason in CODES and not (reason.startswith(_UPSTREAM) or reason in _OF_THE_SERVER):
        return ConversionError(reason, details.pointer, message, code)
    if not ours.domain and details.info.reason:
        metadata["upstream_code"] = details.info.reason
    pushback = trailers.get(_PUSHBACK, "")
    retry_seconds = _seconds(details.retry, pushback)
    uncertain = not reason and retry_seconds is None and _may_have_begun(code, message)
    return GenerationError(
        reason,
        message,
        pointer=details.pointer,
        code=code,
        retry_seconds=retry_seconds,
        may_be_billed=billed or pushback == "-1" or uncertain,
        metadata=metadata,
    )


def _seconds(retry: RetryInfo, pushback: str) -> float | None:
    if retry.HasField("retry_delay"):
        milliseconds: int = retry.retry_delay.ToMilliseconds()
        return max(0, milliseconds) / 1000
    return int(pushback) / 1000.0 if pushback.isdecimal() else None


def _may_have_begun(code: str, message: str) -> bool:
    """True for a call, failed without a reason, that may have reached an API."""
    return code in _UNCERTAIN or (code == "UNAVAILABLE" and is_lost(message))


def is_lost(message: str) -> bool:
    """True for a message of gRPC, or of a proxy, about the loss of an open connection."""
    return not is_not_sent(message) and bool(_LOST.search(message))


def is_not_sent(message: str) -> bool:
    """True for a message of gRPC about a call that was not sent."""
    return bool(_NOT_SENT.search(message))


def passed_on(metadata: Any) -> Metadata:
    """Returns the metadata of an answer that another server may pass on."""
    return tuple(
        (key, value)
        for key, value in _metadata(metadata)
        if key not in _HOP_BY_HOP and not key.startswith(("grpc-", ":"))
    )


def _metadata(metadata: Any) -> Iterable[tuple[str, Any]]:
    return [(key, value) for key, value in metadata or ()]


def _status(serialized: bytes) -> Status:
    try:
        return Status.FromString(serialized)
    except DecodeError:
        return Status()
