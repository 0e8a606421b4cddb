"""The HTTP door on a real port, with the SDKs that applications use, unmodified."""

import asyncio
import base64
import gc
import hashlib
import io
import json
import re
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import openai
import openrouter
import pytest
import pytest_asyncio
from starlette.applications import Starlette
from starlette.routing import Mount

import imagecall
from imagecall.access.admission import Admission
from imagecall.access.limits import Limits
from imagecall.backends.embedded.backend import EmbeddedBackend
from imagecall.backends.grpc.backend import GrpcBackend
from imagecall.backends.responses_api.backend import HttpBackend
from imagecall.client import AsyncImageClient
from imagecall.doors.http import server as http_server
from imagecall.doors.http.app import http_app
from imagecall.doors.http.paths import PATHS
from imagecall.doors.http.server import HttpServer
from imagecall.errors import GenerationError
from imagecall.generation.backend import Backend
from imagecall.generation.offload import run_offloaded
from imagecall.generation.parts import in_chunks
from imagecall.generation.request import request_from_json
from imagecall.rpc.addresses import ServerAddress
from imagecall.service import WholeImage
from imagecall.v1.extra_field_pb2 import ExtraField
from imagecall.v1.image_generation_service_pb2 import GenerateImageResponse, StreamImageResponse
from imagecall.v1.image_request_pb2 import ImageRequest
from imagecall.v1.stream_event_pb2 import StreamEvent
from imagecall.wire.chunks import RawChunk
from tests.doors.test_generation import serving
from tests.streams import PNG, framed, happy, item, message_of, response
from tests.until import until
from tests.upstream import HANG, JSON, Answer, upstream

# The tests share a door, and so the event loop.
pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1024 * 1024
SMALL: Any = {"type": "image_generation", "size": "64x64"}


@asynccontextmanager
async def door_before(backend: Backend, **options: Any) -> AsyncIterator[str]:
    """The address of an HTTP door before a backend."""
    server = HttpServer("127.0.0.1:0", backend, **options)
    try:
        yield await server.start()
    finally:
        await server.stop(1)
        await backend.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def door() -> AsyncIterator[str]:
    async with door_before(EmbeddedBackend()) as address:
        yield address


def sdk(address: str, **options: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=f"http://{address}/v1", api_key="none", max_retries=0, **options
    )


async def post(address: str, body: Any, path: str = PATHS[0], **options: Any) -> tuple[Any, Any]:
    """The answer and its JSON."""
    options.setdefault("headers", {"content-type": "application/json"})
    data = body if isinstance(body, bytes | io.BytesIO) else json.dumps(body)
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://{address}{path}", data=data, **options) as answer,
    ):
        return answer, json.loads(await answer.read())


