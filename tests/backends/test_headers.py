"""Headers that reach a backend: those of its operator, and some of the caller, through any door."""

import base64
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest

from imagecall.access.admission import Admission
from imagecall.access.tokens import Tokens
from imagecall.backends.choice import backend_from_uri
from imagecall.backends.embedded.backend import EmbeddedBackend
from imagecall.backends.responses_api.backend import HttpBackend
from imagecall.errors import GenerationError
from imagecall.generation.backend import Backend, WholeAnswer
from imagecall.generation.call_context import CALL, CallContext
from imagecall.rpc.headers import Header, read_header, read_headers
from imagecall.v1.image_generation_service_pb2 import GenerateImageRequest, StreamImageRequest
from imagecall.v1.image_generation_service_pb2_grpc import ImageGenerationServiceStub
from imagecall.v1.image_request_pb2 import ImageRequest
from tests.doors.test_generation import serving
from tests.doors.test_http import SMALL, door_before
from tests.streams import framed, happy, response
from tests.upstream import JSON, Upstream, upstream

KEY = "a-key-without-a-prefix-0123456789"
ASKED = GenerateImageRequest(request=ImageRequest(prompt="a fox"))
SENT = {
    "Idempotency-Key": "key-1",
    "HTTP-Referer": "https://app.example/",
    "X-Title": "An app",
    "OpenAI-Organization": "org-1",
    "OpenAI-Project": "proj-1",
}
"""The headers of a caller that go on by default."""

KEPT_BACK = {
    "Authorization": "Bearer secret",
    "Cookie": "secret",
    "X-Tenant": "secret",
    "Proxy-Authorization": "secret",
    "X-Stainless-Lang": "secret",
}


@pytest.fixture
async def api() -> AsyncIterator[Upstream]:
    async with upstream() as server:
        server.say(json.dumps(response()).encode(), content_type=JSON)
        yield server


@asynccontextmanager
async def opened(backend: Backend) -> AsyncIterator[Backend]:
    try:
        yield backend
    finally:
        await backend.close()


async def sent_to(api: Upstream, backend: Backend) -> dict[str, str]:
    """The headers of a request to the API."""
    async with opened(backend):
        await backend.generate_image(ASKED)
    return api.requests[-1].headers


async def post(address: str, headers: dict[str, str], stream: bool = False) -> None:
    body = {"input": "a fox", "tools": [SMALL], "stream": stream}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://{address}/v1/responses", json=body, headers=headers) as answer,
    ):
        assert answer.status == 200
        await answer.read()


async def test_headers_of_the_operator_are_sent_and_a_key_only_if_there_is_one(
    api: Upstream,
) -> None:
    headers = [read_header("api-key: k1"), read_header("x-ms-oai-image-generation-deployment: d")]
    sent = await sent_to(api, backend_from_uri(api.url, headers=headers))
    assert (sent["api-key"], sent["x-ms-oai-image-generation-deployment"]) == ("k1", "d")
    assert "authorization" not in sent
    sent = await sent_to(
        api, backend_from_uri(api.url, KEY, headers=[read_header("User-Agent: mine")])
    )
    assert (sent["authorization"], sent["user-agent"]) == (f"Bearer {KEY}", "mine")
    basic = read_header("Authorization: Basic YTpi")
    assert (await sent_to(api, backend_from_uri(api.url, headers=[basic])))[
        "authorization"
    ] == basic.value


@pytest.mark.parametrize(
    ("base", "path"),
    [
        ("?api-version=preview", "/v1/responses?api-version=preview"),
        ("/?a=b%20c&d", "/v1/responses?a=b%20c&d"),
        ("/", "/v1/responses"),
        ("?", "/v1/responses"),
    ],
)
async def test_a_query_of_the_base_url_stands_behind_the_path(
    api: Upstream, base: str, path: str
) -> None:
    await sent_to(api, backend_from_uri(api.url + base))
    assert api.requests[-1].path == path


@pytest.mark.parametrize("name", ["http://127.0.0.1:1/v1", "grpc://127.0.0.1:1"])
def test_headers_that_contradict_each_other_are_refused(name: str) -> None:
    for headers, key, message in (
        ([Header("A", "x"), Header("a", "y")], "", "twice"),
        ([Header("Authorization", "Basic x")], KEY, "authorization and the API key"),
        ([Header("Host", "x")], "", "belongs to a connection"),
    ):
        with pytest.raises(ValueError, match=message):
            backend_from_uri(name, key, headers=headers)


