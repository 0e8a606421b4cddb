"""The failures of a gRPC backend, as they come through both doors: whole, and sent once."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import (
    BadRequest,
    ErrorInfo,
    Help,
    LocalizedMessage,
    QuotaFailure,
    RequestInfo,
    RetryInfo,
)
from google.rpc.status_pb2 import Status

from imagecall.backends.grpc.backend import GrpcBackend
from imagecall.client import AsyncImageClient
from imagecall.errors import GenerationError
from imagecall.rpc.addresses import ServerAddress
from imagecall.v1 import image_generation_service_pb2 as pb
from imagecall.v1.image_generation_service_pb2_grpc import ImageGenerationServiceStub
from tests.backends.misbehaving import Misbehaving, running, stream
from tests.backends.test_grpc_answers import (
    an_image,
    doors,
    of_grpc,
    of_http,
    plain,
    served,
)
from tests.doors.test_generation import A_STREAM, AN_IMAGE, a_request, details, serving
from tests.doors.test_http import door_before

Code = grpc.StatusCode
TOKEN = "upstream-TOKEN-0123456789"


def status(code: grpc.StatusCode, text: str, *infos: Any) -> Status:
    found = Status(code=code.value[0], message=text)
    for info in infos:
        found.details.add().Pack(info)
    return found


def failing(code: grpc.StatusCode, text: str, *infos: Any, **options: Any) -> Misbehaving:
    """A backend that fails at once."""
    whole = status(code, text, *infos) if infos else None
    return Misbehaving(code=code, text=text, status=whole, **options)


def retry(seconds: int) -> RetryInfo:
    found = RetryInfo()
    found.retry_delay.FromSeconds(seconds)
    return found


VIOLATIONS = BadRequest(
    field_violations=[
        BadRequest.FieldViolation(field="request.tools[0].size", description="too small"),
        BadRequest.FieldViolation(field="request.prompt", description="too long"),
    ]
)
EVERY = (
    ErrorInfo(reason="QUOTA", domain="images.example.com", metadata={"team": "a"}),
    VIOLATIONS,
    QuotaFailure(violations=[QuotaFailure.Violation(subject="team:a", description="used up")]),
    Help(links=[Help.Link(description="quotas", url="https://images.example.com/quotas")]),
    LocalizedMessage(locale="de", message="Kontingent verbraucht"),
    RequestInfo(request_id="r-1", serving_data="x"),
)
OURS = ErrorInfo(reason="UNSUPPORTED", domain="imagecall", metadata={"choices": "1,2"})


def status_in(error: grpc.aio.AioRpcError) -> Status:
    trailers: dict[str, Any] = dict(error.trailing_metadata() or ())
    return Status.FromString(trailers["grpc-status-details-bin"])


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("infos", [EVERY, (OURS, VIOLATIONS), (VIOLATIONS, retry(7))])
async def test_the_status_of_a_backend_goes_through_two_hops_whole(
    infos: tuple[Any, ...], streaming: bool
) -> None:
    backend = failing(Code.FAILED_PRECONDITION, "no more", *infos)
    async with (
        running(backend),
        serving(GrpcBackend(ServerAddress(backend.address))) as near,
        serving(GrpcBackend(ServerAddress(near))) as far,
    ):
        for address in (near, far):
            error = await of_grpc(address, streaming)
            assert (error.code(), error.details()) == (Code.FAILED_PRECONDITION, "no more")
            assert status_in(error) == status(Code.FAILED_PRECONDITION, "no more", *infos)


async def test_the_http_door_makes_the_best_of_a_status() -> None:
    async with doors(failing(Code.INVALID_ARGUMENT, "two faults", *EVERY)) as (_, door):
        code, headers, error = await of_http(door, False)
    assert (code, "x-should-retry" in headers) == (400, False)
    assert error == {
        "code": 400,
        "message": "two faults",
        "type": "quota",
        "param": "request.tools[0].size",
    }
    async with doors(failing(Code.INVALID_ARGUMENT, "", *EVERY)) as (_, door):
        _, _, error = await of_http(door, False)
    assert error["message"] == "Kontingent verbraucht"


@pytest.mark.parametrize("streaming", [False, True])
async def test_the_metadata_of_an_answer_goes_through_two_hops(streaming: bool) -> None:
    initial = (("x-team", "a"), ("x-team", "b"), ("x-a-bin", b"\x00\xff"), ("x-request-id", "no"))
    trailing = (("x-cost", "3"), ("date", "today"))
    answers: Any = stream() if streaming else [plain(status="completed", calls=[an_image()])]
    for failure in (Code.OK, Code.PERMISSION_DENIED):
        backend = Misbehaving(answers, code=failure, initial=initial, trailing=trailing)
        if failure is not Code.OK:
            backend.messages = ()
        async with (
            running(backend),
            serving(GrpcBackend(ServerAddress(backend.address))) as near,
            serving(GrpcBackend(ServerAddress(near))) as far,
            grpc.aio.insecure_channel(far) as channel,
        ):
            stub: Any = ImageGenerationServiceStub(channel)
            call = stub.StreamImage(A_STREAM) if streaming else stub.GenerateImage(AN_IMAGE)
            assert tuple(await call.initial_metadata()) == initial[:3]
            with suppress(grpc.aio.AioRpcError):
                [_ async for _ in call] if streaming else await call
            assert await call.code() is failure
            found = [pair for pair in await call.trailing_metadata() if pair[0][:4] != "grpc"]
        assert found[0 if failure is not Code.OK else 1] == ("x-cost", "3")
        assert sorted(key for key, _ in found) == ["x-cost", "x-request-id"]


async def test_initial_metadata_that_comes_late_is_trailing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("imagecall.doors.grpc.services._COMMIT_SECONDS", 0.1)

    committed = asyncio.Event()

    class Late(Misbehaving):
        async def answer(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
            await committed.wait()
            async for message in super().answer(request, context):
                yield message

    for code in (Code.OK, Code.NOT_FOUND):
        messages = [plain(status="completed", calls=[an_image()])] if code is Code.OK else []
        backend = Late(messages, code=code, initial=(("x-team", "a"),))
        async with (
            served(backend) as address,
            grpc.aio.insecure_channel(address) as channel,
        ):
            # grpc.aio has the initial metadata of a unary answer only with the answer.
            method: Any = channel.unary_stream("/imagecall.v1.ImageGenerationService/GenerateImage")
            committed.clear()
            call = method(AN_IMAGE.SerializeToString())
            assert ("x-team", "a") not in tuple(await call.initial_metadata())
            committed.set()
            with suppress(grpc.aio.AioRpcError):
                await call.read()
            assert await call.code() is code
            assert ("x-team", "a") in tuple(await call.trailing_metadata())


KNOWN = ErrorInfo(reason="A", domain="b.example", metadata={"said": f"Bearer {TOKEN}"})
UNKNOWN = AnyMessage(type_url="type.googleapis.com/x.Y", value=f"..{TOKEN}..".encode())


@pytest.mark.parametrize("streaming", [False, True])
async def test_the_token_for_a_backend_reaches_nobody(streaming: bool) -> None:
    whole = status(Code.UNAUTHENTICATED, f"no such token: Bearer {TOKEN}", KNOWN)
    whole.details.append(UNKNOWN)
    backend = Misbehaving(
        code=Code.UNAUTHENTICATED,
        text=f"no such token: Bearer {TOKEN}",
        status=whole,
        trailing=(("x-said", TOKEN), ("x-said-bin", TOKEN.encode())),
    )
    async with doors(backend, token=TOKEN) as (grpc_door, http_door):
        error = await of_grpc(grpc_door, streaming)
        _, headers, said = await of_http(http_door, streaming)
    assert dict(backend.metadata)["authorization"] == f"Bearer {TOKEN}"
    assert error.details() == said["message"] == "no such token: Bearer [key]"
    trailers: dict[str, Any] = dict(error.trailing_metadata() or ())
    assert (trailers["x-said"], trailers["x-said-bin"]) == ("[key]", b"[key]")
    assert details(error)[0].metadata["said"] == "Bearer [key]"
    assert b"[key]" in status_in(error).details[1].value
    assert TOKEN not in str((error.trailing_metadata(), said, headers))


async def test_the_token_is_masked_in_answers_too() -> None:
    answers: Any = [plain(id=TOKEN, status="completed", calls=[an_image(id=f"a {TOKEN}")])]
    async with (
        served(Misbehaving(answers), token=TOKEN) as address,
        AsyncImageClient(address) as client,
    ):
        response = await client.generate_image(a_request())
    call = response.calls[0].output_image_generation_call
    assert (response.id, call.id) == ("[key]", "a [key]")
    events: Any = stream()
    events[-1].end.response.id = TOKEN
    async with (
        served(Misbehaving(events), token=TOKEN) as address,
        AsyncImageClient(address) as client,
    ):
        *_, end = [found.message async for found in client.stream_image(a_request())]
    assert isinstance(end, pb.StreamEnd)
    assert end.response.id == "[key]"


SIZES = [
    (Code.RESOURCE_EXHAUSTED, "grpc: received message larger than max (5000041 vs. 4194304)"),
    (Code.RESOURCE_EXHAUSTED, "SERVER: Received message larger than max (5 vs. 4)"),
    (Code.RESOURCE_EXHAUSTED, "gRPC message exceeds maximum size 4194304: 5000041"),
    (Code.RESOURCE_EXHAUSTED, "Received message exceeds the maximum configured message size."),
    (Code.RESOURCE_EXHAUSTED, "message size 5000041 is larger than configured max 4194304"),
    (
        Code.OUT_OF_RANGE,
        "Error, decoded message length too large: found 5000041 bytes, the limit is: 4194304 bytes",
    ),
]


@pytest.mark.parametrize(("code", "text"), SIZES)
async def test_a_request_past_the_limit_of_a_backend_is_413(
    code: grpc.StatusCode, text: str
) -> None:
    async with doors(failing(code, text)) as (grpc_door, http_door):
        error = await of_grpc(grpc_door, False)
        status_code, _, said = await of_http(http_door, True)
    assert (error.code(), status_code) == (Code.RESOURCE_EXHAUSTED, 413)
    assert text in said["message"]
    assert "raise the receive limit" in said["message"]
    assert f"{128 * 1024 * 1024 + 64 * 1024:,} bytes" in said["message"]
    assert said["message"] == error.details()


async def test_a_real_server_at_its_default_limit_refuses_a_large_request_so() -> None:
    backend = Misbehaving(stream())
    async with served(backend) as address, AsyncImageClient(address) as client:
        request = a_request()
        request.input_images.add(image=bytes(5_000_000))
        with pytest.raises(GenerationError) as caught:
            await client.generate_image(request)
    assert (caught.value.reason, backend.calls) == ("UPSTREAM_TOO_LARGE", 0)


async def test_a_quota_stays_429() -> None:
    for infos in ((), (EVERY[2], retry(7))):
        backend = failing(Code.RESOURCE_EXHAUSTED, "the quota of messages is used up", *infos)
        async with doors(backend) as (grpc_door, http_door):
            error = await of_grpc(grpc_door, False)
            code, headers, _ = await of_http(http_door, False)
        assert (error.code(), code) == (Code.RESOURCE_EXHAUSTED, 429)
        assert headers.get("retry-after") == ("7" if infos else None)


BILLED = ErrorInfo(domain="imagecall", metadata={"may_be_billed": "true"})
BEGUN = [
    failing(Code.UNKNOWN, "panic"),
    failing(Code.INTERNAL, "oh"),
    failing(Code.INTERNAL, "oh", EVERY[0]),
    failing(Code.CANCELLED, "stopped"),
    failing(Code.DEADLINE_EXCEEDED, "late"),
    failing(Code.DATA_LOSS, "half"),
    failing(Code.UNAVAILABLE, "upstream connect error or disconnect/reset before headers. "
                              "reset reason: connection termination"),
    failing(Code.UNAVAILABLE, "busy", trailing=(("grpc-retry-pushback-ms", "-1"),)),
    failing(Code.UNAVAILABLE, "busy", retry(7), trailing=(("grpc-retry-pushback-ms", "-1"),)),
    failing(Code.UNAVAILABLE, "x", BILLED),
    failing(Code.RESOURCE_EXHAUSTED, "trying to send message larger than max (5 vs. 4)"),
]  # fmt: skip
NOT_BEGUN = [
    (failing(Code.UNAVAILABLE, "busy"), 503),
    (failing(Code.UNAVAILABLE, "busy", retry(7)), 503),
    (failing(Code.INTERNAL, "try again", retry(7)), 500),
    (failing(Code.UNAVAILABLE, "upstream connect error or disconnect/reset before headers. "
                               "reset reason: remote connection failure"), 503),
    (failing(Code.UNAUTHENTICATED, "who"), 401),
]  # fmt: skip


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("backend", BEGUN, ids=lambda backend: backend.code.name)
async def test_what_may_be_billed_is_said_to_be_so_at_both_doors(
    backend: Misbehaving, streaming: bool
) -> None:
    async with doors(backend) as (grpc_door, http_door):
        error = await of_grpc(grpc_door, streaming)
        code, headers, _ = await of_http(http_door, streaming)
    check_billed(error)
    assert (code, headers["x-should-retry"], headers.get("retry-after")) == (424, "false", None)


def check_billed(error: grpc.aio.AioRpcError) -> None:
    """The status of a failure that may be billed allows no retry, in any of the ways."""
    trailers: dict[str, Any] = dict(error.trailing_metadata() or ())
    assert trailers["grpc-retry-pushback-ms"] == "-1"
    infos = [ErrorInfo(), RetryInfo()]
    found = status_in(error).details
    ours = []
    for detail in found:
        assert not detail.Is(infos[1].DESCRIPTOR)
        info = ErrorInfo()
        if detail.Unpack(info) and info.domain == "imagecall":
            ours.append(info.metadata["may_be_billed"])
    assert ours == ["true"]


@pytest.mark.parametrize(("backend", "expected"), NOT_BEGUN)
async def test_what_costs_nothing_may_be_sent_again(backend: Misbehaving, expected: int) -> None:
    async with doors(backend) as (grpc_door, http_door):
        error = await of_grpc(grpc_door, False)
        code, headers, _ = await of_http(http_door, False)
    assert (code, "x-should-retry" in headers) == (expected, False)
    assert error.code() is backend.code
    trailers: dict[str, Any] = dict(error.trailing_metadata() or ())
    assert trailers.get("grpc-retry-pushback-ms") != "-1"


async def test_a_failure_after_a_part_of_the_answer_may_be_billed() -> None:
    half = stream()[6:7]  # Of an image, so that the HTTP door has sent nothing.
    async with doors(Misbehaving(half, code=Code.UNAVAILABLE, text="busy")) as (near, door):
        check_billed(await of_grpc(near, True))
        assert (await of_http(door, True))[0] == 424


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_silent_backend_is_a_timeout_and_its_call_is_cancelled(streaming: bool) -> None:
    backend = Misbehaving(hangs=True)
    async with doors(backend, idle_seconds=0.3) as (grpc_door, http_door):
        error = await of_grpc(grpc_door, streaming)
        await backend.left.wait()
        backend.left.clear()
        code, _, said = await of_http(http_door, streaming)
        await backend.left.wait()
    assert (error.code(), details(error)[0].reason) == (Code.DEADLINE_EXCEEDED, "UPSTREAM_TIMEOUT")
    check_billed(error)
    assert (code, said["type"]) == (424, "upstream_timeout")


@pytest.mark.parametrize("parts", [3, 9])
async def test_a_backend_that_hangs_in_a_stream_or_after_it_is_a_timeout(parts: int) -> None:
    backend = Misbehaving(stream()[:parts], hangs=True)
    async with doors(backend, idle_seconds=1) as (grpc_door, http_door):
        error = await of_grpc(grpc_door, True)
        await backend.left.wait()
        status, _, said = await of_http(http_door, True)
    assert details(error)[0].reason == "UPSTREAM_TIMEOUT"
    code = (
        504 if status == 200 else 424
    )  # On a slow machine, the time ends before the stream begins.
    assert (said["type"], said["code"]) == ("upstream_timeout", code)


@pytest.mark.timing
async def test_a_slow_reader_is_no_silence_of_a_backend() -> None:
    async with running(Misbehaving(stream())) as backend:
        calling = GrpcBackend(ServerAddress(backend.address), idle_seconds=1)
        count = 0
        async for _ in calling.stream_image(A_STREAM):
            await asyncio.sleep(1.2 if count < 2 else 0)
            count += 1
        await calling.close()
    assert count == len(stream())


PROGRAM = """
import asyncio
from tests.backends.misbehaving import Misbehaving, running
async def called():
    print("called", flush=True)