async def events(address: str, body: Any) -> list[tuple[str, Any]]:
    """The events of a stream, by the letter of its framing."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://{address}/v1/responses", json=body | {"stream": True}) as answer,
    ):
        assert answer.status == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        text = await answer.text()
    *blocks, done, nothing = text.split("\n\n")
    assert (done, nothing) == ("data: [DONE]", "")
    found = []
    for block in blocks:
        first, second = block.split("\n")
        data = json.loads(second.removeprefix("data: "))
        assert first == f"event: {data['type']}"
        found.append((data["type"], data))
    assert [data["sequence_number"] for _, data in found] == list(range(len(found)))
    return found


REQUIRED = {
    "id", "object", "created_at", "completed_at", "model", "status", "output", "error",
    "incomplete_details", "instructions", "metadata", "parallel_tool_calls", "temperature",
    "top_p", "tool_choice", "tools", "frequency_penalty", "presence_penalty",
}  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
async def test_a_plain_answer_has_every_key_that_sdks_demand(door: str, path: str) -> None:
    answer, body = await post(door, {"input": "a fox", "tools": [SMALL], "user": "me"}, path)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert set(body) >= REQUIRED
    assert base64.b64decode(body["output"][0]["result"]).startswith(b"\x89PNG")
    assert (body["tools"], body["user"]) == ([SMALL], "me")


async def test_a_stream_has_the_order_that_sdks_demand(door: str) -> None:
    found = await events(door, {"input": "a fox", "tools": [SMALL | {"partial_images": 1}]})
    assert [tag.removeprefix("response.") for tag, _ in found] == [
        "created",
        "in_progress",
        "output_item.added",
        "image_generation_call.in_progress",
        "image_generation_call.generating",
        "image_generation_call.partial_image",
        "image_generation_call.completed",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert all(set(found[n][1]["response"]) >= REQUIRED for n in (0, 1, -1))
    assert found[2][1]["item"]["result"] is None
    items = [event["item"] for tag, event in found if tag == "response.output_item.done"]
    assert items == found[-1][1]["response"]["output"]


async def test_openai_for_python_reads_both_and_sends_an_item_back(door: str) -> None:
    async with sdk(door) as client:
        plain = await client.responses.create(model="m", input="a fox", tools=[SMALL])
        call, message = plain.output
        assert call.type == "image_generation_call"
        assert message.type == "message"
        assert call.result
        seen = []
        async with client.responses.stream(model="m", input="a fox", tools=[SMALL]) as stream:
            async for event in stream:
                seen.append(event.type)
            final = await stream.get_final_response()
        assert seen[0] == "response.created"
        assert final.output[0].result == call.result  # type: ignore[union-attr]  # an image call
        assert final.output_text == plain.output_text != ""
        again: Any = [*plain.output, {"role": "user", "content": "make it blue"}]
        edited = await client.responses.create(model="m", input=again, tools=[SMALL])
        assert edited.output[0].type == "image_generation_call"


async def test_openrouter_for_python_reads_both_and_sends_an_item_back(door: str) -> None:
    tool: Any = SMALL
    async with openrouter.OpenRouter(api_key="none", server_url=f"http://{door}/api/v1") as client:
        send: Any = client.responses.send_async
        plain = await send(model="m", input="a fox", tools=[tool])
        call, said = plain.output
        assert type(call).__name__ == "OutputImageGenerationCallItem"
        assert type(said).__name__ == "OutputMessageItem"
        assert call.result
        stream = await send(model="m", input="a fox", tools=[tool], stream=True)
        async with stream:
            seen = [event async for event in stream]
        assert not [event for event in seen if "nknown" in type(event).__name__]
        assert seen[-1].type == "response.completed"
        assert seen[-1].response.output[0].result == call.result
        back = call.model_dump(by_alias=True)
        message = {"type": "message", "role": "user", "content": "make it blue"}
        edited = await send(model="m", input=[back, message], tools=[tool])
        assert edited.output[0].result


ERRORS: dict[str, tuple[Any, int, str | None]] = {
    "not JSON": (b"{", 400, None),
    "no object": (b"[]", 400, None),
    "a wrong type": ({"input": 5}, 400, "/input"),
    "a wrong stream": ({"input": "a", "stream": 1}, 400, "/stream"),
    "no prompt": ({"input": ""}, 400, "/input"),
    "no input": ({"model": "m"}, 400, "/input"),
    "a bad item": (
        {"input": [{"type": "image_generation_call", "id": "i", "result": 5}]},
        400,
        "/input/0/result",
    ),
    "an item without an id": (
        {"input": [{"type": "image_generation_call"}, {"role": "user", "content": "a"}]},
        400,
        "/input/0/id",
    ),
    "another tool alone": ({"input": "a", "tools": [{"type": "web_search"}]}, 400, "/tools/0"),
    "an earlier response": (
        {"input": "a", "previous_response_id": "r"},
        400,
        "/previous_response_id",
    ),
    "a bad size": ({"input": "a", "tools": [SMALL | {"size": "1x1"}]}, 400, "/tools/0/size"),
    "a failure": ({"input": "a", "embedded": {"http_status": 500}}, 500, None),
    "a limit": (
        {"input": "a", "embedded": {"http_status": 429, "retry_after_seconds": 7}},
        429,
        None,
    ),
    "a timeout": ({"input": "a", "embedded": {"http_status": 504}}, 504, None),
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("what", ERRORS)
async def test_an_error_has_its_status_its_sentence_and_its_place(
    door: str, what: str, streaming: bool
) -> None:
    body, status, pointer = ERRORS[what]
    if streaming and isinstance(body, dict):
        body = {"stream": True} | body
    answer, said = await post(door, body)
    assert (answer.status, said["error"]["code"], said["error"]["param"]) == (
        status,
        status,
        pointer,
    )
    assert said["error"]["message"]
    assert answer.headers.get("retry-after") == ("7" if status == 429 else None)


async def test_errors_are_typed_in_the_sdks(door: str) -> None:
    async with sdk(door) as client:
        for status, kind in (
            (400, openai.BadRequestError),
            (401, openai.AuthenticationError),
            (404, openai.NotFoundError),
            (429, openai.RateLimitError),
            (500, openai.InternalServerError),
        ):
            body = {"embedded": {"http_status": status}}
            with pytest.raises(kind) as caught:
                await client.responses.create(model="m", input="a", extra_body=body)
            assert caught.value.status_code == status
        body = {"embedded": {"http_status": 500, "midway": True}}
        stream = await client.responses.create(
            model="m", input="a", tools=[SMALL], stream=True, extra_body=body
        )
        with pytest.raises(openai.APIError, match="the request asked for a failure"):
            [_ async for _ in stream]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", PATHS[0], 405), ("PUT", "/", 405), ("GET", "/nothing", 404), ("POST", "/v1", 404)],
)
async def test_what_is_not_there_is_said_in_json(
    door: str, method: str, path: str, status: int
) -> None:
    async with aiohttp.ClientSession() as session:
        answer = await session.request(method, f"http://{door}{path}")
        assert (answer.status, json.loads(await answer.read())["error"]["code"]) == (status, status)


async def test_another_content_type_is_refused(door: str) -> None:
    answer, said = await post(door, {"input": "a"}, headers={"content-type": "text/plain"})
    assert (answer.status, said["error"]["code"]) == (415, 415)


async def test_a_body_past_the_limit_is_refused_before_it_is_read_whole() -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(200):
            yield bytes(MIB)
            sent.append(MIB)

    for headers in ({"content-length": str(200 * MIB)}, {}):
        sent: list[int] = []
        async with door_before(
            EmbeddedBackend(), admission=Admission(Limits(json_bytes=MIB))
        ) as address:
            reader, writer = await asyncio.open_connection(*address.split(":"))
            head = "POST /v1/responses HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            for name, value in (headers or {"transfer-encoding": "chunked"}).items():
                head += f"{name}: {value}\r\n"
            writer.write(head.encode() + b"\r\n")
            if not headers:
                writer.write((b"%x\r\n" % MIB + bytes(MIB) + b"\r\n") * 2)
            line = await reader.readline()
            assert line.startswith(b"HTTP/1.1 413")
            writer.transport.abort()


async def test_a_body_of_too_many_values_is_not_to_be_sent_again(door: str) -> None:
    body = {"input": "a fox", "metadata": {str(n): 0 for n in range(10_001)}}
    answer, said = await post(door, body)
    assert (answer.status, said["error"]["type"]) == (413, "too_many_values")


@pytest.mark.timing
async def test_others_do_not_wait_while_a_large_body_is_read(door: str) -> None:
    large = b'{"input":"a fox","metadata":[' + b'{"":"%b"},' % (b"x" * 100) * 45_000
    large += b"x"  # Refused at its end.
    start = time.monotonic()
    posting = asyncio.create_task(post(door, io.BytesIO(large)))
    waits = []
    async with aiohttp.ClientSession() as session:
        while not posting.done():
            asked = time.monotonic()
            async with session.get(f"http://{door}/") as answer:
                await answer.read()
            waits.append(time.monotonic() - asked)
    assert (await posting)[0].status == 400
    assert max(waits) < (time.monotonic() - start) / 2


@pytest.mark.timing
@pytest.mark.parametrize("streaming", [False, True])
async def test_a_client_that_leaves_ends_the_call_of_the_backend(streaming: bool) -> None:
    async with upstream() as api, door_before(HttpBackend(api.url)) as address:
        api.say(framed(happy()[:4], done=False) if streaming else b" ", HANG)
        async with aiohttp.ClientSession() as session:
            body = {"input": "a fox", "stream": streaming}
            calling = asyncio.create_task(session.post(f"http://{address}/v1/responses", json=body))
            await api.arrived.wait()
            await asyncio.sleep(0.2)
            left = time.monotonic()
            if streaming:
                (await calling).close()
            else:
                calling.cancel()
        await api.left.wait()
        assert time.monotonic() - left < 0.1


async def test_an_api_and_what_it_says_come_through() -> None:
    async with upstream() as api, door_before(HttpBackend(api.url)) as address:
        final = item(PNG + bytes(3 * MIB), status="generating", odd=[1.50])
        api.say(framed(happy(done=final)))
        found = await events(address, {"model": "m", "input": "a fox", "seed": 1})
        assert found[-2][1]["item"] == final
        assert found[-1][1]["response"]["output"] == [final]
        assert found[-1][1]["response"]["model"] == "gpt-5"
        assert api.requests[-1].body["seed"] == 1
        api.say(json.dumps(response(final)).encode(), content_type=JSON)
        _, body = await post(address, {"input": "a fox"})
        assert body["output"] == [final]
        assert set(body) >= REQUIRED
        api.answers = [Answer([framed(happy()[3:-1])])]  # Neither a beginning nor an end.
        found = await events(address, {"input": "a fox"})
        assert [tag for tag, _ in found][:2] == ["response.created", "response.in_progress"]
        assert found[-1][1]["response"]["output"] == [item()]


def untimed(response: Any) -> Any:
    """A response without the times at which it was made."""
    return {key: value for key, value in response.items() if not key.endswith("_at")}


def untimed_event(event: Any) -> Any:
    known = {key: value for key, value in event.items() if key != "sequence_number"}
    return known | ({"response": untimed(event["response"])} if "response" in event else {})


async def over_http(address: str, body: Any) -> tuple[Any, list[Any]]:
    """The answer of an HTTP door, and the events of its stream."""
    _, answer = await post(address, body)
    return untimed(answer), [untimed_event(event) for _, event in await events(address, body)]


async def over_grpc(address: str, body: Any) -> tuple[Any, list[Any]]:
    """The answer of a gRPC door, and the events of its stream, as the JSON that they are."""
    request = request_from_json(json.dumps(body)).request
    async with AsyncImageClient(address) as client:
        answer = await client.generate_image(request, include_document=True)
        options: Any = {"include_document": True, "include_other_events": True}
        happenings = [one.message async for one in client.stream_image(request, **options)]
    found = [json.loads(imagecall.event_to_json(event)) for event in happenings[:-1]]  # type: ignore[arg-type]  # events
    end: Any = happenings[-1]
    last = json.loads(imagecall.document_to_json(end.response.document))
    found.append({"type": "response.completed", "response": last})
    plain = json.loads(imagecall.document_to_json(answer.document))
    return untimed(plain), [untimed_event(event) for event in found]


async def test_every_door_answers_alike_with_every_backend() -> None:
    asked = {"model": "m", "input": "a fox", "instructions": "be quick", "user": "me"}
    tool = SMALL | {"partial_images": 2, "background": "transparent"}
    body: Any = asked | {"tools": [tool]}
    async with (
        serving(EmbeddedBackend()) as grpc_embedded,
        serving(GrpcBackend(ServerAddress(grpc_embedded))) as grpc_grpc,
        door_before(EmbeddedBackend()) as http_embedded,
        door_before(GrpcBackend(ServerAddress(grpc_embedded))) as http_grpc,
        door_before(HttpBackend(f"http://{http_embedded}/v1")) as http_http,
        serving(HttpBackend(f"http://{http_embedded}/v1")) as grpc_http,
    ):
        found = [await over_http(one, body) for one in (http_embedded, http_grpc, http_http)]
        found += [await over_grpc(one, body) for one in (grpc_embedded, grpc_grpc, grpc_http)]
    for plain, stream in found:
        assert plain == found[0][0]
        assert stream == found[0][1]
    assert [event["type"] for event in found[0][1]].count(
        "response.image_generation_call.partial_image"
    ) == 2


async def test_the_app_works_inside_another_one() -> None:
    outer = Starlette(routes=[Mount("/images", http_app(EmbeddedBackend()))])
    server = HttpServer("127.0.0.1:0", EmbeddedBackend(), app=outer)
    address = await server.start()
    answer, body = await post(address, {"input": "a fox", "tools": [SMALL]}, "/images/v1/responses")
    await server.stop(1)
    assert (answer.status, body["output"][0]["status"]) == (200, "completed")


INPUTS: dict[str, Any] = {
    "a string": "a fox",
    "a message": [{"role": "user", "content": "a fox"}],
    "parts": [
        {
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_text", "text": "a fox"},
                {"type": "input_image", "detail": "auto", "image_url": "https://x/a.png"},
                {"type": "input_image", "detail": "high", "file_id": "file_1"},
            ],
        }
    ],
    "an earlier call, by its id": [
        {"type": "image_generation_call", "id": "ig_1"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "bluer"}]},
    ],
    "an earlier call, by a data: URL": [
        {
            "type": "image_generation_call",
            "id": "ig_1",
            "result": "data:image/png;base64,iVBORw0KGgo=",
            "status": "completed",
        },
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "bluer"}]},
    ],
    "messages of others": [
        {"type": "message", "role": "system", "content": "be brief"},
        {"type": "message", "role": "user", "content": "a fox", "id": "msg_1"},
    ],
}


@pytest.mark.parametrize("what", INPUTS)
async def test_a_request_reaches_the_api_as_it_was_sent(what: str) -> None:
    body = {
        "input": INPUTS[what],
        "tools": [SMALL, {"type": "function", "name": "f"}],
        "seed": 1.50,
    }
    body |= {"tool_choice": {"type": "image_generation"}, "metadata": {"a": "b"}, "model": "m"}
    async with upstream() as api, door_before(HttpBackend(api.url)) as address:
        api.say(json.dumps(response(item())).encode(), content_type=JSON)
        await post(address, body)
        sent = api.requests[-1].body
    assert sent == body


ASKED: dict[str, Any] = {
    "text only": {"input": "say hello"},
    "no tools": {"input": "a fox", "tools": []},
    "null for tools": {"input": "a fox", "tools": None},
    "a choice of none": {"input": "a fox", "tool_choice": "none"},
    "modalities": {"input": "a fox", "modalities": ["image", "text"]},
    "a function tool": {"input": "a fox", "tools": [{"type": "function", "name": "f"}]},
    "null for the model": {"input": "a fox", "model": None},
    "a stored prompt": {"prompt": {"id": "pmpt_1"}, "model": "m"},
    "a stored prompt and null": {"prompt": {"id": "pmpt_1"}, "input": None},
    "a conversation": {"conversation": "conv_1", "input": []},
}


@pytest.mark.parametrize("what", ASKED)
@pytest.mark.parametrize("hops", [0, 1])
async def test_nothing_is_added_to_a_request(what: str, hops: int) -> None:
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(upstream())
        api.say(json.dumps(response(item())).encode(), content_type=JSON)
        backend: Any = HttpBackend(api.url)
        for _ in range(hops):
            server = await stack.enter_async_context(serving(backend))
            backend = GrpcBackend(ServerAddress(server))
        address = await stack.enter_async_context(door_before(backend))
        answer, _ = await post(address, ASKED[what])
        assert answer.status == 200
        assert api.requests[-1].body == ASKED[what]
        await post(address, ASKED[what] | {"stream": False})
        assert api.requests[-1].body == ASKED[what]
        await events(address, ASKED[what])
        assert api.requests[-1].body == ASKED[what] | {"stream": True}


@pytest.mark.parametrize(
    "choice",
    [
        {"type": "image_generation"},
        {"type": "allowed_tools", "mode": "required", "tools": [{"type": "image_generation"}]},
    ],
)
@pytest.mark.parametrize("tools", [{}, {"tools": []}, {"tools": None}])
async def test_an_image_tool_that_is_chosen_is_there(choice: Any, tools: Any) -> None:
    body = {"input": "a fox", "tool_choice": choice} | tools
    async with upstream() as api, door_before(HttpBackend(api.url)) as address:
        api.say(json.dumps(response(item())).encode(), content_type=JSON)
        await post(address, body)
        assert api.requests[-1].body == body | {"tools": [{"type": "image_generation"}]}


async def test_a_replayed_output_item_is_sent_in_the_form_that_apis_take() -> None:
    replayed = item(size="1024x1024", action="generate", revised_prompt="x")
    message = {"role": "user", "content": "bluer"}
    async with upstream() as api, door_before(HttpBackend(api.url)) as address:
        api.say(json.dumps(response(item())).encode(), content_type=JSON)
        await post(address, {"input": [replayed, message]})
        [call, _] = api.requests[-1].body["input"]
    assert call == item()


class Sparing(EmbeddedBackend):
    """A service of our schema that has no documents and no events but those of the image."""

    async def generate_image(self, request: Any) -> Any:
        request.include_document = False
        return await super().generate_image(request)

    def stream_image(self, request: Any) -> Any:
        request.include_document = request.include_other_events = False
        return super().stream_image(request)


async def test_a_service_without_documents_is_enough_for_every_sdk() -> None:
    asked = {"model": "m", "input": "a fox", "tools": [SMALL], "instructions": "be quick"}
    async with door_before(EmbeddedBackend()) as whole, door_before(Sparing()) as address:
        (answer, stream), (full, _) = await over_http(address, asked), await over_http(whole, asked)
        assert set(answer) >= REQUIRED - {"created_at", "completed_at"}
        calls = [item for item in full["output"] if item["type"] == "image_generation_call"]
        assert (answer["output"], answer["usage"]) == (calls, full["usage"])
        assert (answer["instructions"], answer["tools"]) == ("be quick", [SMALL])
        assert [event["type"] for event in stream[:3]] == [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
        ]
        assert stream[-1]["response"]["output"] == calls
        async with sdk(address) as client:
            tools: Any = [SMALL]
            async with client.responses.stream(model="m", input="a fox", tools=tools) as events_:
                final = await events_.get_final_response()
            assert final.output[0].type == "image_generation_call"


async def test_an_answer_of_unknown_size_does_not_wait_for_the_large_work_of_others() -> None:
    started, ended = threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        ended.wait(30)

    async with upstream() as api, door_before(HttpBackend(api.url)) as address:
        api.say(json.dumps(response(item())).encode(), content_type=JSON)
        other = asyncio.ensure_future(run_offloaded(MIB, work))
        await asyncio.to_thread(started.wait, 30)
        try:
            _, answer = await post(address, {"input": "a fox"})
            assert not other.done()
        finally:
            ended.set()
            await other
    assert answer["output"] == [item()]


async def test_a_slow_client_holds_the_backend_back() -> None:
    body = framed(happy(PNG + bytes(12 * MIB), [PNG + bytes(12 * MIB)]))
    async with upstream() as api, door_before(HttpBackend(api.url)) as address:
        api.say(*(body[at : at + MIB] for at in range(0, len(body), MIB)))
        async with (
            aiohttp.ClientSession() as session,
            session.post(
                f"http://{address}/v1/responses", json={"input": "a", "stream": True}
            ) as answer,
        ):
            await answer.content.readany()
            await asyncio.sleep(1)
            assert len(api.sent_at) * MIB < len(body) * 0.75
            rest = await answer.read()
    assert rest.endswith(b"data: [DONE]\n\n")


async def test_a_connection_that_is_reset_leaves_nothing_behind(door: str) -> None:
    host, _, port = door.rpartition(":")
    body = b'{"type":"image_generation_call"}'
    head = "POST /convert HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
    sent = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
    for _ in range(20):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(sent)
        assert b"200 OK" in await reader.readline()
        reset = struct.pack("ii", 1, 0)  # Linger for no time.
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        writer.transport.abort()

    def left() -> bool:
        gc.collect()
        return any(type(held) is http_server._Connection for held in gc.get_objects())

    await until(lambda: not left())


async def test_line_breaks_between_values_do_not_break_the_stream() -> None:
    body = b'{"input":"fox","stream":true,"metadata":{\n"a":1},\r\n"user":\t"me"}'
    async with upstream() as api, door_before(HttpBackend(api.url)) as address:
        final = json.dumps(response(item()), indent=1).replace("\n", "\ndata: ").encode()
        event = b'data: {"type":"response.completed","response":' + final + b"}\n\n"
        api.say(framed(happy()[2:-1], done=False), event)
        headers = {"content-type": "application/json"}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"http://{address}/v1/responses", data=body, headers=headers) as answer,
        ):
            lines = (await answer.text()).splitlines()
    assert {line.partition(":")[0] for line in lines} == {"event", "data", ""}
    data = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert data[0]["response"]["metadata"] == {"a": 1}
    assert data[-1]["response"]["output"] == [item()]


async def test_odd_shapes_of_an_api_do_not_cut_the_stream() -> None:
    async with upstream() as api, door_before(HttpBackend(api.url)) as address:
        queued = [{"type": "response.queued", "response": one} for one in ("x", [1], None)]
        odd = {"type": "x\ny: z\n\ndata: hi"}
        odd_outputs: list[Any] = [None, {}, "x", 5]
        for output in odd_outputs:
            last = {"type": "response.completed", "response": response() | {"output": output}}
            api.say(framed([*queued, odd, *happy()[:-1], last]))
            async with (
                aiohttp.ClientSession() as session,
                session.post(
                    f"http://{address}/v1/responses", json={"input": "a", "stream": True}
                ) as answer,
            ):
                text = await answer.text()
            data = [
                json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")
            ]
            assert text.endswith("data: [DONE]\n\n")
            assert data[-1]["response"]["output"] == [item()]
            tags = [one["type"] for one in data]
            assert tags.count("response.created") == 1
            assert odd["type"] in tags


class Broken(EmbeddedBackend):
    """A service whose answers are not what they should be."""

    def __init__(self, fault: Any) -> None:
        super().__init__()
        self._fault = fault

    async def generate_image(self, request: Any) -> Any:
        if isinstance(self._fault, Exception):
            raise self._fault
        return self._fault

    async def stream_image(self, request: Any) -> Any:
        if isinstance(self._fault, Exception):
            raise self._fault
        yield StreamImageResponse(event=StreamEvent())


@pytest.mark.parametrize("streaming", [False, True])
async def test_what_nobody_foresaw_is_an_error_in_json(streaming: bool) -> None:
    document = GenerateImageResponse()
    document.response.document.json = "[1]"
    faults = ((ZeroDivisionError("secret"), 424), (document, 424), (GenerateImageResponse(), 200))
    for fault, status in faults:
        async with door_before(Broken(fault)) as address:
            answer, said = await post_text(address, {"input": "a", "stream": streaming})
        assert "secret" not in said
        if streaming and not isinstance(fault, Exception):
            assert answer.status == 200
            assert said.endswith("data: [DONE]\n\n")
            assert '"type":"error"' in said
        else:
            assert answer.status == status


class Flipping(EmbeddedBackend):
    """A service that flips one bit of each image's chunks, and may send messages."""

    def __init__(self, *, sends_messages: bool) -> None:
        super().__init__()
        self._sends_messages = sends_messages

    async def stream_image(self, request: Any) -> Any:
        async for part in super().stream_image(request):
            for small in in_chunks(part):
                if isinstance(small, RawChunk):
                    data = bytes(small.data)
                    flipped = small._replace(data=data[:-1] + bytes([data[-1] ^ 1]))
                    yield message_of(flipped) if self._sends_messages else flipped
                else:
                    yield small


