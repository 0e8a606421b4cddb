"""Stored responses: by the SDK of OpenAI at the HTTP door, and by the clients at the gRPC door."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import grpc
import openai
import pytest
import pytest_asyncio
from yarl import URL

from imagecall.access.admission import Admission
from imagecall.access.limits import Limits
from imagecall.access.tokens import Tokens
from imagecall.backends.choice import backend_from_uri
from imagecall.backends.embedded.backend import EmbeddedBackend
from imagecall.backends.responses_api.backend import HttpBackend
from imagecall.client import AsyncImageClient, ImageClient
from imagecall.doors.http.paths import PATHS
from imagecall.errors import GenerationError, ImagecallError
from imagecall.generation.backend import Backend
from imagecall.generation.observed_backend import ObservedBackend
from imagecall.service.plain_server import add_to_server
from imagecall.v1.image_generation_service_pb2 import (
    CancelImageResponseResponse,
    DeleteImageResponseResponse,
    GetImageResponseResponse,
)
from imagecall.v1.image_generation_service_pb2_grpc import (
    ImageGenerationServiceServicer,
    add_ImageGenerationServiceServicer_to_server,
)
from imagecall.v1.image_request_pb2 import ImageRequest
from imagecall.v1.image_response_pb2 import ImageResponse
from tests.doors.test_generation import serving
from tests.doors.test_http import SMALL, door_before, sdk
from tests.observing.servers import metrics_door, observing, samples
from tests.streams import PNG, item, response
from tests.upstream import HANG, JSON, RESET, Upstream, upstream

# The tests share an API and the doors before it, and so the event loop.
pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY: Final = "sk-secret-of-the-server-0123456789"
TOKEN: Final = "secret-token-of-mine"
ID: Final = "resp_1"
HOPS: Final = ("Responses API", "gRPC")
"""Backends of a door: the API itself, or a server of the schema before the API."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_api() -> AsyncIterator[Upstream]:
    async with upstream() as server:
        yield server


@pytest.fixture
def api(shared_api: Upstream) -> Upstream:
    shared_api.forget()
    return shared_api


@asynccontextmanager
async def backend_before(api: Upstream, hop: str) -> AsyncIterator[Backend]:
    """A backend that reaches the API, observed as in a server."""
    async with AsyncExitStack() as stack:
        backend: Backend = HttpBackend(api.url, KEY)
        if hop == "gRPC":
            address = await stack.enter_async_context(serving(ObservedBackend(backend, "api")))
            backend = backend_from_uri(f"grpc://{address}")
        yield ObservedBackend(backend, "api")


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=HOPS)
async def door(request: pytest.FixtureRequest, shared_api: Upstream) -> AsyncIterator[str]:
    """The address of an HTTP door before the API, directly or through a server of the schema."""
    hop = request.param
    async with backend_before(shared_api, hop) as backend, door_before(backend) as address:
        yield address


def says(api: Upstream, value: Any, **options: Any) -> None:
    api.say(json.dumps(value).encode(), content_type=JSON, **options)


async def test_a_response_in_the_background_is_polled_until_it_has_its_image(
    door: str, api: Upstream
) -> None:
    async with sdk(door) as client:
        says(api, response(status="queued", background=True))
        queued = await client.responses.create(input="a fox", tools=[SMALL], background=True)
        assert (queued.id, queued.status, queued.background) == (ID, "queued", True)
        assert queued.output == []
        assert api.requests[-1].body["background"] is True
        says(api, response(status="in_progress", background=True))
        assert (await client.responses.retrieve(ID)).status == "in_progress"
        says(api, response(item(), background=True))
        done = await client.responses.retrieve(ID)
        assert done.output[0].to_dict() == item()
        assert (api.requests[-1].method, api.requests[-1].path) == ("GET", "/v1/responses/resp_1")
        assert api.requests[-1].headers["authorization"] == f"Bearer {KEY}"


async def test_a_response_is_cancelled(door: str, api: Upstream) -> None:
    says(api, response(status="cancelled", background=True))
    async with sdk(door) as client:
        cancelled = await client.responses.cancel(ID)
    assert (cancelled.id, cancelled.status) == (ID, "cancelled")
    assert (api.requests[-1].method, api.requests[-1].path) == (
        "POST",
        "/v1/responses/resp_1/cancel",
    )


