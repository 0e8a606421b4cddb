"""Exceptions of the package as gRPC statuses, and back.

A status has the code and the sentence, and in its details google.rpc.ErrorInfo (reason, domain,
metadata), google.rpc.BadRequest (the JSON Pointer as the field) for an INVALID_ARGUMENT and
wherever there is a place, and google.rpc.RetryInfo where the API said when to try again. The
details travel in the trailer grpc-status-details-bin. The status of another server is passed on
whole, as are its other trailers.

A failure that may have been billed is not to be sent again: its pushback is -1, it has no
RetryInfo, and the metadata of its ErrorInfo has "may_be_billed": "true".
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
"""The domain of the reasons in google.rpc.ErrorInfo."""

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
"""Messages of gRPC's core for calls that did not leave."""

_LOST: Final = re.compile(
    r"socket closed|cancelling all calls|goaway|connection reset|recvmsg|sendmsg|broken pipe"
    r"|stream removed|ping timeout|keepalive|connection timed out|transport is closing"
    r"|http2 header with status: 50[24]"
    r"|disconnect/reset before headers(?!.*(connection failure|connection timeout|overflow))",
    re.IGNORECASE,
)
"""Messages of gRPC's core, of grpc-go and of proxies for connections lost after they were there."""

_UNCERTAIN: Final = frozenset(
    {"CANCELLED", "DATA_LOSS", "DEADLINE_EXCEEDED", "INTERNAL", "UNKNOWN"}
)
"""The codes of calls that may have reached an API, where nothing else is known."""

_UPSTREAM: Final = "UPSTREAM_"
"""Prefix of the reasons that are an API's, and not a fault of the request."""

_OF_THE_SERVER: Final = frozenset({"TOO_MANY_CALLS", "TOKEN_REQUIRED", "CALL_TOO_LONG"})
"""The reasons for which a server does not take a call, whatever the request is."""

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
"""Metadata of an answer that belongs to its hop, or that each server makes itself."""


def code_of(error: ImagecallError) -> grpc.StatusCode:
    """Returns the status code of an error."""
    return grpc.StatusCode[error.code]


def to_status(error: ImagecallError) -> Status:
    """Returns the error as a google.rpc.Status."""
    status = Status.FromString(error.status) if error.status else _new_status(error)
    if not (isinstance(error, GenerationError) and error.may_be_billed):
        return status
    kept = [detail for detail in status.details if not detail.Is(RetryInfo.DESCRIPTOR)]
    del status.details[:]
    status.details.extend(kept)
    _mark_billed(status)
    return status


def _new_status(error: ImagecallError) -> Status:
    """Makes the status of an error of this process."""
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
    """Puts into the ErrorInfo of our domain, which is added if there is none, that it may cost."""
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
            # Of 0, gRPC's C core (1.85) makes a retry that never comes.
            return *details, (_PUSHBACK, str(max(1, _milliseconds(error.retry_seconds))))
    return details


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


class _Details(NamedTuple):
    """The details of a status that are read, each the first of its kind."""

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
        """A sentence for a status that has none itself."""
        described = (violation.description for violation in self.bad_request.field_violations)
        return self.localized.message or next(described, "")


def _first(status: Status, kind: type[Any]) -> Any:
    """Returns the first detail of a kind, our own ErrorInfo before others; or an empty one."""
    found = [known for d in status.details if (known := _unpacked(d, kind)) is not None]
    ours = [info for info in found if kind is ErrorInfo and info.domain == DOMAIN]
    return next(iter([*ours, *found]), kind())


def _unpacked(detail: Any, kind: type[Any]) -> Any:
    """Returns what a detail holds; None if it holds another kind, or no message."""
    message = kind()
    with suppress(DecodeError):
        if detail.Unpack(message):
            return message
    return None


def error_of(error: grpc.RpcError) -> ImagecallError:
    """Returns the error that a status stands for: the inverse of `status_of` and `trailers_of`."""
    trailers = dict(_metadata(error.trailing_metadata()))
    serialized = trailers.get(_DETAILS, b"")
    known = _known(error.code().name, error.details() or "", serialized, trailers)
    if _status(serialized).details:
        known.status = serialized
    known.trailers = passed_on(error.trailing_metadata())
    return known


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
    """Tells whether a call that failed without a reason may have reached an API."""
    return code in _UNCERTAIN or (code == "UNAVAILABLE" and is_lost(message))


def is_lost(message: str) -> bool:
    """Tells whether gRPC, or a proxy, says that a connection was lost after it was there."""
    return not is_not_sent(message) and bool(_LOST.search(message))


def is_not_sent(message: str) -> bool:
    """Tells whether gRPC says that a call did not leave."""
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