@pytest.mark.parametrize("sends_messages", [False, True])
async def test_an_image_of_any_backend_is_checked_by_its_digest(sends_messages: bool) -> None:
    asked = {"input": "a", "stream": True, "embedded": {"image_bytes": 200_000}}
    async with door_before(Flipping(sends_messages=sends_messages)) as address:
        _, said = await post_text(address, asked)
    assert "the SHA-256 digest of the chunks is" in said
    assert '"type":"error"' in said
    assert "response.output_item.done" not in said


class Marking(EmbeddedBackend):
    """A service that adds a mark to each image."""

    async def stream_image(self, request: Any) -> Any:
        async for part in super().stream_image(request):
            if isinstance(part, WholeImage):
                yield replace(part, data=part.data + b"mark")
            else:
                yield part


async def test_a_changed_image_is_the_same_at_both_doors() -> None:
    asked = {"input": "a", "stream": True, "embedded": {"image_bytes": 200_000}}
    async with door_before(Marking()) as address:
        found = await events(address, asked)
    result = next(event["item"]["result"] for tag, event in found if tag.endswith("item.done"))
    extra = ExtraField(name="embedded", json='{"image_bytes":200000}')
    async with serving(Marking()) as address, AsyncImageClient(address) as client:
        generation = await client.generate(ImageRequest(prompt="a", extra_fields=[extra]))
    assert base64.b64decode(result) == generation.image.data
    assert generation.image.data.endswith(b"mark")