@pytest.mark.parametrize(
    ("answer", "deleted"),
    [
        ({"id": ID, "object": "response", "deleted": True}, True),
        ({"id": ID, "object": "response.deleted", "deleted": False}, False),
        ({}, True),
    ],
)
async def test_a_response_is_deleted(door: str, api: Upstream, answer: Any, deleted: bool) -> None:
    says(api, answer)
    async with sdk(door) as client:
        raw = await client.responses.with_raw_response.delete(ID)
    assert json.loads(raw.http_response.text) == {
        "id": ID,
        "object": "response",
        "deleted": deleted,
    }
    assert (api.requests[-1].method, api.requests[-1].path) == ("DELETE", "/v1/responses/resp_1")


async def test_a_deletion_may_be_answered_without_a_body(door: str, api: Upstream) -> None:
    api.say(status=204, content_type="", chunked=False)
    async with sdk(door) as client:
        await client.responses.delete(ID)


async def test_an_image_of_any_size_comes_with_a_stored_response(door: str, api: Upstream) -> None:
    large = item(PNG + bytes(6_000_000))
    says(api, response(large))
    async with sdk(door) as client:
        stored = await client.responses.retrieve(ID)
    assert stored.output[0].to_dict() == large


@pytest.mark.parametrize("path", PATHS)
async def test_every_base_path_has_stored_responses(api: Upstream, path: str) -> None:
    says(api, response())
    base = path.removesuffix("/responses")
    async with (
        door_before(HttpBackend(api.url)) as address,
        openai.AsyncOpenAI(base_url=f"http://{address}{base}", api_key="x") as client,
    ):
        await client.responses.retrieve(ID)
        await client.responses.cancel(ID)
        await client.responses.delete(ID)
    assert [request.method for request in api.requests] == ["GET", "POST", "DELETE"]


async def test_the_parameter_include_is_passed_on(door: str, api: Upstream) -> None:
    says(api, response())
    include: Any = ["message.input_image.image_url", "a&b=c"]
    async with sdk(door) as client:
        await client.responses.retrieve(ID, include=include)
    query = URL(api.requests[-1].path).query
    assert query.getall("include[]") == include


async def test_the_query_of_the_base_url_is_kept(api: Upstream) -> None:
    says(api, response())
    backend = HttpBackend(f"{api.url}?api-version=preview")
    async with door_before(backend) as address, sdk(address) as client:
        await client.responses.retrieve(ID, include=["reasoning.encrypted_content"])
    query = URL(api.requests[-1].path).query
    assert dict(query) == {
        "api-version": "preview",
        "include[]": "reasoning.encrypted_content",
    }


@pytest.mark.parametrize(
    ("query", "pointer"),
    [("stream=true", "/stream"), ("starting_after=3", "/starting_after"), ("x=", "/x")],
)
async def test_a_parameter_that_cannot_be_passed_on_is_refused(
    door: str, api: Upstream, query: str, pointer: str
) -> None:
    status, body = await ask(door, "GET", f"/v1/responses/resp_1?{query}")
    assert (status, body["error"]["param"]) == (400, pointer)
    assert not api.requests


async def ask(address: str, method: str, path: str, **options: Any) -> tuple[int, Any]:
    """The status of an answer, and its JSON. The path is sent as it is."""
    url = URL(f"http://{address}{path}", encoded=True)
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, **options) as answer,
    ):
        return answer.status, json.loads(await answer.read() or b"null")


NO_IDS = [
    "..",
    "..%2fmodels",
    "%2e%2e",
    "a%2f..%2f..%2fmodels",
    "a.b",
    "a%3fb=c",
    "a%23b",
    "a%5cb",
    "a%00",
    "a%0d%0ab",
    "a%252fb",
    "%25",
    "a%20b",
    "%ff",
    "a;b",
    "x" * 1025,
]


@pytest.mark.parametrize("method", ["GET", "DELETE", "POST"])
async def test_an_id_reaches_no_other_path_of_the_api(api: Upstream, method: str) -> None:
    says(api, response())
    suffix = "/cancel" if method == "POST" else ""
    async with door_before(HttpBackend(api.url, KEY)) as address:
        for name in NO_IDS:
            status, body = await ask(address, method, f"/v1/responses/{name}{suffix}")
            assert status in (400, 404, 405), name
            assert body["error"]["message"], name
            assert not api.requests, name


