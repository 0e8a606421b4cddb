"""The memory of a server: what calls hold, for how long, and what is refused past the budget."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from imagecall.access.admission import Admission
from imagecall.access.budget import CALL_OVERHEAD, MEMORY, Budget
from imagecall.access.limits import Limits
from imagecall.access.waits import Waits
from imagecall.backends.embedded.backend import EmbeddedBackend
from imagecall.doors.grpc.server import GrpcServer
from imagecall.doors.http.server import HttpServer
from imagecall.errors import ConversionError, GenerationError
from imagecall.rpc.status import error_of
from imagecall.v1.conversion_service_pb2 import Conversion, ConvertCallsRequest, ParseCallRequest
from imagecall.v1.conversion_service_pb2_grpc import ConversionServiceStub
from imagecall.v1.extra_field_pb2 import ExtraField
from imagecall.v1.image_generation_service_pb2 import (
    GenerateImageRequest,
    GenerateImageResponse,
    StreamImageRequest,
)
from imagecall.v1.image_generation_service_pb2_grpc import ImageGenerationServiceStub
from imagecall.v1.image_request_pb2 import ImageRequest
from imagecall.v1.image_response_pb2 import ImageResponse
from tests.soak.unread import unread_calls
from tests.until import until

MIB = 1024 * 1024
ITEM = '{"type":"image_generation_call","id":"ig_1"}'
PARSE = "/imagecall.v1.ConversionService/ParseCall"
GENERATE = "/imagecall.v1.ImageGenerationService/GenerateImage"
STREAM = "/imagecall.v1.ImageGenerationService/StreamImage"


SAFE_SECONDS = "imagecall.access.waits._SAFE_SECONDS"


class PeakBudget(Budget):
    """Budget that remembers the most bytes that were held."""

    peak = 0

    def count(self, change: int) -> None:
        super().count(change)
        self.peak = max(self.peak, self.held)


class CountingAdmission(Admission):
    """Admission that counts the calls it has admitted."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self.budget: PeakBudget = PeakBudget(limits.memory_bytes)
        self.admitted = 0

    def take(self) -> None:
        super().take()
        self.admitted += 1


@asynccontextmanager
async def doors(limits: Limits) -> AsyncIterator[tuple[CountingAdmission, str, str]]:
    """Starts both doors; yields their admission and their addresses."""
    admission, backend = CountingAdmission(limits), EmbeddedBackend(limits.embedded_bytes)
    grpc_door = GrpcServer("127.0.0.1:0", backend, admission)
    http_door = HttpServer("127.0.0.1:0", backend, admission)
    try:
        yield admission, await grpc_door.start(), await http_door.start()
    finally:
        await asyncio.gather(grpc_door.stop(0), http_door.stop(0))
        await backend.close()


def wanted(size: int) -> ImageRequest:
    order = json.dumps({"image_bytes": size})
    return ImageRequest(prompt="a fox", extra_fields=[ExtraField(name="embedded", json=order)])


class LongAnswers(EmbeddedBackend):
    """Embedded backend whose whole answers have 8 MiB."""

    async def generate_image(self, request: GenerateImageRequest) -> GenerateImageResponse:
        return GenerateImageResponse(response=ImageResponse(id="x" * 8 * MIB))


async def displaced(channel: grpc.aio.Channel, stream: Any) -> Any:
    """Calls until the stream has made room for a call; returns the error of the stream."""
    stub: Any = ConversionServiceStub(channel)
    answer = None
    while not answer:
        with suppress(grpc.RpcError):  # The stream does not wait yet.
            answer = await stub.ParseCall(ParseCallRequest(json=ITEM))
    with pytest.raises(grpc.RpcError) as caught:
        while await stream.read() is not grpc.aio.EOF:
            pass
    error = known(caught.value)
    assert error.reason == "TOO_MANY_CALLS"
    return error


async def refusal(work: Any) -> Any:
    with pytest.raises(grpc.RpcError) as caught:
        await work
    return caught.value


