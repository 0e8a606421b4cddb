"""What is seen of real calls: traces and metrics at a receiver of OTLP, /metrics, and the logs."""

import asyncio
import base64
import io
import json
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from aiohttp import web
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import SpanContext, TraceState
from prometheus_client.parser import text_string_to_metric_families

from imagecall.access.admission import Admission
from imagecall.access.limits import Limits
from imagecall.access.tokens import Tokens
from imagecall.backends.embedded.backend import EmbeddedBackend
from imagecall.backends.grpc import GrpcBackend
from imagecall.backends.responses_api.backend import HttpBackend
from imagecall.doors.grpc.server import GrpcServer
from imagecall.doors.http.server import HttpServer
from imagecall.generation.backend import Backend
from imagecall.observing.logs import JsonFormatter, TextFormatter
from imagecall.observing.metrics import Metrics
from imagecall.observing.observer import (
    Observer,
    Operation,
    http_called,
    http_served,
    rpc_served,
)
from imagecall.observing.span import Outcome, Span
from imagecall.observing.span_exporter import _encoded, _readable
from imagecall.observing.start import observer_from
from imagecall.rpc.addresses import ServerAddress
from imagecall.server.settings import ServerSettings, read_settings
from imagecall.v1 import conversion_service_pb2 as pb
from imagecall.v1.conversion_service_pb2_grpc import ConversionServiceStub
from imagecall.v1.image_generation_service_pb2_grpc import ImageGenerationServiceStub
from imagecall.wire.chunks import split
from tests.doors.test_generation import A_STREAM, AN_IMAGE
from tests.streams import PNG, framed, happy, item, response
from tests.upstream import HANG, JSON, upstream

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{CALLER}-01"
PARSE = "imagecall.v1.ConversionService/ParseCall"
KEY = "sk-planted-0123456789abcdef"
TOKEN = "token-planted-0123456789abcdef"
SECRET = b"planted image bytes, which nobody should see"