async def post_text(address: str, body: Any) -> tuple[Any, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://{address}/v1/responses", json=body) as answer,
    ):
        return answer, await answer.text()


async def test_a_client_that_leaves_while_it_sends_is_no_fault(
    door: str, caplog: pytest.LogCaptureFixture
) -> None:
    _, writer = await asyncio.open_connection(*door.split(":"))
    head = "POST /v1/responses HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    writer.write(head.encode() + b"content-length: 1000\r\n\r\n{")
    await asyncio.sleep(0.1)
    writer.transport.abort()
    await asyncio.sleep(0.1)
    assert "Traceback" not in caplog.text
    assert (await post(door, {"input": "a", "tools": [SMALL]}))[0].status == 200


async def test_a_service_that_says_when_to_come_back_is_heard_through_the_hop() -> None:
    busy = GenerationError("", "overloaded, come back", code="UNAVAILABLE", retry_seconds=4.2)
    async with (
        serving(Broken(busy)) as inner,
        door_before(GrpcBackend(ServerAddress(inner))) as address,
    ):
        answer, said = await post(address, {"input": "a"})
    assert (answer.status, answer.headers["retry-after"]) == (503, "5")
    assert said["error"]["message"] == "overloaded, come back"


async def test_the_policy_of_the_page_allows_its_own_script_and_style_alone(door: str) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"http://{door}/") as answer:
        page, policy = await answer.text(), answer.headers["content-security-policy"]
    assert "unsafe" not in policy
    for kind in ("script", "style"):
        (own,) = re.findall(rf"<{kind}>(.*?)</{kind}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}';" in policy
        assert page.count(f"<{kind}") == 1
    assert " style=" not in page