@pytest.mark.parametrize("name", ["a!", "a-bin", "grpc-timeout", "User-Agent"])
def test_a_header_that_is_no_metadata_is_refused_before_a_grpc_backend(name: str) -> None:
    with pytest.raises(ValueError, match="gRPC metadata"):
        backend_from_uri("grpc://127.0.0.1:1", headers=[Header(name, "x")])


def test_a_file_of_headers_has_a_line_each() -> None:
    text = "# a comment\n\n a: 1\r\nb:2 # no comment\n"
    assert list(read_headers(text)) == [Header("a", "1", True), Header("b", "2 # no comment", True)]
    with pytest.raises(ValueError, match="line 2: a header is not NAME: VALUE") as caught:
        list(read_headers("a: 1\nsecret"))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("stream", [False, True])
async def test_some_headers_of_a_caller_reach_an_api_through_the_http_door(
    api: Upstream, stream: bool
) -> None:
    if stream:
        api.say(framed(happy()))
    async with door_before(HttpBackend(api.url)) as address:
        await post(address, SENT | KEPT_BACK | {"x-request-id": "r1"}, stream)
    sent = api.requests[-1].headers
    assert {name: sent.get(name.lower()) for name in SENT} == SENT
    assert "secret" not in str(sent)
    assert sent["x-request-id"] == "r1"