def known(error: Any) -> Any:
    """Returns the package's error of an error of gRPC."""
    return error_of(error)


@asynccontextmanager
async def unread(
    address: str, path: str, message: bytes, *, count: int = 1, whole: bool = True
) -> AsyncIterator[None]:
    """Begins calls of a client that takes no byte of an answer; ends their connections."""
    writers = await unread_calls(address, path, [message], count, whole=whole)
    try:
        yield
    finally:
        for writer in writers:
            writer.transport.abort()


def test_a_budget_refuses_with_a_time_to_retry_and_keeps_room_for_small_calls() -> None:
    budget = Budget(MIB)
    large, other, small = budget.memory(), budget.memory(), budget.memory()
    large.add(800_000)
    with pytest.raises(GenerationError) as caught:
        other.add(300_000)
    assert (caught.value.reason, caught.value.code) == ("TOO_MANY_CALLS", "RESOURCE_EXHAUSTED")
    assert caught.value.retry_seconds == 1
    assert (other.size, budget.held) == (0, 800_000)
    small.add(200_000)
    with pytest.raises(GenerationError):
        small.add(60_000)
    large.resize(10)
    other.add(300_000)
    for memory in (large, other, small):
        memory.release()
    assert budget.held == 0


def test_a_part_of_the_work_gives_back_what_it_held_also_after_an_error() -> None:
    budget = Budget(MIB)
    memory = budget.memory()
    memory.add(1000)
    with pytest.raises(KeyError), memory.part() as part:
        part.add(5000)
        assert budget.held == 6000
        raise KeyError
    assert budget.held == 1000


async def test_an_answer_waits_for_room_that_another_call_leaves() -> None:
    budget = Budget(MIB)
    first, second = budget.memory(), budget.memory()
    first.add(900_000)
    waiting = asyncio.create_task(second.grow(400_000))
    await asyncio.sleep(0)
    assert not waiting.done()
    first.release()
    await waiting
    assert budget.held == 400_000


async def test_without_a_server_nothing_is_refused() -> None:
    with MEMORY.get().part() as part:
        await part.grow(2**60)


async def test_a_wait_that_is_young_is_not_ended_for_another_call() -> None:
    waits = Waits(60)
    assert not waits.end_longest()
    async with waits.wait():
        assert not waits.end_longest()


async def test_an_answer_that_is_not_taken_holds_memory_until_its_client_is_gone() -> None:
    async with doors(Limits(memory_bytes=16 * MIB)) as (admission, address, _):
        text = ITEM[:-1] + ',"revised_prompt":"' + "x" * 5000 + '"}'
        request = ParseCallRequest(json=text).SerializeToString()
        async with unread(address, PARSE, request, count=10):
            least, most = 10 * (CALL_OVERHEAD + 10_000), 10 * (CALL_OVERHEAD + 10_500)
            await until(lambda: least < admission.budget.held < most)
            assert admission.in_progress == 0
        await until(lambda: admission.budget.held == 0)


async def test_past_the_budget_a_call_is_refused_and_small_calls_and_health_go_on() -> None:
    async with (
        doors(Limits(memory_bytes=16 * MIB)) as (admission, address, _),
        grpc.aio.insecure_channel(address) as channel,
    ):
        conversion: Any = ConversionServiceStub(channel)
        images: Any = ImageGenerationServiceStub(channel)
        request = GenerateImageRequest(request=wanted(4 * MIB)).SerializeToString()
        async with unread(address, GENERATE, request):
            await until(lambda: 8 * MIB < admission.budget.held < 9 * MIB)
            error = await refusal(
                images.GenerateImage(GenerateImageRequest(request=wanted(4 * MIB)))
            )
            assert error_of(error).reason == "TOO_MANY_CALLS"
            assert known(error).retry_seconds == 1
            assert (await conversion.ParseCall(ParseCallRequest(json=ITEM))).call
            health: Any = health_pb2_grpc.HealthStub(channel)
            assert (await health.Check(health_pb2.HealthCheckRequest())).status == 1
        await until(lambda: admission.budget.held == 0)
        large = images.GenerateImage(GenerateImageRequest(request=wanted(3 * MIB)))
        assert (await large).response.calls


