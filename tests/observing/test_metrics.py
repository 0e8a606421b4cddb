"""Metrics of real calls, at the door for Prometheus."""

import asyncio
import base64
import json
import platform
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest

import imagecall
from imagecall.access.admission import Admission
from imagecall.access.limits import Limits
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
from imagecall.rpc.final_status import final_status
from imagecall.server.run import watch
from imagecall.sizes import PIECE
from imagecall.v1 import conversion_service_pb2 as pb
from imagecall.v1.conversion_service_pb2_grpc import ConversionServiceStub
from imagecall.v1.image_generation_service_pb2_grpc import ImageGenerationServiceStub
from imagecall.wire.chunks import split
from tests.doors.test_generation import A_STREAM, AN_IMAGE
from tests.observing.servers import grpc_door, http_door, metrics_door, observing, samples
from tests.until import until
from tests.upstream import HANG, upstream

PARSE = "imagecall.v1.ConversionService/ParseCall"


async def test_calls_bytes_and_items_are_counted_by_names_of_ours() -> None:
    async with (
        observing(metrics="127.0.0.1:0") as seen,
        http_door(EmbeddedBackend(), observer=seen) as door,
        metrics_door(seen) as metrics,
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
        found = await samples(metrics)
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
        observing(metrics="127.0.0.1:0") as seen,
        metrics_door(seen) as metrics,
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
            with pytest.raises(grpc.aio.AioRpcError) as caught, final_status(call):
                [_ async for _ in call]
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        with pytest.raises(grpc.aio.AioRpcError):
            await generation.GenerateImage(AN_IMAGE, metadata=padded)
        found = await samples(metrics)
    assert found["imagecall_calls_refused_total", frozenset(["grpc", "TOO_LARGE"])] == 3


async def test_images_in_flight_and_refused_calls() -> None:
    admission = Admission(Limits(calls=1))
    async with upstream() as api, observing(metrics="127.0.0.1:0") as seen:
        api.say(HANG)
        options: Any = {"admission": admission, "observer": seen}
        async with (
            metrics_door(seen) as metrics,
            grpc_door(HttpBackend(api.url), **options) as address,
            grpc.aio.insecure_channel(address) as channel,
        ):
            stub: Any = ImageGenerationServiceStub(channel)
            call = stub.GenerateImage(AN_IMAGE)
            waiting = asyncio.ensure_future(call.code())
            await api.arrived.wait()
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.GenerateImage(AN_IMAGE)
            in_flight = "imagecall_images_in_flight", frozenset(["grpc"])
            while (found := await samples(metrics))[in_flight] > 1:  # However many calls there are.
                pass  # The refused call ends at its client first.
            assert found[in_flight] == 1
            assert found["imagecall_calls_in_progress", frozenset(["grpc"])] == 1
            refused = frozenset(["grpc", "TOO_MANY_CALLS"])
            assert found["imagecall_calls_refused_total", refused] == 1
            call.cancel()
            await waiting
            await api.left.wait()
            sent: list[frozenset[str]] = []
            while not sent or found[in_flight]:
                found = await samples(metrics)
                name = "http_client_request_duration_seconds_count"
                sent = [key[1] for key in found if key[0] == name]
    assert len(sent) == 1
    assert "CANCELLED" in sent[0]


async def test_the_series_of_alerts_and_of_the_autoscaler_are_0_before_the_first_call() -> None:
    async with (
        observing(metrics="127.0.0.1:0") as seen,
        http_door(EmbeddedBackend(), observer=seen),
        grpc_door(EmbeddedBackend(), observer=seen),
        metrics_door(seen) as door,
    ):
        found = await samples(door)
    for label in ("grpc", "http"):
        assert found["imagecall_calls_in_progress", frozenset([label])] == 0
        assert found["imagecall_images_in_flight", frozenset([label])] == 0
        for reason in ("TOO_MANY_CALLS", "TOKEN_REQUIRED", "TOO_LARGE"):
            assert found["imagecall_calls_refused_total", frozenset([label, reason])] == 0
        for outcome in ("ok", "no_image", "failed", "UPSTREAM_UNREACHABLE", "CANCELLED"):
            assert found["imagecall_generations_total", frozenset([label, outcome])] == 0
    for method in (PARSE, "imagecall.v1.ImageGenerationService/StreamImage"):
        for outcome in ("ok", "rejected", "refused", "cancelled", "failed"):
            assert found["imagecall_calls_total", frozenset(["grpc", method, outcome])] == 0
    for path in ("/v1/responses", "/convert"):
        labels = frozenset(["http", f"POST {path}", "failed"])
        assert found["imagecall_calls_total", labels] == 0
    version = frozenset([imagecall.__version__, platform.python_version()])
    assert found["imagecall_build_info", version] == 1
    assert found["process_resident_memory_bytes", frozenset()] > 0


async def test_at_the_door_for_prometheus_no_call_can_be_made(tmp_path: Path) -> None:
    async with (
        observing(metrics="127.0.0.1:0") as seen,
        http_door(EmbeddedBackend(), observer=seen) as door,
        metrics_door(seen) as metrics,
        aiohttp.ClientSession() as session,
    ):
        for url in (f"{door}/metrics", f"{metrics}/", f"{metrics}/health"):
            async with session.get(url) as answer:
                assert answer.status == 404
        async with session.post(f"{metrics}/v1/responses", json={"input": "x"}) as answer:
            assert answer.status == 404
        async with session.post(f"{metrics}/metrics") as answer:
            assert answer.status == 405


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:9464", 200),
        ("127.0.0.1", 200),
        ("[::1]:9464", 200),
        ("rebound.example:9464", 403),
        ("127.0.0.1.rebound.example", 403),
        ("", 403),
    ],
)
async def test_on_loopback_the_metrics_are_for_this_machine(host: str, status: int) -> None:
    async with (
        observing(metrics="127.0.0.1:0") as seen,
        metrics_door(seen) as door,
        aiohttp.ClientSession() as session,
        session.get(f"{door}/metrics", headers={"host": host}) as answer,
    ):
        assert answer.status == status