@pytest.mark.parametrize("name", ["", ".", "../models", "a/b", "a b", "a\n", "%2e", "é"])
async def test_both_backends_refuse_such_an_id(api: Upstream, name: str) -> None:
    for hop in HOPS:
        async with (
            backend_before(api, hop) as backend,
            serving(backend) as address,
            AsyncImageClient(address) as client,
        ):
            for method in (client.get_response, client.cancel_response, client.delete_response):
                with pytest.raises(ImagecallError) as refusal:
                    await method(name)
                assert (refusal.value.reason, refusal.value.pointer) == ("UNSUPPORTED", "/id")
    assert not api.requests


@pytest.mark.parametrize("name", ["resp_0f", "gen-1758-aB", "resp_bGl0ZWxsbQ+a==", "a:b~c"])
async def test_an_id_arrives_as_it_is(door: str, api: Upstream, name: str) -> None:
    says(api, response())
    async with sdk(door) as client:
        await client.responses.retrieve(name)
    assert URL(api.requests[-1].path).path == f"/v1/responses/{name}"


async def test_the_clients_have_stored_responses(api: Upstream) -> None:
    async with serving(HttpBackend(api.url)) as address, AsyncImageClient(address) as client:
        says(api, response(item()))
        stored = await client.get_response(ID, include=["a"], include_document=True)
        assert (stored.status, len(stored.calls)) == ("completed", 1)
        assert stored.document.calls[0].pointer == "/output/0"
        assert URL(api.requests[-1].path).query.getall("include[]") == ["a"]
        says(api, response(status="cancelled"))
        assert (await client.cancel_response(ID)).status == "cancelled"
        says(api, {"deleted": True})
        await client.delete_response(ID)
        assert [request.method for request in api.requests] == ["GET", "POST", "DELETE"]


async def test_the_client_that_blocks_has_them_too(api: Upstream) -> None:
    def calls(address: str) -> list[str]:
        with ImageClient(address) as client:
            client.delete_response(ID)
            return [client.get_response(ID).id, client.cancel_response(ID).id]

    says(api, response())
    async with serving(HttpBackend(api.url)) as address:
        assert await asyncio.to_thread(calls, address) == [ID, ID]