async def test_a_stream_that_waits_for_its_client_ends_in_time() -> None:
    async with (
        doors(Limits(stall_seconds=0.2)) as (admission, address, _),
        grpc.aio.insecure_channel(address) as channel,
    ):
        stub: Any = ConversionServiceStub(channel)
        stream = stub.ConvertCalls()
        await stream.write(ConvertCallsRequest(conversions=[Conversion(json=ITEM)]))
        assert (await stream.read()).results
        error = error_of(await refusal(stream.read()))
        assert (error.reason, error.code) == ("CALL_TOO_LONG", "DEADLINE_EXCEEDED")
        await until(lambda: admission.in_progress == 0)


async def test_a_stream_that_is_not_read_ends_in_time() -> None:
    request = StreamImageRequest(request=wanted(MIB)).SerializeToString()
    async with (
        doors(Limits(stall_seconds=0.2)) as (admission, address, _),
        unread(address, STREAM, request),
    ):
        await until(lambda: admission.admitted == 1)
        await until(lambda: admission.in_progress == 0)


async def test_a_request_that_never_ends_ends_in_time_and_counts_as_the_largest() -> None:
    limits = Limits(json_bytes=MIB, stall_seconds=2.0)
    async with (
        doors(limits) as (admission, address, _),
        unread(address, PARSE, b"x" * 1000, whole=False),
    ):
        await until(lambda: admission.budget.peak > MIB)
        await until(lambda: (admission.in_progress, admission.budget.held) == (0, 0))
    assert admission.admitted == 1


async def test_a_stream_that_waits_makes_room_for_a_call_that_needs_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(SAFE_SECONDS, 3600)
    async with (
        doors(Limits(calls=1)) as (_, address, _),
        grpc.aio.insecure_channel(address) as channel,
    ):
        stub: Any = ConversionServiceStub(channel)
        stream = stub.ConvertCalls()
        await stream.write(ConvertCallsRequest(conversions=[Conversion(json=ITEM)]))
        assert (await stream.read()).results
        early = error_of(await refusal(stub.ParseCall(ParseCallRequest(json=ITEM))))
        assert early.reason == "TOO_MANY_CALLS"
        monkeypatch.setattr(SAFE_SECONDS, 0)
        assert (await displaced(channel, stream)).retry_seconds == 1


async def test_a_generation_that_waits_for_its_client_is_not_to_be_sent_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(SAFE_SECONDS, 0.1)
    async with (
        doors(Limits(calls=1)) as (_, address, _),
        grpc.aio.insecure_channel(address) as channel,
    ):
        images: Any = ImageGenerationServiceStub(channel)
        stream = images.StreamImage(StreamImageRequest(request=wanted(16 * MIB)))
        await stream.read()
        error = await displaced(channel, stream)
        assert (error.may_be_billed, error.retry_seconds) == (True, None)


async def test_a_conversion_that_waits_for_its_client_may_be_sent_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(SAFE_SECONDS, 0.1)
    async with (
        doors(Limits(calls=1)) as (_, address, _),
        grpc.aio.insecure_channel(address) as channel,
    ):
        stub: Any = ConversionServiceStub(channel)
        stream = stub.ConvertCalls()
        long = Conversion(json=ITEM[:-1] + ',"revised_prompt":"' + "x" * MIB + '"}')
        await stream.write(ConvertCallsRequest(conversions=[long] * 16))
        await stream.read()
        error = await displaced(channel, stream)
        assert (error.may_be_billed, error.retry_seconds) == (False, 1)