async def test_requests_of_other_methods_and_paths_are_in_the_durations() -> None:
    async with (
        observing(metrics="127.0.0.1:0") as seen,
        http_door(EmbeddedBackend(), observer=seen) as door,
        metrics_door(seen) as metrics,
        aiohttp.ClientSession() as session,
    ):
        await session.get(f"{door}/nowhere")
        await session.get(f"{door}/v1/responses")
        await session.post(f"{door}/health")
        await session.get(f"{door}/health")
        await session.get(f"{door}/")
        found = await samples(metrics)
    counts = {
        labels - {"http"}: value
        for (name, labels), value in found.items()
        if name == "http_server_request_duration_seconds_count"
    }
    assert counts == {
        frozenset(["GET", "404"]): 1,
        frozenset(["GET", "/v1/responses", "405"]): 1,
        frozenset(["POST", "405"]): 1,
    }


async def test_the_memory_that_calls_hold_is_a_gauge() -> None:
    admission = Admission()
    may_end = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b" " * 2 * PIECE
        await may_end.wait()

    async with (
        observing(metrics="127.0.0.1:0") as seen,
        http_door(EmbeddedBackend(), admission=admission, observer=seen) as door,
        metrics_door(seen) as metrics,
        aiohttp.ClientSession() as session,
    ):
        watch(seen, admission)
        json_type = {"content-type": "application/json"}
        sending = asyncio.create_task(
            session.post(f"{door}/convert", data=body(), headers=json_type)
        )
        name = ("imagecall_memory_bytes", frozenset[str]())
        await until(lambda: admission.budget.held >= 2 * PIECE)
        seen.sample()
        assert (await samples(metrics))[name] >= 2 * PIECE
        may_end.set()
        await sending
        seen.sample()
        assert (await samples(metrics))[name] == 0


async def test_a_head_past_the_limit_is_a_refused_call() -> None:
    async with (
        observing(metrics="127.0.0.1:0") as seen,
        http_door(EmbeddedBackend(), observer=seen) as door,
        metrics_door(seen) as metrics,
        aiohttp.ClientSession() as session,
    ):
        headers = {f"x-{number}": "y" for number in range(600)}
        async with session.post(f"{door}/v1/responses", json={}, headers=headers) as answer:
            assert answer.status == 431
        found = await samples(metrics)
    assert found["imagecall_calls_refused_total", frozenset(["http", "TOO_LARGE"])] == 1
    refused = frozenset(["http", "POST /v1/responses", "refused"])
    assert found["imagecall_calls_total", refused] == 1


async def test_items_of_the_page_are_counted() -> None:
    async with (
        observing(metrics="127.0.0.1:0") as seen,
        http_door(EmbeddedBackend(), observer=seen) as door,
        metrics_door(seen) as metrics,
        aiohttp.ClientSession() as session,
    ):
        await session.post(f"{door}/convert", json={"type": "image_generation_call", "id": "ig_1"})
        await session.post(f"{door}/convert", json={"id": "ig_1"})
        found = await samples(metrics)
    variant = "output_image_generation_call"
    items = "imagecall_items_total"
    assert found[items, frozenset(["parse", variant, "ok"])] == 1
    assert found[items, frozenset(["parse", variant, "MISSING_KEY"])] == 1


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
