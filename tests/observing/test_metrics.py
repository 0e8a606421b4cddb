"""Metrics of real calls, at GET /metrics."""

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest

from imagecall.access.admission import Admission
from imagecall.access.limits import Limits
from imagecall.access.tokens import Tokens
from imagecall.backends.embedded.backend import EmbeddedBackend
from imagecall.backends.responses_api.backend import HttpBackend
from imagecall.observing.metrics import Metrics
from imagecall.observing.operations import (
    Operation,
    http_called,
    http_served,
    rpc_called,
    rpc_served,
)
from imagecall.v1 import conversion_service_pb2 as pb
from imagecall.v1.conversion_service_pb2_grpc import ConversionServiceStub
from imagecall.v1.image_generation_service_pb2_grpc import ImageGenerationServiceStub
from imagecall.wire.chunks import split
from tests.doors.test_generation import A_STREAM, AN_IMAGE
from tests.observing.servers import grpc_door, http_door, observing, samples
from tests.upstream import HANG, upstream

PARSE = "imagecall.v1.ConversionService/ParseCall"
TOKEN = "token-0123456789abcdef"


async def test_calls_bytes_and_items_are_counted_by_names_of_ours() -> None:
    async with (
        observing(metrics="on") as seen,
        http_door(EmbeddedBackend(), observer=seen) as door,
        grpc_door(EmbeddedBackend(), observer=seen) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        stub: Any = ConversionServiceStub(channel)
        request = pb.ParseCallRequest(json='{"type":"image_generation_call","id":"ig_1"}')
        for _ in range(3):
            await stub.ParseCall(request)
        for faulty in ({"variant": "a name of a client"}, {"profile": 2}):
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.ParseCall(pb.ParseCallRequest(json=request.json, **faulty))
        big = {"type": "image_generation_call", "result": base64.b64encode(bytes(5 * 2**20))}
        text = json.dumps(big, default=bytes.decode)
        items = [
            pb.Conversion(json=request.json),
            pb.Conversion(json=text),
            pb.Conversion(json=""),
            pb.Conversion(call_chunk=next(split(b"no message"))),
        ]
        asked = pb.ConvertCallsRequest(conversions=items)
        [_ async for _ in stub.ConvertCalls(iter([asked]))]
        async with aiohttp.ClientSession() as session:
            await session.post(f"{door}/nowhere", json={})
        found = await samples(door)
    count = "rpc_server_call_duration_seconds_count"
    assert found[count, frozenset(["grpc", PARSE, "OK"])] == 3
    refused = frozenset(["grpc", PARSE, "INVALID_ARGUMENT", "UNKNOWN_VARIANT"])
    assert found[count, refused] == 1
    received = found["imagecall_received_bytes_total", frozenset(["grpc", PARSE])]
    assert received > 3 * request.ByteSize()
    assert found["imagecall_sent_bytes_total", frozenset(["grpc", PARSE])] > 0
    items_seen = {
        key[1]: value for key, value in found.items() if key[0] == "imagecall_items_total"
    }
    variant = "output_image_generation_call"
    assert items_seen == {
        frozenset(["parse", variant, "ok"]): 5,
        frozenset(["parse", "unknown", "UNKNOWN_VARIANT"]): 1,
        frozenset(["parse", variant, "MISSING_KEY"]): 1,
        frozenset(["parse", variant, "NOT_JSON"]): 1,
        frozenset(["format", "none", "MALFORMED_PROTOBUF"]): 1,
    }
    assert found["imagecall_calls_in_progress", frozenset(["grpc"])] == 0
    labels = {label for _, labels in found for label in labels}
    assert not {label for label in labels if "client" in label or "nowhere" in label}
    requests = "http_server_request_duration_seconds_count"
    assert found[requests, frozenset(["POST", "http", "404"])] == 1


async def test_calls_with_too_much_metadata_are_refused_and_counted() -> None:
    async with (
        observing(metrics="on") as seen,
        http_door(EmbeddedBackend(), observer=seen) as door,
        grpc_door(EmbeddedBackend(), observer=seen) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        conversions: Any = ConversionServiceStub(channel)
        generation: Any = ImageGenerationServiceStub(channel)
        padded = [("x-padding", "y" * 20_000)]
        asked = pb.ConvertCallsRequest(conversions=[pb.Conversion(json="{}")])
        for call in (
            conversions.ConvertCalls(iter([asked]), metadata=padded),
            generation.StreamImage(A_STREAM, metadata=padded),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                [_ async for _ in call]
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        with pytest.raises(grpc.aio.AioRpcError):
            await generation.GenerateImage(AN_IMAGE, metadata=padded)
        found = await samples(door)
    assert found["imagecall_calls_refused_total", frozenset(["grpc", "TOO_LARGE"])] == 3


async def test_images_in_flight_and_refused_calls() -> None:
    admission = Admission(Limits(calls=1))
    async with upstream() as api, observing(metrics="on") as seen:
        api.say(HANG)
        options: Any = {"admission": admission, "observer": seen}
        async with (
            http_door(EmbeddedBackend(), **options) as door,
            grpc_door(HttpBackend(api.url), **options) as address,
            grpc.aio.insecure_channel(address) as channel,
        ):
            stub: Any = ImageGenerationServiceStub(channel)
            call = stub.GenerateImage(AN_IMAGE)
            waiting = asyncio.ensure_future(call.code())
            await asyncio.wait_for(api.arrived.wait(), 5)
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.GenerateImage(AN_IMAGE)
            found = await samples(door)  # However many calls there are.
            assert found["imagecall_images_in_flight", frozenset(["grpc"])] == 1
            assert found["imagecall_calls_in_progress", frozenset(["grpc"])] == 1
            refused = frozenset(["grpc", "TOO_MANY_CALLS"])
            assert found["imagecall_calls_refused_total", refused] == 1
            call.cancel()
            await waiting
            await asyncio.wait_for(api.left.wait(), 5)
            await asyncio.sleep(0.1)
            found = await samples(door)
    assert found["imagecall_images_in_flight", frozenset(["grpc"])] == 0
    (sent,) = (key[1] for key in found if key[0] == "http_client_request_duration_seconds_count")
    assert "CANCELLED" in sent


async def test_metrics_need_a_token_where_one_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(f"someone {TOKEN}\n")
    admission = Admission(Limits(), Tokens(tmp_path / "tokens"))
    async with (
        observing(metrics="on") as seen,
        http_door(EmbeddedBackend(), admission=admission, observer=seen) as door,
        aiohttp.ClientSession() as session,
    ):
        for path in ("/metrics", "/metrics/", "//metrics"):
            async with session.get(door + path) as answer:
                assert answer.status in (401, 404)
                assert "process_" not in await answer.text()
        assert await samples(door, authorization=f"Bearer {TOKEN}")
    async with (
        http_door(EmbeddedBackend()) as door,
        aiohttp.ClientSession() as session,
        session.get(f"{door}/metrics") as answer,
    ):
        assert answer.status == 404


async def test_calls_in_progress_are_0_before_the_first_call() -> None:
    async with observing(metrics="on") as seen, http_door(EmbeddedBackend(), observer=seen) as door:
        found = await samples(door)
    for name in ("imagecall_calls_in_progress", "imagecall_images_in_flight"):
        for label in ("grpc", "http"):
            assert found[name, frozenset([label])] == 0


@pytest.mark.parametrize(
    "operation",
    [
        rpc_served("a.B/C", generates=True),
        http_served("POST", "/v1/responses", "http", generates=True),
        rpc_called("a.B/C", "localhost:1"),
        http_called("http://localhost:1/v1/responses"),
    ],
    ids=lambda operation: operation.duration,
)
def test_attributes_of_an_operation_are_labels_of_its_histogram(operation: Operation) -> None:
    metrics = Metrics()
    metrics.ended(operation, 200, "why", 1)
    text = metrics.text("")[0].decode()
    (line,) = (line for line in text.splitlines() if line.startswith(f"{operation.duration}_count"))
    outcome = {operation.code_attribute: 200, "error.type": "why"}
    for name, value in {**operation.attributes, **outcome}.items():
        assert f'{name.replace(".", "_")}="{value}"' in line
