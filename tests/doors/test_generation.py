"""ImageGenerationService through a real server, with its backends and clients."""

import asyncio
import hashlib
import json
import logging
import random
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc

import imagecall
from imagecall.access.admission import Admission
from imagecall.backends.embedded.backend import EmbeddedBackend
from imagecall.backends.responses_api.backend import HttpBackend
from imagecall.client import AsyncImageClient
from imagecall.doors.grpc.server import GrpcServer
from imagecall.errors import CODES, ConversionError, GenerationError
from imagecall.generation.backend import Backend
from imagecall.rpc.status import error_of
from imagecall.v1 import image_generation_service_pb2 as pb
from imagecall.v1.extra_field_pb2 import ExtraField
from imagecall.v1.image_generation_service_pb2_grpc import ImageGenerationServiceStub
from imagecall.v1.image_request_pb2 import ImageRequest
from tests.readme_regions import ROOT
from tests.streams import PNG, framed, happy, item, response
from tests.until import until
from tests.upstream import HANG, JSON, Answer, Upstream, upstream

KEY = "sk-secret-0123456789"
MIB = 1024 * 1024


@asynccontextmanager
async def serving(backend: Backend, admission: Admission | None = None) -> AsyncIterator[str]:
    server = GrpcServer("127.0.0.1:0", backend, admission)
    try:
        yield await server.start()
    finally:
        await server.stop(0)
        await backend.close()


@pytest.fixture
async def api() -> AsyncIterator[Upstream]:
    async with upstream() as server:
        yield server


@pytest.fixture
async def bridge(api: Upstream) -> AsyncIterator[str]:
    """The address of a server before the API."""
    async with serving(HttpBackend(api.url, KEY)) as address:
        yield address


@pytest.fixture
async def client(bridge: str) -> AsyncIterator[AsyncImageClient]:
    async with AsyncImageClient(bridge) as client:
        yield client


@pytest.fixture
async def plain(bridge: str) -> AsyncIterator[Any]:
    """A stub with no special options."""
    async with grpc.aio.insecure_channel(bridge) as channel:
        yield ImageGenerationServiceStub(channel)


def a_request(**embedded: Any) -> ImageRequest:
    extra = [ExtraField(name="embedded", json=str(embedded).replace("'", '"'))] if embedded else []
    return ImageRequest(prompt="a fox", extra_fields=extra)


A_STREAM = pb.StreamImageRequest(request=a_request())
AN_IMAGE = pb.GenerateImageRequest(request=a_request())


