"""Traces of real calls, at a receiver of OTLP."""

import json
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import grpc
import pytest

from imagecall.backends.grpc.backend import GrpcBackend
from imagecall.backends.responses_api.backend import HttpBackend
from imagecall.observing.logs import JsonFormatter
from imagecall.observing.operations import http_called, rpc_served
from imagecall.rpc.addresses import ServerAddress
from imagecall.v1.image_generation_service_pb2_grpc import ImageGenerationServiceStub
from tests.doors.test_generation import A_STREAM, AN_IMAGE
from tests.observing.servers import Receiver, grpc_door, http_door, logged, observing
from tests.streams import PNG, framed, happy, item, response
from tests.upstream import JSON, upstream

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{CALLER}-01"


def attributes(found: Any) -> dict[str, Any]:
    return {a.key: a.value.string_value or a.value.int_value for a in found.attributes}


async def test_one_trace_and_one_request_id_go_through_all_servers(receiver: Receiver) -> None:
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
    async with upstream() as api, observing(traces="on", metrics="127.0.0.1:0") as seen:
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
    sent, call = receiver.spans
    assert (sent.name, sent.status.code, sent.status.message) == ("POST", 2, "UPSTREAM_DAMAGED")
    assert (call.status.code, attributes(call)["error.type"]) == (2, "UPSTREAM_DAMAGED")
    assert attributes(call)["rpc.response.status_code"] == "DATA_LOSS"
    assert sent.parent_span_id == call.span_id
    assert attributes(call)["imagecall.request_id"] == dict(trailers)["x-request-id"]


def is_sampled(traceparent: str) -> bool:
    return bool(int(traceparent[-2:], 16) & 1)


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
        assert is_sampled(api.requests[0].headers["traceparent"]) is sent
    assert len(receiver.spans) == (2 if sent else 0)


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
        assert not is_sampled(api.requests[0].headers["traceparent"])
    assert receiver.spans == []


async def test_the_resource_is_as_the_variables_of_opentelemetry_name_it(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment=test,service.name=a")
    async with observing(traces="on") as seen:
        seen.start(rpc_served("a.B/C", generates=False), {}).end("OK")
    (found,) = map(attributes, receiver.resources)
    assert (found["deployment"], found["service.name"]) == ("test", "a")
    assert found["service.instance.id"]
    monkeypatch.setenv("OTEL_SERVICE_NAME", "b")
    async with observing(traces="on") as seen:
        seen.start(rpc_served("a.B/C", generates=False), {}).end("OK")
    assert attributes(receiver.resources[-1])["service.name"] == "b"


async def test_the_baggage_of_a_caller_does_not_reach_the_api(receiver: Receiver) -> None:
    async with upstream() as api, observing(traces="on") as seen:
        api.say(json.dumps(response(item())).encode(), content_type=JSON)
        headers = {"traceparent": TRACEPARENT, "baggage": "user=someone"}
        async with (
            http_door(HttpBackend(api.url), observer=seen) as door,
            aiohttp.ClientSession() as session,
            session.post(f"{door}/v1/responses", json={"input": "x"}, headers=headers) as answer,
        ):
            assert answer.status == 200
        assert TRACE in api.requests[0].headers["traceparent"]
        assert "baggage" not in api.requests[0].headers


def test_user_and_query_of_a_url_are_no_attributes() -> None:
    operation = http_called("https://user:secret@localhost/v1/responses?code=secret#secret")
    assert operation.span_attributes == {"url.full": "https://localhost/v1/responses"}
    assert operation.attributes["server.port"] == 443
    assert "secret" not in str(operation)