@contextmanager
def threads(backend: Backend) -> Iterator[str]:
    """The address of a server with threads before a backend."""
    server = grpc.server(ThreadPoolExecutor(2))
    add_to_server(backend, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


class Stored(EmbeddedBackend):
    """A backend in Python that stores responses."""

    async def get_image_response(self, request: Any) -> GetImageResponseResponse:
        return GetImageResponseResponse(response=ImageResponse(id=request.id, status="queued"))

    async def cancel_image_response(self, request: Any) -> CancelImageResponseResponse:
        raise GenerationError("", f"there is no {request.id}", code="NOT_FOUND")

    async def delete_image_response(self, request: Any) -> DeleteImageResponseResponse:
        return DeleteImageResponseResponse(id=request.id, deleted=True)


async def _check_stored(door: str) -> None:
    async with sdk(door) as client:
        stored = await client.responses.retrieve(ID)
        assert (stored.id, stored.status, stored.output) == (ID, "queued", [])
        with pytest.raises(openai.NotFoundError, match="there is no resp_1"):
            await client.responses.cancel(ID)
        await client.responses.delete(ID)


async def test_a_backend_in_python_may_store_responses() -> None:
    async with door_before(Stored()) as address:
        await _check_stored(address)
    with threads(Stored()) as behind:
        async with door_before(backend_from_uri(f"grpc://{behind}")) as address:
            await _check_stored(address)


class _Unimplemented(ImageGenerationServiceServicer):
    """Service of an older schema: generated code answers UNIMPLEMENTED."""


@asynccontextmanager
async def without_stored_responses(name: str) -> AsyncIterator[Backend]:
    """A backend that stores nothing."""
    async with AsyncExitStack() as stack:
        match name:
            case "another language":
                server = grpc.aio.server()
                add_ImageGenerationServiceServicer_to_server(_Unimplemented(), server)  # type: ignore[abstract]  # its methods are those of generated code
                port = server.add_insecure_port("127.0.0.1:0")
                await server.start()
                stack.push_async_callback(server.stop, 0)
                yield backend_from_uri(f"grpc://127.0.0.1:{port}")
            case "threads":
                yield backend_from_uri(f"grpc://{stack.enter_context(threads(EmbeddedBackend()))}")
            case "gRPC":
                address = await stack.enter_async_context(serving(EmbeddedBackend()))
                yield backend_from_uri(f"grpc://{address}")
            case _:
                yield ObservedBackend(backend_from_uri(name), "x")


@pytest.mark.parametrize(
    "name",
    [
        "embedded",
        "images+http://127.0.0.1:1/v1",
        "tests.service.services:TwoImages",
        "gRPC",
        "another language",
        "threads",
    ],
)
async def test_a_backend_without_stored_responses_refuses_them_in_words(name: str) -> None:
    async with (
        without_stored_responses(name) as backend,
        serving(backend) as address,
        AsyncImageClient(address) as client,
    ):
        for call in (client.get_response, client.cancel_response, client.delete_response):
            with pytest.raises(ImagecallError, match="the backend stores no responses") as refusal:
                await call(ID)
            assert refusal.value.code == "UNIMPLEMENTED"
            assert refusal.value.reason == "NO_STORED_RESPONSES"
    async with (
        without_stored_responses(name) as backend,
        door_before(backend) as address,
        sdk(address) as sdk_client,
    ):
        responses = sdk_client.responses
        for method in (responses.retrieve, responses.cancel, responses.delete):
            with pytest.raises(openai.NotFoundError, match="the backend stores no responses"):
                await method(ID)


async def test_a_service_in_python_refuses_the_background() -> None:
    backend = backend_from_uri("tests.service.services:TwoImages")
    async with serving(backend) as address, AsyncImageClient(address) as client:
        request = ImageRequest(prompt="a fox")
        request.extra_fields.add(name="background", json="true")
        with pytest.raises(ImagecallError) as refusal:
            await client.generate_image(request)
        assert (refusal.value.reason, refusal.value.pointer) == ("UNSUPPORTED", "/background")


# Failures.


@pytest.mark.parametrize("status", [400, 404, 409, 429, 500, 503])
async def test_the_error_of_the_api_is_passed_on_without_the_key(
    door: str, api: Upstream, status: int
) -> None:
    says(api, {"error": {"message": f"no {KEY}", "type": "x"}}, status=status)
    async with sdk(door) as client:
        for method in (client.responses.retrieve, client.responses.cancel):
            with pytest.raises(openai.APIStatusError) as failure:
                await method(ID)
            assert failure.value.status_code == status
            assert "no [key]" in failure.value.message
            assert "x-should-retry" not in failure.value.response.headers


@pytest.mark.parametrize(
    ("steps", "status"),
    [
        ([RESET], 503),
        ([b'{"id": "resp_1", "output": [', RESET], 502),
        ([b'{"id": "resp_1", "output": [}'], 502),
        ([b"<html>"], 502),
    ],
)
async def test_a_failure_may_be_retried_as_it_costs_nothing(
    door: str, api: Upstream, steps: list[Any], status: int
) -> None:
    head = None if steps[0] == RESET else 200
    api.say(*steps, content_type=JSON, status=head)
    for method, suffix in (("GET", ""), ("POST", "/cancel")):
        code, body = await ask(door, method, f"/v1/responses/{ID}{suffix}")
        assert code == status, body


async def test_a_failure_at_the_grpc_door_has_no_pushback(api: Upstream) -> None:
    async with serving(HttpBackend(api.url)) as address, AsyncImageClient(address) as client:
        api.say(RESET, status=None)
        with pytest.raises(GenerationError) as failure:
            await client.get_response(ID)
        assert failure.value.code == "UNAVAILABLE"
        assert not failure.value.may_be_billed
        with pytest.raises(GenerationError) as failure:
            await client.generate_image("a fox")
        assert failure.value.may_be_billed


async def test_a_stored_response_without_the_key_that_it_quotes(door: str, api: Upstream) -> None:
    says(api, response(item(revised_prompt=f"a fox and {KEY}"), instructions=KEY))
    status, body = await ask(door, "GET", f"/v1/responses/{ID}")
    assert (status, body["instructions"]) == (200, "[key]")
    assert body["output"][0]["revised_prompt"] == "a fox and [key]"
    says(api, {"id": KEY, "deleted": True})
    status, body = await ask(door, "DELETE", f"/v1/responses/{ID}")
    assert (status, body["id"]) == (200, "[key]")


async def test_a_post_with_a_body_is_refused(door: str, api: Upstream) -> None:
    for body in (b"", b"{}", b" null "):
        says(api, response())
        assert (await ask(door, "POST", f"/v1/responses/{ID}/cancel", data=body))[0] == 200
    came = len(api.requests)
    status, answer = await ask(door, "POST", f"/v1/responses/{ID}/cancel", data=b'{"a": 1}')
    assert (status, answer["error"]["type"]) == (400, "unsupported")
    assert len(api.requests) == came


# Access.


async def test_a_stored_response_needs_a_token(api: Upstream, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(f"me {TOKEN}\n")
    admission = Admission(tokens=Tokens(tmp_path / "tokens"))
    says(api, response())
    async with door_before(HttpBackend(api.url, KEY), admission=admission) as address:
        for path, method in ((ID, "GET"), (ID, "HEAD"), (ID, "DELETE"), (f"{ID}/cancel", "POST")):
            for headers in ({}, {"authorization": "Bearer wrong"}):
                status, _ = await ask(address, method, f"/v1/responses/{path}", headers=headers)
                assert status == 401
            assert not api.requests
        mine = {"authorization": f"Bearer {TOKEN}"}
        status, _ = await ask(address, "GET", f"/v1/responses/{ID}", headers=mine)
        assert status == 200
        assert TOKEN not in str(api.requests[-1].headers)


@pytest.mark.parametrize(
    "headers", [{"host": "evil.example"}, {"origin": "https://evil.example"}, {"origin": "null"}]
)
@pytest.mark.parametrize("method", ["GET", "DELETE", "POST"])
async def test_a_page_of_another_machine_gets_no_stored_response(
    api: Upstream, headers: dict[str, str], method: str
) -> None:
    if method != "GET" and "host" in headers:
        headers = {**headers, "origin": "http://evil.example"}  # As browsers send it.
    suffix = "/cancel" if method == "POST" else ""
    admission = Admission(local=True)
    async with door_before(HttpBackend(api.url, KEY), admission=admission) as address:
        status, _ = await ask(address, method, f"/v1/responses/{ID}{suffix}", headers=headers)
    assert status == 403
    assert not api.requests


async def test_a_page_of_a_named_origin_may_delete(api: Upstream) -> None:
    origin = "https://app.example.com"
    headers = {"origin": origin, "access-control-request-method": "DELETE"}
    async with (
        door_before(HttpBackend(api.url), cors_origins=[origin]) as address,
        aiohttp.ClientSession() as session,
        session.options(f"http://{address}/v1/responses/{ID}", headers=headers) as answer,
    ):
        assert answer.status == 200
        assert "DELETE" in answer.headers["access-control-allow-methods"]


async def test_a_stored_response_is_admitted_as_a_call(api: Upstream) -> None:
    api.say(HANG)
    admission = Admission(Limits(calls=1))
    async with door_before(HttpBackend(api.url), admission=admission) as address:
        first = asyncio.create_task(ask(address, "GET", f"/v1/responses/{ID}"))
        await api.arrived.wait()
        status, body = await ask(address, "GET", f"/v1/responses/{ID}")
        assert (status, body["error"]["type"]) == (429, "too_many_calls")
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await api.left.wait()  # The call to the API has ended with the client.
    assert admission.in_progress == 0
    assert admission.budget.held == 0


async def test_the_deadline_of_a_call_ends_it(api: Upstream) -> None:
    api.say(HANG)
    admission = Admission(Limits(call_seconds=0.2))
    async with door_before(HttpBackend(api.url), admission=admission) as address:
        status, body = await ask(address, "GET", f"/v1/responses/{ID}")
    assert (status, body["error"]["type"]) == (504, "call_too_long")


async def test_metrics_have_the_place_of_an_id_and_not_the_id(api: Upstream) -> None:
    says(api, response())
    async with (
        observing(metrics="127.0.0.1:0") as seen,
        door_before(HttpBackend(api.url), observer=seen) as address,
        metrics_door(seen) as metrics,
    ):
        for name in ("resp_1", "resp_2"):
            await ask(address, "GET", f"/v1/responses/{name}")
        await ask(address, "POST", "/api/v1/responses/resp_3/cancel")
        counted = await samples(metrics)
    served = "http_server_request_duration_seconds_count"
    assert counted[served, frozenset(["GET", "/v1/responses/{id}", "http", "200"])] == 2
    route = "/api/v1/responses/{id}/cancel"
    assert counted[served, frozenset(["POST", route, "http", "200"])] == 1
    assert not [label for _, labels in counted for label in labels if "resp_" in label]
