"""Rules of the server: health, large and newer requests, many calls, deadlines, cancellation."""

import asyncio
import re
import struct
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import grpc
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from imagecall.conformance.answer import StreamAnswer
from imagecall.conformance.rule import Finding, Rule
from imagecall.conformance.session import SERVICE, STREAM, Session, Skipped
from imagecall.errors import CODES
from imagecall.v1.image_generation_service_pb2 import StreamImageRequest
from imagecall.v1.image_request_pb2 import ImageRequest, InputImage

_HEALTH: Final = "/grpc.health.v1.Health/Check"
_SERVING: Final = 1
_UNKNOWN_SERVICE: Final = "imagecall.v1.NoSuchService"

_LARGE_REQUEST: Final = 20_000_000
_LIMIT: Final = re.compile(r"\d[\d,_.]{3,}|\d+ ?[kKmMgG]i?B")
"""A number of bytes in a sentence about a limit."""

_NEWER_FIELDS: Final = b"\xa0\x38\x96\x01\xaa\x38\x05later"
"""Two fields that no schema has yet: 900, a number, and 901, a text."""

_MANY: Final = 100
_OF_A_BUSY_SERVER: Final = frozenset({"RESOURCE_EXHAUSTED", "UNAVAILABLE"})

_DEADLINES: Final = ("100m", "50m", "20m")
"""Deadlines of the attempts, as gRPC writes them: a shorter one, as an answer may be quicker."""

_OF_A_DEADLINE: Final = frozenset({"DEADLINE_EXCEEDED", "CANCELLED"})
"""Codes of a call past its deadline: of its status, or of the reset that servers send instead."""

_CANCELLED_CALLS: Final = 32
"""Calls that are cancelled at once: more than a pool of threads usually has."""

_PROBES: Final = 3


async def _health(session: Session) -> AsyncIterator[Finding]:
    for service in ("", SERVICE):
        name = service or "the whole server"
        status = await _health_of(session, service)
        if status != "SERVING":
            yield Finding(f"{name}: {status}", "SERVING")
    status = await _health_of(session, _UNKNOWN_SERVICE)
    if status not in ("NOT_FOUND", "UNIMPLEMENTED"):
        yield Finding(f"{_UNKNOWN_SERVICE}: {status}", "NOT_FOUND")


async def _health_of(session: Session, service: str) -> str:
    """Status of a service, or the code of the failure.

    The messages of grpc.health.v1 have the form of StringValue and of Int32Value.
    """
    request = StringValue(value=service).SerializeToString()
    try:
        answer = Int32Value.FromString(await session.unary(_HEALTH, request))
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "SERVING" if answer.value == _SERVING else f"status {answer.value}"