async def main():
    async with running(Misbehaving(hangs=True, then=called)) as backend:
        print(backend.address, flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


@asynccontextmanager
async def process() -> AsyncIterator[tuple[Any, str]]:
    """A backend in a process of its own, and its address."""
    running_process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, stdout=asyncio.subprocess.PIPE
    )
    assert running_process.stdout
    try:
        yield running_process, (await running_process.stdout.readline()).decode().strip()
    finally:
        with suppress(ProcessLookupError):
            running_process.kill()
        await running_process.wait()


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
async def test_a_backend_that_is_stopped_or_killed_is_noticed(number: signal.Signals) -> None:
    async with process() as (program, address):
        idle_seconds = 1 if number == signal.SIGSTOP else 60
        backend = GrpcBackend(ServerAddress(address), idle_seconds=idle_seconds)
        async with serving(backend) as door:
            failing_call = asyncio.create_task(of_grpc(door, True))
            await program.stdout.readline()
            program.send_signal(number)
            error = await failing_call
    wanted = "UPSTREAM_TIMEOUT" if number == signal.SIGSTOP else "UPSTREAM_DISCONNECTED"
    assert details(error)[0].reason == wanted
    check_billed(error)


async def test_a_lost_connection_is_said_through_two_hops() -> None:
    async with (
        process() as (program, address),
        serving(GrpcBackend(ServerAddress(address))) as near,
        serving(GrpcBackend(ServerAddress(near))) as far,
        door_before(GrpcBackend(ServerAddress(near))) as door,
    ):
        of_far = asyncio.create_task(of_grpc(far, False))
        of_door = asyncio.create_task(of_http(door, False))
        for _ in (of_far, of_door):
            await program.stdout.readline()
        program.kill()
        check_billed(await of_far)
        assert (await of_door)[0] == 424
