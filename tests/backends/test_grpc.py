"""The backend that is another server: a hop that changes nothing."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import pytest

from imagecall.access.admission import Admission
from imagecall.backends.choice import backend_from_uri
from imagecall.backends.embedded.backend import EmbeddedBackend
from imagecall.backends.grpc.backend import GrpcBackend
from imagecall.backends.responses_api.backend import HttpBackend
from imagecall.client import AsyncImageClient
from imagecall.errors import ConversionError, GenerationError
from imagecall.generation.call_context import CALL, CallContext
from imagecall.rpc.addresses import ServerAddress
from imagecall.v1 import image_generation_service_pb2 as pb
from imagecall.v1.image_generation_service_pb2_grpc import ImageGenerationServiceStub
from imagecall.v1.image_request_pb2 import ImageRequest
from tests.doors.test_generation import A_STREAM, AN_IMAGE, a_request, details, serving
from tests.streams import PNG, framed, happy
from tests.until import until
from tests.upstream import HANG, JSON, upstream


@asynccontextmanager
async def two_hops(first: Any) -> AsyncIterator[str]:
    """The address of a server before a server with this backend."""
    async with AsyncExitStack() as stack:
        inner = await stack.enter_async_context(serving(first))
        yield await stack.enter_async_context(serving(GrpcBackend(ServerAddress(inner))))


async def test_an_answer_is_the_same_with_a_hop_and_without() -> None:
    async with serving(EmbeddedBackend()) as near, two_hops(EmbeddedBackend()) as far:
        found: list[Any] = []
        for address in (near, far):
            async with grpc.aio.insecure_channel(address) as channel:
                stub: Any = ImageGenerationServiceStub(channel)
                request = pb.StreamImageRequest(request=a_request(image_bytes=5_000_000))
                parts = [part async for part in stub.StreamImage(request)]
                found.append((parts, (await stub.GenerateImage(AN_IMAGE)).response))
        assert found[0] == found[1]


async def test_errors_come_with_their_details_through_both_hops() -> None:
    async with upstream() as api, two_hops(HttpBackend(api.url)) as address:
        api.say(b'{"error":{"message":"slow"}}', status=429, content_type=JSON,
                headers={"retry-after": "3"})  # fmt: skip
        async with grpc.aio.insecure_channel(address) as channel:
            stub: Any = ImageGenerationServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.GenerateImage(AN_IMAGE)
        info, retry, trailers = details(caught.value)
        assert (caught.value.details(), info.reason) == (
            "the API answered 429: slow",
            "UPSTREAM_RATE_LIMITED",
        )
        assert retry.retry_delay.seconds == 3
        assert trailers["grpc-retry-pushback-ms"] == "3000"
        async with AsyncImageClient(address) as client:
            with pytest.raises(ConversionError) as refused:
                await client.generate_image(ImageRequest())
            assert refused.value.pointer == "/input"
            api.say(framed(happy()[:3], done=False))
            with pytest.raises(GenerationError) as damaged:
                [_ async for _ in client.stream_image(a_request())]
            assert (damaged.value.reason, damaged.value.may_be_billed) == ("UPSTREAM_DAMAGED", True)


async def test_metadata_and_the_deadline_go_along() -> None:
    seen: list[CallContext] = []

    class Seeing(EmbeddedBackend):
        async def generate_image(self, request: Any) -> Any:
            seen.append(CALL.get())
            return await super().generate_image(request)

    async with two_hops(Seeing()) as address, grpc.aio.insecure_channel(address) as channel:
        stub: Any = ImageGenerationServiceStub(channel)
        metadata = (("x-request-id", "req_1"), ("a-bin", b"\x00\xff"))
        await stub.GenerateImage(AN_IMAGE, timeout=3600, metadata=metadata)
        await stub.GenerateImage(AN_IMAGE)
    assert set(metadata) <= set(seen[0].metadata)
    assert seen[0].seconds_left is not None
    assert 3000 < seen[0].seconds_left < 3700  # gRPC rounds a timeout up on its way.
    assert seen[1].seconds_left is None


async def test_a_hop_takes_more_calls_than_a_connection() -> None:
    calls = 300
    inner = Admission()
    async with serving(EmbeddedBackend(), inner) as address:
        backend = GrpcBackend(ServerAddress(address))
        slow = a_request(delay_seconds=60)
        far = [
            asyncio.create_task(backend.generate_image(pb.GenerateImageRequest(request=slow)))
            for _ in range(calls)
        ]
        await until(lambda: inner.in_progress == calls)
        for call in far:
            call.cancel()
        await asyncio.wait(far)
        await backend.close()


@pytest.mark.timing
@pytest.mark.parametrize("way", ["deadline", "cancellation"])
async def test_a_deadline_and_a_cancellation_go_through_both_hops(way: str) -> None:
    async with upstream() as api, two_hops(HttpBackend(api.url)) as address:
        api.say(framed(happy()[:4], done=False), HANG)
        async with grpc.aio.insecure_channel(address) as channel:
            stub: Any = ImageGenerationServiceStub(channel)
            start, seconds = time.monotonic(), 0.4
            call = stub.StreamImage(A_STREAM, timeout=seconds if way == "deadline" else None)
            await call.read()
            await api.arrived.wait()
            if way == "cancellation":
                start, seconds = time.monotonic(), 0
                call.cancel()
            await api.left.wait()
            assert time.monotonic() - start - seconds < 0.1


async def test_a_server_that_is_not_there_is_unreachable() -> None:
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(
            serving(GrpcBackend(ServerAddress("127.0.0.1:1")))
        )
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
        stub: Any = ImageGenerationServiceStub(channel)
        for call in (stub.GenerateImage(AN_IMAGE), stub.StreamImage(A_STREAM).read()):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
            assert details(caught.value)[0].reason == "UPSTREAM_UNREACHABLE"


async def test_an_image_of_an_api_comes_through_both_hops() -> None:
    async with upstream() as api, two_hops(HttpBackend(api.url)) as address:
        image = PNG + bytes(9_000_000)
        api.say(framed(happy(image)))
        async with AsyncImageClient(address) as client:
            found: list[Any] = [
                happening.message async for happening in client.stream_image(a_request())
            ]
        done = found[-2].output_item_done_event.item.output_image_generation_call
        assert done.result.image == image


@pytest.mark.parametrize("name", ["grpc://", "grpc://host", "grpc://host:x", "grpc://h/p:1"])
def test_what_is_no_address_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        backend_from_uri(name)
