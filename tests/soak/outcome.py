"""Outcome of a call at the client: its status code and details."""

from collections.abc import AsyncIterator, Awaitable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import grpc
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from imagecall.v1.conversion_error_pb2 import ConversionError, ErrorReason

OK: Final = "OK"
_PREFIX: Final = "ERROR_REASON_"
_NAMES: Final = {code.value[0]: code.name for code in grpc.StatusCode}


@dataclass(frozen=True)
class Outcome:
    """Outcome of a call.

    Attributes:
        code: name of the status code.
        reason: reason of the ErrorInfo or of the ConversionError; "" without one.
        pointer: field of the BadRequest; None without BadRequest.
        retry: True if the status has a RetryInfo.
        message: sentence of the status.
        answers: answers before the end.
    """

    code: str
    reason: str = ""
    pointer: str | None = None
    retry: bool = False
    message: str = ""
    answers: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return f"{self.code} {self.reason}".strip()


def of_error(error: grpc.aio.AioRpcError, answers: Iterable[Any] = ()) -> Outcome:
    """The outcome that a status is."""
    info, bad_request, retry = ErrorInfo(), BadRequest(), RetryInfo()
    known: tuple[Message, ...] = (info, bad_request, retry)
    found: set[str] = set()
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in Status.FromString(value if isinstance(value, bytes) else b"").details:
                found |= {m.DESCRIPTOR.name for m in known if detail.Unpack(m)}
    pointers = [violation.field for violation in bad_request.field_violations]
    return Outcome(
        error.code().name,
        info.reason if info.domain == "imagecall" else "",
        pointers[0] if pointers else None,
        "RetryInfo" in found,
        error.details() or "",
        tuple(answers),
    )


def in_place(error: ConversionError) -> Outcome:
    """The outcome of one item of many."""
    reason = ErrorReason.Name(error.reason).removeprefix(_PREFIX)
    return Outcome(_NAMES[error.code], reason, error.pointer, message=error.message)


async def of_call(call: Awaitable[Any]) -> Outcome:
    """Returns the outcome of a call with one answer."""
    try:
        return Outcome(OK, answers=(await call,))
    except grpc.aio.AioRpcError as error:
        return of_error(error)


async def of_stream(call: AsyncIterator[Any]) -> Outcome:
    """Returns the outcome of a call with many answers."""
    answers = []
    try:
        async for answer in call:
            answers.append(answer)
    except grpc.aio.AioRpcError as error:
        return of_error(error, answers)
    return Outcome(OK, answers=tuple(answers))


async def of_post(address: str, body: Any, path: str = "/v1/responses", **headers: str) -> Outcome:
    """Outcome of an HTTP request: the code is the status, the reason the error's type."""
    sent = {"content-type": "application/json"} | {k.replace("_", "-"): headers[k] for k in headers}
    async with (
        aiohttp.ClientSession(auto_decompress=False) as session,
        session.post(f"http://{address}{path}", data=body, headers=sent) as answer,
    ):
        if answer.status == 200:
            return Outcome(OK, answers=(await answer.read(),))
        said = (await answer.json()) if answer.content_type == "application/json" else {}
        error = said.get("error", {})
        return Outcome(
            str(answer.status),
            str(error.get("type", "")).upper(),
            error.get("param"),
            "retry-after" in answer.headers,
            str(error.get("message", "")),
        )


@asynccontextmanager
async def channel_to(address: str) -> AsyncIterator[grpc.aio.Channel]:
    """A channel of its own, which takes answers of any size."""
    options = [
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_metadata_size", 1024 * 1024),
        ("grpc.absolute_max_metadata_size", 1024 * 1024),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    async with grpc.aio.insecure_channel(address, options) as channel:
        yield channel