async def test_an_answer_that_does_not_fit_is_not_to_be_sent_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("imagecall.access.budget._ROOM_SECONDS", 0.1)
    options = [("grpc.max_receive_message_length", -1)]
    door = GrpcServer("127.0.0.1:0", LongAnswers(), Admission(Limits(memory_bytes=16 * MIB)))
    try:
        async with grpc.aio.insecure_channel(await door.start(), options) as channel:
            images: Any = ImageGenerationServiceStub(channel)
            error = known(await refusal(images.GenerateImage(GenerateImageRequest())))
    finally:
        await door.stop(0)
    assert (error.reason, error.may_be_billed, error.retry_seconds) == (
        "TOO_MANY_CALLS",
        True,
        None,
    )


async def test_no_compression_is_taken_at_the_grpc_door() -> None:
    async with (
        doors(Limits()) as (_, address, _),
        grpc.aio.insecure_channel(address, compression=grpc.Compression.Gzip) as channel,
    ):
        stub: Any = ConversionServiceStub(channel)
        request = ParseCallRequest(json=ITEM.ljust(100_000))
        error = await refusal(stub.ParseCall(request))
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED
        assert "gzip" in error.details()


async def test_a_call_without_a_request_is_an_invalid_argument() -> None:
    async with (
        doors(Limits()) as (_, address, _),
        grpc.aio.insecure_channel(address) as channel,
    ):
        for path in (PARSE, STREAM, "/grpc.health.v1.Health/Check"):
            call: Any = channel.stream_stream(path)()
            await call.done_writing()
            assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert await call.details() == "the call ended without a request"


async def test_health_takes_small_requests_and_few_watches_of_a_connection() -> None:
    async with (
        doors(Limits()) as (_, address, _),
        grpc.aio.insecure_channel(address) as channel,
        AsyncExitStack() as stack,
    ):
        health: Any = health_pb2_grpc.HealthStub(channel)
        error = error_of(
            await refusal(health.Check(health_pb2.HealthCheckRequest(service="x" * 70_000)))
        )
        assert error.reason == "TOO_LARGE"
        for _ in range(16):
            watch = health.Watch(health_pb2.HealthCheckRequest())
            stack.callback(watch.cancel)
            assert (await watch.read()).status == 1
        late = await refusal(health.Watch(health_pb2.HealthCheckRequest()).read())
        assert error_of(late).reason == "TOO_MANY_CALLS"
        watch.cancel()
        answer = None
        while not answer:
            with suppress(grpc.RpcError):  # The server does not know of the end yet.
                again = health.Watch(health_pb2.HealthCheckRequest())
                stack.callback(again.cancel)
                answer = await again.read()
        assert answer.status == 1


@pytest.mark.parametrize("streaming", [False, True])
async def test_an_answer_that_nobody_reads_at_the_http_door_ends_in_time(streaming: bool) -> None:
    limits = Limits(stall_seconds=0.3)
    async with doors(limits) as (admission, _, address):
        body = json.dumps(
            {"input": "a fox", "stream": streaming, "embedded": {"image_bytes": 8 * MIB}}
        )
        head = (
            "POST /v1/responses HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        host, port = address.split(":")
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, (host, int(port)))
            await loop.sock_sendall(client, (head + body).encode())
            await until(lambda: admission.admitted == 1)
            await until(lambda: (admission.in_progress, admission.budget.held) == (0, 0))


async def test_the_size_of_an_embedded_image_has_a_limit_of_its_own() -> None:
    backend = EmbeddedBackend(max_image_bytes=1_000_000)
    try:
        request = GenerateImageRequest(request=wanted(1_000_001))
        with pytest.raises(ConversionError) as caught:
            await backend.generate_image(request)
        assert (caught.value.reason, caught.value.pointer) == (
            "UNSUPPORTED",
            "/embedded/image_bytes",
        )
        assert "the limit is 1,000,000" in str(caught.value)
        assert await backend.generate_image(GenerateImageRequest(request=wanted(1_000_000)))
    finally:
        await backend.close()