async def test_some_metadata_of_a_caller_reaches_an_api_through_the_grpc_door(
    api: Upstream,
) -> None:
    metadata = [(name.lower(), value) for name, value in (SENT | KEPT_BACK).items()]
    async with (
        serving(HttpBackend(api.url)) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        stub: Any = ImageGenerationServiceStub(channel)
        await stub.GenerateImage(ASKED, metadata=[*metadata, ("x-title-bin", b"\0")])
    sent = api.requests[-1].headers
    assert {name: sent.get(name.lower()) for name in SENT} == SENT
    assert "secret" not in str(sent)


class Seeing(EmbeddedBackend):
    """A backend that keeps what it is told of its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[CallContext] = []

    async def generate_image(self, request: Any) -> Any:
        self.seen.append(CALL.get())
        return await super().generate_image(request)


async def test_headers_and_the_deadline_reach_a_grpc_backend_through_the_http_door() -> None:
    seeing = Seeing()
    async with AsyncExitStack() as stack:
        far = await stack.enter_async_context(serving(seeing))
        backend = backend_from_uri(
            f"grpc://{far}", headers=[Header("X-Own", "own"), Header("x-title", "t")]
        )
        address = await stack.enter_async_context(door_before(backend))
        await post(address, SENT | KEPT_BACK)
    [call] = seeing.seen
    metadata = dict(call.metadata)
    expected = {name.lower(): value for name, value in SENT.items()} | {
        "x-own": "own",
        "x-title": "t",
    }
    assert {name: metadata.get(name) for name in expected} == expected
    assert "secret" not in str(metadata)
    assert call.seconds_left is not None
    assert 3000 < call.seconds_left <= 3600


async def test_the_operator_names_the_headers_that_go_on(api: Upstream) -> None:
    names = ["X-Tenant", "Authorization"]
    for headers, authorization in (
        ([], "Bearer secret"),
        ([Header("authorization", "own")], "own"),
    ):
        backend = backend_from_uri(api.url, headers=headers, forward_headers=names)
        async with door_before(backend, forward_headers=names) as address:
            await post(address, SENT | KEPT_BACK)
        sent = api.requests[-1].headers
        assert (sent["x-tenant"], sent["authorization"]) == ("secret", authorization)
        assert not {name.lower() for name in SENT} & sent.keys()


async def test_a_token_for_the_server_does_not_go_on(api: Upstream, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("me 0123456789abcdef")
    names = ["authorization", "x-title"]
    headers = {"Authorization": "Bearer 0123456789abcdef", "X-Title": "t"}
    async with door_before(
        HttpBackend(api.url, forward_headers=names),
        admission=Admission(tokens=Tokens(file)),
        forward_headers=names,
    ) as address:
        await post(address, headers)
    sent = api.requests[-1].headers
    assert "authorization" not in sent
    assert sent["x-title"] == "t"


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Title": "caf\u00e9"},
        {"X-Title": "a\tb"},
        {"X-Title": "t", "Connection": "keep-alive, X-Title"},
    ],
)
async def test_a_header_that_cannot_go_on_as_it_came_is_left_out(
    api: Upstream, headers: dict[str, str]
) -> None:
    async with door_before(HttpBackend(api.url)) as address:
        await post(address, headers | {"OpenAI-Project": "p"})
    sent = api.requests[-1].headers
    assert "x-title" not in sent
    assert sent["openai-project"] == "p"


SECRETS = [
    [Header("api-key", KEY)],
    [Header("X-Gateway-Token", KEY)],
    [Header("Authorization", f"Custom {KEY}")],
    list(read_headers(f"x-team: {KEY}")),
]


@pytest.mark.parametrize("headers", SECRETS)
@pytest.mark.parametrize("status", [401, 200])
async def test_a_secret_in_a_header_is_masked_where_the_api_quotes_it(
    api: Upstream, headers: list[Header], status: int
) -> None:
    error = {"message": f"bad key: {KEY}", "code": KEY, "type": KEY, "param": KEY}
    api.say(json.dumps({"error": error}).encode(), status=status, content_type=JSON)
    async with opened(backend_from_uri(api.url, headers=headers)) as backend:
        with pytest.raises(GenerationError) as caught:
            await backend.generate_image(ASKED)
        assert KEY not in f"{caught.value}{caught.value.metadata}{caught.value.pointer}"
        assert "bad key: [key]" in str(caught.value)
        api.say(framed([{**error, "type": "error"}]))
        with pytest.raises(GenerationError) as caught:
            async for _ in backend.stream_image(StreamImageRequest(request=ASKED.request)):
                pass
        assert KEY not in f"{caught.value}{caught.value.metadata}{caught.value.pointer}"


async def test_what_is_no_secret_is_not_masked_in_an_answer(api: Upstream) -> None:
    """A deployment is no secret, and an answer keeps its name."""
    name = "gpt-image-1-of-a-long-name"
    api.say(json.dumps(response(model=name)).encode(), content_type=JSON)
    header = Header("x-ms-oai-image-generation-deployment", name)
    async with opened(backend_from_uri(api.url, headers=[header])) as backend:
        answer = await backend.generate_image(ASKED)
    assert WholeAnswer.of(answer).message.response.model == name


@pytest.mark.parametrize("variable", ["NETRC", "HOME"])
@pytest.mark.parametrize("key", ["", KEY])
@pytest.mark.parametrize("entry", ["machine 127.0.0.1", "default", "machine 127.0.0.1 login ("])
async def test_a_netrc_changes_nothing(
    api: Upstream,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    key: str,
    entry: str,
) -> None:
    file = tmp_path / ".netrc"
    file.write_text(f"{entry} login a password b\n")
    file.chmod(0o600)
    monkeypatch.setenv(variable, str(file if variable == "NETRC" else tmp_path))
    sent = await sent_to(api, HttpBackend(api.url, key))
    assert sent.get("authorization", "") == (f"Bearer {key}" if key else "")


@pytest.mark.parametrize("scheme", ["http://", ""])
async def test_a_proxy_of_the_environment_is_used_with_the_credentials_of_its_url_alone(
    api: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    file = tmp_path / "netrc"
    file.write_text("default login a password b\n")
    monkeypatch.setenv("NETRC", str(file))
    address = api.url.removeprefix("http://").removesuffix("/v1")
    url = "http://api.example/v1?a=b"
    monkeypatch.setenv("HTTP_PROXY", f"{scheme}{address}")
    sent = await sent_to(api, HttpBackend(url))
    assert api.requests[-1].path == "http://api.example/v1/responses?a=b"
    assert "proxy-authorization" not in sent
    monkeypatch.setenv("HTTP_PROXY", f"{scheme}us%40er:pa%3Ass@{address}")
    sent = await sent_to(api, HttpBackend(url))
    credentials = base64.b64encode(b"us@er:pa:ss").decode()
    assert sent["proxy-authorization"] == f"Basic {credentials}"
    assert "authorization" not in sent
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    await sent_to(api, HttpBackend(api.url))
    assert api.requests[-1].path == "/v1/responses"


@pytest.mark.parametrize("proxy", ["socks5://u:secret@x:1", "http://", "http://u:secret@x:port"])
def test_what_is_no_proxy_is_refused_and_not_quoted(
    proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", proxy)
    with pytest.raises(ValueError, match="HTTPS_PROXY is not http://HOST:PORT") as caught:
        HttpBackend("https://api.example/v1")
    assert "secret" not in str(caught.value)
    HttpBackend("http://api.example/v1")