async def test_a_client_with_default_options_receives_an_image_of_64_mb(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = ImageGenerationServiceStub(channel)
        data, ends = hashlib.sha256(), []
        request = pb.StreamImageRequest(request=a_request(image_bytes=64_000_000))
        async for part in stub.StreamImage(request):
            data.update(part.chunk.data)
            if part.chunk.HasField("end"):
                ends.append(part.chunk.end)
        [end] = ends
        assert (end.size, end.sha256, end.media_type) == (64_000_000, data.digest(), "image/png")


async def test_the_embedded_backend_answers_both_methods_alike(address: str) -> None:
    async with AsyncImageClient(address) as client:
        answer = await client.generate_image(a_request(), include_document=True)
        happenings = [happening.message async for happening in client.stream_image(a_request())]
    final: Any = happenings[-2]
    assert final.output_item_done_event.item == answer.calls[0]
    assert (answer.status, answer.model) == ("completed", "imagecall-test-card")
    assert answer.usage.total_tokens == 2
    assert imagecall.document_to_json(answer.document).startswith(b'{"id":"resp_')


async def test_health_knows_the_service(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service="imagecall.v1.ImageGenerationService")
        assert (await stub.Check(request)).status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("size", [100, 5 * MIB])
async def test_an_image_of_an_api_comes_through(
    api: Upstream, client: AsyncImageClient, size: int
) -> None:
    image = PNG + random.Random(size).randbytes(size)
    api.say(framed(happy(image, [PNG])))
    happenings: list[Any] = [
        happening.message async for happening in client.stream_image(a_request())
    ]
    done = happenings[-2].output_item_done_event.item
    assert imagecall.view(done).image == image
    api.say(json.dumps(response(item(image))).encode(), content_type=JSON)
    [call] = (await client.generate_image(a_request())).calls
    assert call == done


def details(error: grpc.aio.AioRpcError) -> tuple[ErrorInfo, RetryInfo, dict[str, Any]]:
    trailers: dict[str, Any] = dict(error.trailing_metadata() or ())
    info, retry = ErrorInfo(), RetryInfo()
    for detail in Status.FromString(trailers["grpc-status-details-bin"]).details:
        for known in (info, retry):
            if detail.Is(known.DESCRIPTOR):
                detail.Unpack(known)
    return info, retry, trailers


@pytest.mark.parametrize("method", ["GenerateImage", "StreamImage"])
async def test_a_failure_of_the_api_is_a_status_with_its_details(
    api: Upstream, plain: Any, method: str
) -> None:
    body = b'{"error":{"message":"slow down","code":"rate_limit_exceeded"}}'
    api.say(body, status=429, content_type=JSON, headers={"retry-after": "2.5"})
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        if method == "StreamImage":
            async for _ in plain.StreamImage(A_STREAM):
                raise AssertionError
        else:
            await plain.GenerateImage(AN_IMAGE)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert caught.value.details() == "the API answered 429: slow down"
    info, retry, trailers = details(caught.value)
    assert (info.reason, info.domain) == ("UPSTREAM_RATE_LIMITED", "imagecall")
    assert dict(info.metadata) == {"http_status": "429", "upstream_code": "rate_limit_exceeded"}
    assert retry.retry_delay.ToMilliseconds() == 2500
    assert trailers["grpc-retry-pushback-ms"] == "2500"


async def test_the_client_raises_what_the_server_did(
    api: Upstream, client: AsyncImageClient
) -> None:
    api.say(b"{}", status=429, content_type=JSON, headers={"retry-after": "2"})
    with pytest.raises(GenerationError) as caught:
        await client.generate_image(a_request())
    assert (caught.value.reason, caught.value.code) == (
        "UPSTREAM_RATE_LIMITED",
        "RESOURCE_EXHAUSTED",
    )
    assert (caught.value.retry_seconds, caught.value.may_be_billed) == (2, False)
    assert caught.value.metadata == {"http_status": "429"}
    with pytest.raises(ConversionError) as refused:
        await client.generate_image(ImageRequest())
    assert (refused.value.reason, refused.value.pointer) == ("EMPTY_PROMPT", "/input")
    api.say(framed(happy()[:3], done=False))
    with pytest.raises(GenerationError) as damaged:
        [_ async for _ in client.stream_image(a_request())]
    assert (damaged.value.reason, damaged.value.may_be_billed) == ("UPSTREAM_DAMAGED", True)
    async with AsyncImageClient("127.0.0.1:1") as nowhere:
        with pytest.raises(GenerationError) as unreachable:
            await nowhere.generate_image(a_request(), timeout=60)
    assert (unreachable.value.reason, unreachable.value.code) == ("", "UNAVAILABLE")


async def test_the_client_retries_what_cannot_have_cost_anything(
    api: Upstream, client: AsyncImageClient
) -> None:
    busy = Answer(status=503, content_type=JSON, headers={"retry-after": "0"})
    api.answers = [busy, busy, Answer([framed(happy())])]
    happenings = [happening.message async for happening in client.stream_image(a_request())]
    assert (len(happenings), len(api.requests)) == (6, 3)
    api.answers = [busy]
    api.requests.clear()
    with pytest.raises(GenerationError):
        await client.generate_image(a_request())
    assert len(api.requests) == 4


async def test_the_client_never_retries_what_may_have_cost_something(
    api: Upstream, client: AsyncImageClient
) -> None:
    answers = [
        Answer(status=None),
        Answer([b'{"error":{"code":"server_error"}}'], content_type=JSON),
        Answer([b'data: {"type":"error","code":"server_error"}\n\n', HANG]),
        Answer([framed(happy()[:3], done=False)], whole=False),
    ]
    for answer in answers:
        api.answers = [answer]
        api.requests.clear()
        with pytest.raises(GenerationError) as caught:
            [_ async for _ in client.stream_image(a_request())]
        assert caught.value.may_be_billed
        assert len(api.requests) == 1


async def test_a_call_that_has_worked_for_a_while_is_not_retried_by_grpc(
    api: Upstream, bridge: str
) -> None:
    class Slow(Answer):
        def head(self) -> bytes:
            return b""

    late = b"HTTP/1.1 503 X\r\ncontent-length: 0\r\nretry-after: 0\r\n\r\n"
    api.answers = [Slow([1.5, late], chunked=False)]
    options = [("grpc.service_config", (ROOT / "scripts/deploy/service_config.json").read_text())]
    async with grpc.aio.insecure_channel(bridge, options) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ImageGenerationServiceStub(channel).GenerateImage(AN_IMAGE)
    assert error_of(caught.value).reason == "UPSTREAM_UNAVAILABLE"
    assert len(api.requests) == 1


@pytest.mark.timing
@pytest.mark.parametrize("method", ["GenerateImage", "StreamImage"])
@pytest.mark.parametrize("way", ["deadline", "cancellation"])
async def test_a_deadline_and_a_cancellation_reach_the_api_at_once(
    api: Upstream, plain: Any, way: str, method: str
) -> None:
    api.say(framed(happy()[:4], done=False) if method == "StreamImage" else b" ", HANG)
    seconds = 0.4
    timeout = seconds if way == "deadline" else None
    start = time.monotonic()
    call = (
        plain.StreamImage(A_STREAM, timeout=timeout)
        if method == "StreamImage"
        else plain.GenerateImage(AN_IMAGE, timeout=timeout)
    )
    waiting = asyncio.ensure_future(_all(call) if method == "StreamImage" else _one(call))
    await api.arrived.wait()
    if way == "cancellation":
        await asyncio.sleep(0.1)
        start, seconds = time.monotonic(), 0
        call.cancel()
    await api.left.wait()
    assert time.monotonic() - start - seconds < 0.1
    with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
        await waiting


async def _all(call: Any) -> list[Any]:
    return [part async for part in call]


async def _one(call: Any) -> Any:
    return await call


async def test_a_deadline_ends_the_embedded_backend_too() -> None:
    admission = Admission()
    async with (
        serving(EmbeddedBackend(), admission) as address,
        AsyncImageClient(address) as client,
    ):
        for calling in (
            client.generate_image(a_request(delay_seconds=3600), timeout=0.5),
            _all(client.stream_image(a_request(delay_seconds=3600), timeout=0.5)),
        ):
            with pytest.raises(GenerationError) as caught:
                await calling
            assert caught.value.code == "DEADLINE_EXCEEDED"
            await until(lambda: admission.in_progress == 0)


async def test_a_slow_client_holds_the_api_back(api: Upstream, plain: Any) -> None:
    body = framed(happy(PNG + random.Random(6).randbytes(32 * MIB)))
    steps = [body[offset : offset + MIB] for offset in range(0, len(body), MIB)]
    api.say(*steps)
    call = plain.StreamImage(A_STREAM)
    async for part in call:
        if part.HasField("chunk"):
            break
    await asyncio.sleep(1)
    assert len(api.sent_at) < len(steps) / 2
    size = len(part.chunk.data) + sum([len(part.chunk.data) async for part in call])
    assert size == len(PNG) + 32 * MIB


async def test_a_bad_call_does_not_disturb_the_others(
    api: Upstream, client: AsyncImageClient
) -> None:
    good = Answer([framed(happy(PNG + bytes(3 * MIB)))])
    bad = [
        Answer([b"<html>"]),
        Answer([b"data: {]\n\n"]),
        Answer(status=None),
        Answer([framed(happy(PNG + bytes(3 * MIB)))[: 2 * MIB]], whole=False),
        Answer(status=500, headers={"x-request-id": "\xff"}),
    ]
    api.answers = [answer for one in bad for answer in (good, one)] * 2

    async def outcome() -> str:
        try:
            return str(len([_ async for _ in client.stream_image(a_request())]))
        except GenerationError as error:
            return error.reason

    found = await asyncio.gather(*(outcome() for _ in range(20)))
    assert found.count("6") >= 10
    assert not {reason for reason in found if not reason.startswith("UPSTREAM")} - {"6"}
    api.answers = [good]
    assert await outcome() == "6"


async def test_no_log_shows_a_key_a_prompt_or_an_image(
    api: Upstream, client: AsyncImageClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    api.answers = [
        Answer([framed(happy(PNG + bytes(MIB)))]),
        Answer([b"data: {]\n\n"]),
        Answer([KEY.encode()], status=401, content_type="text/plain"),
        Answer(status=None),
    ]
    for _ in api.answers:
        try:
            [_ async for _ in client.stream_image(a_request())]
        except GenerationError as error:
            assert KEY not in str(error)
    text = caplog.text
    assert KEY not in text
    assert "a fox" not in text
    assert "iVBOR" not in text


async def test_leaving_the_stream_of_the_client_ends_the_call(
    api: Upstream, client: AsyncImageClient
) -> None:
    api.say(framed(happy()[:4], done=False), HANG)
    async with aclosing(client.stream_image(a_request())) as happenings:
        async for _ in happenings:
            break
    await api.left.wait()


async def test_an_image_past_the_limit_of_the_client_is_refused(address: str) -> None:
    async with AsyncImageClient(address, max_image_bytes=1000) as client:
        with pytest.raises(ConversionError) as caught:
            await _all(client.stream_image(a_request()))
    assert caught.value.reason == "TOO_LARGE"


@pytest.mark.parametrize("method", ["GenerateImage", "StreamImage"])
async def test_a_call_that_ends_when_its_metadata_leaves_gets_its_answer(
    address: str, method: str
) -> None:
    async def outcome(caller: AsyncImageClient, delay: float, ending: str) -> str:
        asked = a_request(delay_seconds=delay, ending=ending)
        try:
            if method == "StreamImage":
                *_, last = await _all(caller.stream_image(asked, timeout=60))
                return type(last.message).__name__
            return (await caller.generate_image(asked, timeout=60)).status
        except GenerationError as error:
            return error.reason or error.code

    async with AsyncImageClient(address) as caller:
        delays = [0.985 + n / 5000 for n in range(100)]
        endings = ["failed", "cut"] * 50
        found = await asyncio.gather(*map(outcome, [caller] * 100, delays, endings))
    assert "DEADLINE_EXCEEDED" not in found
    assert set(found) <= {"StreamEnd", "failed", "UPSTREAM_DAMAGED"}


@pytest.mark.parametrize("method", ["GenerateImage", "StreamImage"])
async def test_bytes_that_are_no_request_are_an_invalid_argument(address: str, method: str) -> None:
    path = f"/imagecall.v1.ImageGenerationService/{method}"
    async with grpc.aio.insecure_channel(address) as channel:
        raw: Any = channel.unary_stream if method == "StreamImage" else channel.unary_unary
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            call = raw(path)(b"\xff\xff")
            await (call.read() if method == "StreamImage" else call)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert details(caught.value)[0].reason == "MALFORMED_PROTOBUF"


async def test_a_long_message_of_the_api_does_not_hide_the_status(
    api: Upstream, client: AsyncImageClient
) -> None:
    error = {"message": "\u6c49" * 5000, "param": "\u6c49" * 5000, "code": "\u6c49" * 500}
    api.say(json.dumps({"error": error}).encode(), status=400, content_type=JSON)
    with pytest.raises(GenerationError) as caught:
        await client.generate_image(a_request())
    assert (caught.value.code, caught.value.reason) == (
        "INVALID_ARGUMENT",
        "UPSTREAM_INVALID_REQUEST",
    )


OF_THE_SERVER = ("TOO_MANY_CALLS", "TOKEN_REQUIRED", "CALL_TOO_LONG")


@pytest.mark.parametrize("billed", [False, True])
@pytest.mark.parametrize("reason", CODES)
async def test_every_error_comes_back_from_its_status(reason: str, billed: bool) -> None:
    class Failing(EmbeddedBackend):
        async def generate_image(self, request: pb.GenerateImageRequest) -> Any:
            raise error

    error: ConversionError | GenerationError = ConversionError(reason, "/a/b", "a sentence")
    if reason.startswith("UPSTREAM_") or reason in OF_THE_SERVER:
        known = {"http_status": "500"}
        error = GenerationError(
            reason,
            "a sentence",
            pointer="/a/b",
            retry_seconds=None if billed else 0.001,
            may_be_billed=billed,
            metadata=known,
        )
    async with serving(Failing()) as address, AsyncImageClient(address) as client:
        with pytest.raises(type(error)) as caught:
            await client.generate_image(a_request(), timeout=60)
    found = caught.value.__dict__
    assert Status.FromString(found.pop("status")).details
    assert found.pop("trailers") == ()
    assert (str(caught.value), found) == (str(error), error.__dict__)