class Receiver:
    """A receiver of OTLP over HTTP."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resources: list[Any] = []
        self.metrics: dict[str, Any] = {}
        self.bodies: list[bytes] = []

    async def traces(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.bodies.append(body)
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resources.append(of_resource.resource)
            for of_scope in of_resource.scope_spans:
                self.spans.extend(of_scope.spans)
        return web.Response()

    async def latest(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.bodies.append(body)
        for of_resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
            for of_scope in of_resource.scope_metrics:
                self.metrics.update({metric.name: metric for metric in of_scope.metrics})
        return web.Response()


@pytest.fixture
async def receiver(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Receiver]:
    found = Receiver()
    app = web.Application(client_max_size=2**26)
    app.router.add_post("/v1/traces", found.traces)
    app.router.add_post("/v1/metrics", found.latest)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    yield found
    await runner.cleanup()


@asynccontextmanager
async def observing(**settings: str) -> AsyncIterator[Observer]:
    """An observer as the settings have it; at the end everything is sent."""
    chosen = read_settings(ServerSettings, settings, {})
    observer = observer_from(chosen.metrics, chosen.traces, chosen.log_calls)
    assert observer
    try:
        yield observer
    finally:
        await asyncio.to_thread(observer.close)


@asynccontextmanager
async def grpc_door(backend: Backend, **options: Any) -> AsyncIterator[str]:
    server = GrpcServer("127.0.0.1:0", backend, **options)
    try:
        yield await server.start()
    finally:
        await server.stop(0)
        await backend.close()


@asynccontextmanager
async def http_door(backend: Backend, **options: Any) -> AsyncIterator[str]:
    server = HttpServer("127.0.0.1:0", backend, **options)
    try:
        yield f"http://{await server.start()}"
    finally:
        await server.stop(1)
        await backend.close()


@contextmanager
def logged(formatter: logging.Formatter) -> Iterator[io.StringIO]:
    """What comes of the log in a form."""
    handler = logging.StreamHandler(written := io.StringIO())
    handler.setFormatter(formatter)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield written
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def attributes(found: Any) -> dict[str, Any]:
    return {a.key: a.value.string_value or a.value.int_value for a in found.attributes}


async def samples(url: str, **headers: str) -> dict[tuple[str, frozenset[str]], float]:
    """/metrics: the value of each sample by its name and the values of its labels."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics", headers=headers) as answer:  # fmt: skip  # noqa: E501
        assert answer.status == 200
        text = await answer.text()
    return {
        (sample.name, frozenset(value for value in sample.labels.values() if value)): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_one_trace_and_one_request_id_go_through_all_hops(receiver: Receiver) -> None:
    async with AsyncExitStack() as stack:
        written = stack.enter_context(logged(JsonFormatter()))
        api = await stack.enter_async_context(upstream())
        seen = await stack.enter_async_context(observing(traces="on", log_calls="on"))
        api.say(json.dumps(response(item())).encode(), content_type=JSON)
        inner = await stack.enter_async_context(grpc_door(HttpBackend(api.url), observer=seen))
        outer = await stack.enter_async_context(
            http_door(GrpcBackend(ServerAddress(inner)), observer=seen)
        )
        session = await stack.enter_async_context(aiohttp.ClientSession())
        headers = {"traceparent": TRACEPARENT, "tracestate": "a=b", "x-request-id": "r-1"}
        body = {"input": "a fox"}
        async with session.post(f"{outer}/v1/responses", json=body, headers=headers) as answer:
            assert (answer.status, answer.headers.getall("x-request-id")) == (200, ["r-1"])
        (sent,) = api.requests
        assert sent.headers["x-request-id"] == "r-1"
        version, trace, last, flags = sent.headers["traceparent"].split("-")
        assert (version, trace, flags, sent.headers["tracestate"]) == ("00", TRACE, "01", "a=b")
    method = "imagecall.v1.ImageGenerationService/GenerateImage"
    spans = {span.span_id.hex(): span for span in receiver.spans}
    chain = []
    while last != CALLER:  # From the API back to the caller.
        span = spans.pop(last)
        assert span.trace_id.hex() == TRACE
        assert attributes(span)["imagecall.request_id"] == "r-1"
        chain.append((span.name, span.kind))
        last = span.parent_span_id.hex()
    assert chain == [("POST", 3), (method, 2), (method, 3), ("POST /v1/responses", 2)]
    assert not spans
    by_name = {(span.name, span.kind): attributes(span) for span in receiver.spans}
    assert by_name[method, 2]["rpc.response.status_code"] == "OK"
    assert by_name[method, 2]["rpc.system.name"] == "grpc"
    assert by_name["POST", 3]["http.response.status_code"] == 200
    assert by_name["POST", 3]["url.full"] == f"{api.url}/responses"
    assert by_name["POST /v1/responses", 2]["http.route"] == "/v1/responses"
    assert attributes(receiver.resources[0])["service.name"] == "imagecall"
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    calls = [line for line in lines if line["message"] == "call"]
    assert [(c["door"], c["request_id"], c["trace_id"]) for c in calls] == [
        ("grpc", "r-1", TRACE),
        ("http", "r-1", TRACE),
    ]
    assert all(c["received_bytes"] > 0 and c["sent_bytes"] > len(PNG) for c in calls)


async def test_a_stream_that_fails_midway_is_a_failed_span(receiver: Receiver) -> None:
    async with upstream() as api, observing(traces="on", metrics="on") as seen:
        api.say(framed(happy()[:4], done=False))
        async with (
            grpc_door(HttpBackend(api.url), observer=seen) as address,
            grpc.aio.insecure_channel(address) as channel,
        ):
            stub: Any = ImageGenerationServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                [_ async for _ in stub.StreamImage(A_STREAM)]
            trailers: Any = caught.value.trailing_metadata()
            assert len(dict(trailers)["x-request-id"]) == 32
    hop, call = receiver.spans
    assert (hop.name, hop.status.code, hop.status.message) == ("POST", 2, "UPSTREAM_DAMAGED")
    assert (call.status.code, attributes(call)["error.type"]) == (2, "UPSTREAM_DAMAGED")
    assert attributes(call)["rpc.response.status_code"] == "DATA_LOSS"
    assert hop.parent_span_id == call.span_id
    assert attributes(call)["imagecall.request_id"] == dict(trailers)["x-request-id"]


@pytest.mark.parametrize(
    ("sampler", "arg", "sent"),
    [
        ("always_off", "", False),
        ("parentbased_always_off", "", False),
        ("traceidratio", "0", False),
        ("parentbased_traceidratio", "0", False),
        ("traceidratio", "1", True),
        ("always_on", "", True),
        ("parentbased_always_on", "", True),
    ],
)
async def test_the_sampler_counts_for_calls_without_a_trace(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, sampler: str, arg: str, sent: bool
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", arg)
    async with upstream() as api, observing(traces="on") as seen:
        api.say(json.dumps(response(item())).encode(), content_type=JSON)
        async with (
            grpc_door(HttpBackend(api.url), observer=seen) as address,
            grpc.aio.insecure_channel(address) as channel,
        ):
            stub: Any = ImageGenerationServiceStub(channel)
            await stub.GenerateImage(AN_IMAGE)
        assert api.requests[0].headers["traceparent"].endswith("-01" if sent else "-00")
    assert len(receiver.spans) == (2 if sent else 0)


def test_spans_are_encoded_as_the_sdk_encodes_them() -> None:
    local, remote = (SpanContext(1, 2, is_remote) for is_remote in (False, True))
    state = TraceState([("a", "b")])
    operations = (
        rpc_served("a.B/C", generates=True),
        http_served("POST", "/v1/responses", "http", generates=True),
        http_called("http://localhost:1/v1/responses"),
    )
    for operation in operations:
        for parent in (None, local, remote):
            for code, reason, failed in (("OK", "", False), (503, "x", True), ("", "y", True)):
                outcome = Outcome(operation, code, reason, failed)
                span = Span(2**127 + 1, 2**63 + 1, parent, state=state)
                span.outcome, span.request_id, span.end = outcome, "r-1", span.begun + 10
                readable = _readable(span, Resource({}))
                (of_resource,) = encode_spans([readable]).resource_spans
                theirs = of_resource.scope_spans[0].spans[0]
                assert _encoded(span) == theirs
                assert _encoded(span) == theirs  # By what was kept of the first.


def test_calls_are_counted_in_each_loop_and_after_one_that_cannot_be(
    caplog: pytest.LogCaptureFixture,
) -> None:
    metrics = Metrics()
    seen = Observer(metrics)
    known = rpc_served("a.B/C", generates=False)
    unknown = Operation("a.B/D", "no.such.metric", {}, "code", door="grpc")

    async def call(seconds: float) -> None:
        for operation in (unknown, known):
            seen.begin(operation, {}).end("OK")
        await asyncio.sleep(seconds)

    for seconds in (0, 0, 0.2):  # The first loops are closed before anything is counted.
        asyncio.run(call(seconds))
    text = metrics.text("")[0].decode()
    (counted,) = (line for line in text.splitlines() if "call_duration_seconds_count" in line)
    assert counted.endswith(" 3.0")
    assert 'calls_in_progress{imagecall_door="grpc"} 0.0' in text
    assert [record.message for record in caplog.records] == ["a call is not counted"] * 3


async def test_what_is_not_sampled_is_not_sent_and_says_so(receiver: Receiver) -> None:
    async with upstream() as api, observing(traces="on") as seen:
        api.say(json.dumps(response(item())).encode(), content_type=JSON)
        async with (
            grpc_door(HttpBackend(api.url), observer=seen) as address,
            grpc.aio.insecure_channel(address) as channel,
        ):
            stub: Any = ImageGenerationServiceStub(channel)
            asked = (("traceparent", TRACEPARENT[:-2] + "00"),)
            await stub.GenerateImage(AN_IMAGE, metadata=asked)
        assert api.requests[0].headers["traceparent"].endswith("-00")
    assert receiver.spans == []


async def test_calls_bytes_and_items_are_counted_by_names_of_ours(receiver: Receiver) -> None:
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
    calls = receiver.metrics["rpc.server.call.duration"].histogram.data_points
    ok = [point for point in calls if attributes(point).get("rpc.response.status_code") == "OK"]
    assert sum(point.count for point in ok if attributes(point)["rpc.method"] == PARSE) == 3
    assert all(sum(point.bucket_counts) == point.count for point in calls)
    requests = receiver.metrics["http.server.request.duration"].histogram.data_points
    assert attributes(requests[0])["http.response.status_code"] == 404
    parsed = receiver.metrics["imagecall.items"].sum
    assert parsed.is_monotonic
    assert sum(point.as_double for point in parsed.data_points) == 9


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
    hops = [key[1] for key in found if key[0] == "http_client_request_duration_seconds_count"]
    assert len(hops) == 1
    assert "CANCELLED" in hops[0]


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


@pytest.mark.parametrize("sent", ["", "with space", "é", "x" * 129, "a\tb"])
async def test_a_request_id_that_is_not_sane_is_replaced(sent: str) -> None:
    async with upstream() as api, http_door(HttpBackend(api.url)) as door:
        api.say(json.dumps(response(item())).encode(), content_type=JSON)
        async with (
            aiohttp.ClientSession() as session,
            session.post(
                f"{door}/v1/responses", json={"input": "x"}, headers={"x-request-id": sent}
            ) as answer,
        ):
            made = answer.headers["x-request-id"]
    assert len(made) == 32
    assert api.requests[0].headers["x-request-id"] == made


async def test_with_everything_off_images_still_have_a_request_id() -> None:
    async with (
        upstream() as api,
        grpc_door(HttpBackend(api.url)) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        api.say(json.dumps(response(item())).encode(), content_type=JSON)
        stub: Any = ImageGenerationServiceStub(channel)
        call = stub.GenerateImage(AN_IMAGE, metadata=(("x-request-id", "r-2"),))
        await call
        trailers: Any = await call.trailing_metadata()
        assert dict(trailers)["x-request-id"] == "r-2"
        assert api.requests[0].headers["x-request-id"] == "r-2"
        conversions: Any = ConversionServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await conversions.ParseCall(pb.ParseCallRequest(), metadata=(("x-request-id", "r-3"),))
        trailers = caught.value.trailing_metadata()
        assert dict(trailers)["x-request-id"] == "r-3"


class Faulty(EmbeddedBackend):
    """A backend with a fault that quotes what it works on."""

    async def generate_image(self, request: Any) -> Any:
        raise RuntimeError(f"{KEY} {TOKEN} {SECRET!r} {request}")


@pytest.mark.parametrize("form", ["text", "json"])
async def test_nothing_shows_a_key_a_token_or_an_image(
    form: str, receiver: Receiver, tmp_path: Path
) -> None:
    tokens, key_file = tmp_path / "tokens", tmp_path / "key"
    tokens.write_text(f"someone {TOKEN}\n")
    key_file.write_text(KEY)
    image = PNG + SECRET
    encoded = base64.b64encode(image).decode()
    shown: list[str] = []
    given = {"metrics": "on", "traces": "on", "log_calls": "on", "log_format": form}
    files = {"tokens_file": str(tokens), "api_key_file": str(key_file)}
    settings = read_settings(ServerSettings, {**given, **files}, {})
    admission = Admission(Limits(), Tokens(tokens))
    async with AsyncExitStack() as stack:
        formatter = JsonFormatter() if form == "json" else TextFormatter()
        written = stack.enter_context(logged(formatter))
        api = await stack.enter_async_context(upstream())
        seen = await stack.enter_async_context(observing(**given))
        options: Any = {"admission": admission, "observer": seen}
        backend = HttpBackend(api.url, KEY)
        shown += map(repr, (settings, backend, vars(admission)["_tokens"], admission, seen))
        good = await stack.enter_async_context(grpc_door(backend, **options))
        faulty = await stack.enter_async_context(grpc_door(Faulty(), **options))
        hop = GrpcBackend(ServerAddress(good))
        shown.append(repr(hop))
        door = await stack.enter_async_context(http_door(hop, **options))
        bad_door = await stack.enter_async_context(http_door(Faulty(), **options))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        headers = {"authorization": f"Bearer {TOKEN}"}
        answers: list[bytes] = [
            json.dumps(response(item(image))).encode(),
            json.dumps({"error": {"message": f"bad key {KEY}"}}).encode(),
            json.dumps(response(item(image)))[:-9].encode(),
        ]
        asked = {"input": encoded}
        metadata = (("authorization", f"Bearer {TOKEN}"),)
        for body in answers:
            api.say(body, content_type=JSON)
            for url in (door, bad_door):
                url += "/v1/responses"
                async with session.post(url, json=asked, headers=headers) as answer:
                    if answer.status != 200:
                        shown.append(await answer.text())
            wrong = {"authorization": f"Basic {TOKEN}"}
            async with session.post(f"{door}/{TOKEN}", json=asked, headers=wrong) as answer:
                shown += [await answer.text(), str(answer.headers)]
            for address in (good, faulty):
                async with grpc.aio.insecure_channel(address) as channel:
                    images: Any = ImageGenerationServiceStub(channel)
                    conversions: Any = ConversionServiceStub(channel)
                    try:
                        await images.GenerateImage(AN_IMAGE, metadata=metadata)
                    except grpc.aio.AioRpcError as error:
                        shown.append(repr(error))
                    for text in (json.dumps(item(image)), f'{{"id":"{encoded}",}}'):
                        request = pb.ParseCallRequest(json=text, variant=TOKEN)
                        try:
                            await conversions.ParseCall(request, metadata=metadata)
                        except grpc.aio.AioRpcError as error:
                            # The client's own words, which go back to it alone.
                            shown.append(repr(error).replace(TOKEN, ""))
        async with session.get(f"{door}/metrics", headers=headers) as answer:
            shown.append(await answer.text())
        logging.getLogger("elsewhere").error("fault", exc_info=RuntimeError(KEY))
    shown += [written.getvalue(), *(body.decode(errors="replace") for body in receiver.bodies)]
    assert "internal error" in written.getvalue()
    assert "RuntimeError" in written.getvalue()
    assert "someone" in written.getvalue()
    assert len(receiver.spans) > 20
    assert receiver.metrics
    everything = "\n".join(shown)
    for secret in (KEY, TOKEN, SECRET.decode(), encoded[:40], base64.b64encode(SECRET).decode()):
        assert secret not in everything
    if form == "json":
        lines = [json.loads(line) for line in written.getvalue().splitlines()]
        assert all(line["time"] and line["level"] for line in lines)
        faults = [line for line in lines if line["message"].startswith("internal error")]
        assert faults
        assert all(line["request_id"] for line in faults)


def test_without_the_extra_a_sentence_says_what_to_install() -> None:
    program = (
        "import sys\n"
        "sys.modules['prometheus_client'] = None\n"
        "from imagecall.commands.main import main\n"
        "sys.exit(main(['serve', '--grpc', '127.0.0.1:0', '--http', 'off', '--metrics', 'on']))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert "pip install 'imagecall[observe]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_with_everything_off_there_is_no_observer_and_nothing_is_loaded() -> None:
    program = (
        "import sys, imagecall.commands.main\n"
        "import imagecall.doors.http.app, imagecall.doors.grpc.server\n"
        "print([m for m in sys.modules if m.startswith(('opentelemetry', 'prometheus'))])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n"

    assert observer_from(metrics=False, traces=False, log_calls=False) is None