def large_png(size: int) -> bytes:
    """A PNG file of one pixel, and of about `size` bytes: most are in a chunk that viewers skip."""
    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    chunks = (
        (b"IHDR", header),
        (b"paDd", bytes(size)),
        (b"IDAT", zlib.compress(b"\0\xff\x80\x00")),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


async def _large_request(session: Session) -> AsyncIterator[Finding]:
    session.spend(1)
    images = [InputImage(image=large_png(_LARGE_REQUEST))]
    request = StreamImageRequest(request=session.request(input_images=images))
    answer = StreamAnswer("a request of 20 MB")
    await session.fill(answer, request)
    error = answer.error
    if error is not None and error.reason not in CODES and not _LIMIT.search(str(error)):
        came = f"{answer.name}: {error.code}: {error}"
        yield Finding(came, "an answer, or a sentence that names the limit in bytes")


async def _newer_request(session: Session) -> AsyncIterator[Finding]:
    session.spend(1)
    request = StreamImageRequest(request=ImageRequest.FromString(_newer(session.request())))
    answer = StreamAnswer("a request with unknown fields")
    await session.fill(answer, StreamImageRequest.FromString(_newer(request)))
    error = answer.error
    if error is not None and error.reason != "UNKNOWN_FIELD":
        came = f"{answer.name}: {error.code}: {error}"
        yield Finding(came, "an answer, or INVALID_ARGUMENT with the reason UNKNOWN_FIELD")


def _newer(message: Any) -> bytes:
    serialized: bytes = message.SerializeToString()
    return serialized + _NEWER_FIELDS


async def _many_calls(session: Session) -> AsyncIterator[Finding]:
    session.spend(_MANY)
    answers = [StreamAnswer(f"call {number}") for number in range(_MANY)]
    request = StreamImageRequest(request=session.request())
    await asyncio.gather(*(session.fill(answer, request) for answer in answers))
    codes = Counter("OK" if a.error is None and a.end else _code(a) for a in answers)
    others = set(codes) - {"OK"} - _OF_A_BUSY_SERVER
    if others or not codes["OK"]:
        came = ", ".join(f"{count} x {code}" for code, count in codes.items())
        yield Finding(came, "OK with an end, or RESOURCE_EXHAUSTED or UNAVAILABLE if too many")


def _code(answer: StreamAnswer) -> str:
    return answer.error.code if answer.error else "OK without an end"


async def _deadline(session: Session) -> AsyncIterator[Finding]:
    late = []
    for deadline in _DEADLINES:
        session.spend(1)
        code = await _code_at(session, deadline)
        if code in _OF_A_DEADLINE:
            return
        late.append((deadline, code))
    wrong = [f"{deadline}s: {code}" for deadline, code in late if code != "OK"]
    if not wrong:
        raise Skipped("the image came before a deadline of 20 ms; --slow KEY=JSON makes it slow")
    yield Finding(
        ", ".join(wrong), f"DEADLINE_EXCEEDED, {session.settings.tolerance:g} s later at most"
    )


async def _code_at(session: Session, deadline: str) -> str:
    """Code of a call whose deadline the server enforces, and the client does not."""
    request = StreamImageRequest(request=session.request(slow=True))
    metadata = (*session.metadata, ("grpc-timeout", deadline))
    method: Any = session.channel.unary_stream(STREAM)
    call = method(request.SerializeToString(), metadata=metadata)
    longest = int(deadline[:-1]) / 1000 + session.settings.tolerance
    try:
        async with asyncio.timeout(longest):
            while await call.read() is not grpc.aio.EOF:
                pass
    except grpc.aio.AioRpcError as error:
        return error.code().name
    except TimeoutError:
        return f"no status within {longest:g} s"
    finally:
        call.cancel()
    return "OK"


async def _cancellation(session: Session) -> AsyncIterator[Finding]:
    usual = min(answer.seconds for answer in await session.streams())
    session.spend(_CANCELLED_CALLS + _PROBES)
    await _cancel_calls(session)
    limit = 2 * usual + session.settings.tolerance
    outcomes = []
    for _ in range(_PROBES):
        outcome = await _probe(session, limit)
        if outcome == "OK":
            return
        outcomes.append(outcome)
    came = f"after {_CANCELLED_CALLS} cancelled calls: {', '.join(outcomes)}"
    yield Finding(came, f"an answer within {limit:.1f} s, as the work of cancelled calls ends")


async def _cancel_calls(session: Session) -> None:
    """Begins slow calls, and cancels all of them once the server has had time to begin."""
    request = StreamImageRequest(request=session.request(slow=True)).SerializeToString()
    calls = [session.server_stream(STREAM, request) for _ in range(_CANCELLED_CALLS)]
    first: Sequence[Any] = [asyncio.ensure_future(call.read()) for call in calls]
    await asyncio.wait(first, timeout=session.settings.tolerance)
    for call in calls:
        call.cancel()
    await asyncio.gather(*first, return_exceptions=True)


async def _probe(session: Session, limit: float) -> str:
    """Calls once more; returns OK if the answer comes in time, else a phrase."""
    answer = StreamAnswer("a call after cancelled ones")
    request = StreamImageRequest(request=session.request())
    try:
        async with asyncio.timeout(limit):
            await session.fill(answer, request)
    except TimeoutError:
        return f"no answer within {limit:.1f} s"
    return "OK" if answer.error is None else f"{answer.error.code}: {answer.error}"


RULES: Final = (
    Rule("health", "grpc.health.v1.Health reports SERVING", "Writing a service", _health),
    Rule(
        "deadline",
        "a call past its deadline ends at once",
        "ImageGenerationService",
        _deadline,
    ),
    Rule(
        "cancellation",
        "the work of a cancelled call ends at once",
        "ImageGenerationService",
        _cancellation,
    ),
    Rule(
        "large-request",
        "a request of 20 MB is answered, or refused in words that name the limit",
        "ImageGenerationService",
        _large_request,
    ),
    Rule(
        "newer-request",
        "unknown fields of a request are ignored, or refused as UNKNOWN_FIELD",
        "Writing a service",
        _newer_request,
    ),
    Rule(
        "many-calls",
        "100 calls at once are answered, or refused as too many",
        "Writing a service",
        _many_calls,
    ),
)
