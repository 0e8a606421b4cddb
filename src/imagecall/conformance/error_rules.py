"""Rules of failures: what a server refuses, with which code, and with which details."""

from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status

from imagecall.conformance.rule import Finding, Rule
from imagecall.conformance.session import SERVICE, Session, Skipped
from imagecall.errors import CODES, quoted
from imagecall.rpc.status import DOMAIN
from imagecall.v1 import image_generation_service_pb2 as pb

_DETAILS: Final = "grpc-status-details-bin"
_INVALID: Final = grpc.StatusCode.INVALID_ARGUMENT

_UNKNOWN_ID: Final = "resp_00000000000000000000000000000000"
_OF_UNKNOWN_ID: Final = frozenset({"NOT_FOUND", "INVALID_ARGUMENT", "UNIMPLEMENTED"})
"""Codes for an id that no response has; some APIs refuse an id that they have not made."""

Refusal = tuple[str, grpc.aio.AioRpcError]


async def _methods(session: Session) -> AsyncIterator[Finding]:
    for answer in await session.failures():
        error = answer.error
        assert error is not None
        yield Finding(f"{answer.name}: {error.code}: {error}", "an answer to an ordinary request")


async def _blank_prompt(session: Session) -> AsyncIterator[Finding]:
    for name, error in await session.refusals():
        if error is None:
            yield Finding(f"{name}: OK", "INVALID_ARGUMENT")


async def _refused(session: Session) -> list[Refusal]:
    """The requests that the server refused. Raises Skipped if it refused none."""
    refused = [
        (name, error)
        for name, error in await session.refusals()
        if error is not None and error.code() is not grpc.StatusCode.UNIMPLEMENTED
    ]
    if not refused:
        raise Skipped("the server refused no request")
    return refused


async def _codes(session: Session) -> AsyncIterator[Finding]:
    for name, error in await _refused(session):
        expected = _code_of(error)
        if error.code().name != expected:
            yield Finding(f"{name}: {error.code().name}", expected)


def _code_of(error: grpc.aio.AioRpcError) -> str:
    """Code that the reason of a refusal has; INVALID_ARGUMENT for a reason that is not ours."""
    try:
        info = _detail(error, ErrorInfo)
    except DecodeError:
        info = None
    reason = info.reason if info is not None and info.domain == DOMAIN else ""
    return CODES.get(reason, _INVALID.name)


async def _sentences(session: Session) -> AsyncIterator[Finding]:
    for name, error in await _refused(session):
        if not (error.details() or "").strip():
            yield Finding(f"{name}: no message", "a sentence that names the fault")


async def _details(session: Session) -> AsyncIterator[Finding]:
    for name, error in await _refused(session):
        for finding in _faults_of(name, error):
            yield finding


def _faults_of(name: str, error: grpc.aio.AioRpcError) -> Iterator[Finding]:
    """Yields the faults of the details of a status."""
    try:
        status = Status.FromString(_serialized(error))
        info, bad_request = _detail(error, ErrorInfo), _detail(error, BadRequest)
    except DecodeError:
        yield Finding(f"{name}: {_DETAILS} is not a google.rpc.Status", "a google.rpc.Status")
        return
    if status.code != error.code().value[0] and _serialized(error):
        yield Finding(f"{name}: the code {status.code} in {_DETAILS}", str(error.code().value[0]))
    if info is None:
        yield Finding(f"{name}: no google.rpc.ErrorInfo", "an ErrorInfo with the reason")
    elif info.domain == DOMAIN and info.reason not in CODES:
        yield Finding(f"{name}: the reason {quoted(info.reason)}", "a name of ErrorReason")
    if error.code() is _INVALID and bad_request is None:
        yield Finding(f"{name}: no google.rpc.BadRequest", "a BadRequest with the JSON Pointer")


async def _stored(session: Session) -> AsyncIterator[Finding]:
    for name, kind in (
        ("GetImageResponse", pb.GetImageResponseRequest),
        ("CancelImageResponse", pb.CancelImageResponseRequest),
    ):
        request = kind(id=_UNKNOWN_ID).SerializeToString()
        error = await session.status_of(f"/{SERVICE}/{name}", request)
        code = error.code().name if error else "OK"
        if code not in _OF_UNKNOWN_ID:
            yield Finding(f"{name} of an unknown id: {code}", "NOT_FOUND, or UNIMPLEMENTED")


def _serialized(error: grpc.aio.AioRpcError) -> bytes:
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS and isinstance(value, bytes):
            return value
    return b""


def _detail(error: grpc.aio.AioRpcError, kind: type[Any]) -> Any:
    """First detail of a kind; None if there is none. Raises DecodeError."""
    for detail in Status.FromString(_serialized(error)).details:
        message = kind()
        if detail.Unpack(message):
            return message
    return None


RULES: Final = (
    Rule(
        "methods",
        "GenerateImage and StreamImage answer an ordinary request",
        "ImageGenerationService",
        _methods,
    ),
    Rule("blank-prompt", "a blank prompt is refused", "ImageRequest.prompt", _blank_prompt),
    Rule(
        "error-code",
        "a refusal has the code of its reason, or INVALID_ARGUMENT",
        "ErrorReason",
        _codes,
    ),
    Rule("error-message", "a refusal has a sentence", "ErrorReason", _sentences),
    Rule(
        "error-details",
        "a refusal has a google.rpc.Status with ErrorInfo and BadRequest",
        "ErrorReason",
        _details,
    ),
    Rule(
        "stored-responses",
        "an unknown response is NOT_FOUND; without stored responses, UNIMPLEMENTED",
        "ImageGenerationService.GetImageResponse",
        _stored,
    ),
)
