"""gRPC-Web: Envoy with the shipped configuration before the real server, from a real browser.

The page is tests/interop/web. The other tests send what a page from elsewhere would, or none can.
"""

import asyncio
import shutil
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path
from typing import Final
from urllib.parse import quote

import aiohttp
import pytest
from aiohttp import web
from google.protobuf.message import Message
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from imagecall.access.admission import Admission
from imagecall.access.tokens import Tokens
from imagecall.backends.embedded.backend import EmbeddedBackend
from imagecall.doors.grpc.server import GrpcServer
from imagecall.generation.backend import Part, UnaryAnswer
from imagecall.v1.conversion_service_pb2 import ParseCallRequest
from imagecall.v1.image_generation_service_pb2 import (
    GenerateImageRequest,
    GenerateImageResponse,
    StreamImageRequest,
)
from imagecall.v1.image_request_pb2 import ImageRequest
from tests.conformance.faulty import Faulty, faulty_server
from tests.interop.samples import REFUSED, Damaged

_ROOT: Final = Path(__file__).parents[2]
_CONFIGURATION: Final = _ROOT / "scripts/deploy/envoy-web.yaml"
_PAGE: Final = _ROOT / "tests/interop/web"
_SECONDS: Final = 100

_CHECKS: Final = [
    "ParseCall",
    "error details",
    "StreamImage",
    "deadline",
    "cancellation",
]
_ORIGIN: Final = {"origin": "http://localhost:3000"}
_GRPC_WEB: Final = {"content-type": "application/grpc-web+proto", "x-grpc-web": "1"}
_PREFLIGHT: Final = {
    "access-control-request-method": "POST",
    "access-control-request-headers": (
        "authorization,content-type,grpc-timeout,x-grpc-web,x-user-agent"
    ),
}
_PARSE: Final = "/imagecall.v1.ConversionService/ParseCall"
_GENERATE: Final = "/imagecall.v1.ImageGenerationService/GenerateImage"
_STREAM: Final = "/imagecall.v1.ImageGenerationService/StreamImage"


def _envoy() -> str:
    found = shutil.which("envoy")
    if not found:
        pytest.fail("the tests of gRPC-Web need Envoy: scripts/setup dev")
    return found


async def _output_of(*command: str) -> str:
    """Returns the output of a program. Fails the test if the program fails."""
    program = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        output, _ = await asyncio.wait_for(program.communicate(), _SECONDS)
    except TimeoutError:
        program.kill()
        await program.wait()
        pytest.fail(f"{' '.join(command)} took more than {_SECONDS} seconds")
    assert program.returncode == 0, output.decode()
    return output.decode()


@asynccontextmanager
async def envoy_before(address: str, directory: Path) -> AsyncIterator[str]:
    """Envoy with the shipped configuration on a free port. Only the ports are others."""
    text = _CONFIGURATION.read_text()
    port = address.rpartition(":")[2]
    for before, after in (
        ("port_value: 8081", "port_value: 0"),
        ("port_value: 50051", f"port_value: {port}"),
    ):
        assert text.count(before) == 1
        text = text.replace(before, after)
    configuration, admin = directory / "envoy.yaml", directory / "admin"
    configuration.write_text(text)
    envoy = await asyncio.create_subprocess_exec(
        _envoy(),
        *("--config-path", str(configuration), "--disable-hot-restart"),
        *("--concurrency", "1", "--log-level", "error"),
        # Tells the port that was free.
        *(
            "--config-yaml",
            "admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}",
        ),
        *("--admin-address-path", str(admin)),
    )
    try:
        async with asyncio.timeout(60), aiohttp.ClientSession() as session:
            listener = None
            while not listener:
                await asyncio.sleep(0.02)
                assert envoy.returncode is None
                if admin.exists() and (at := admin.read_text()):
                    async with session.get(f"http://{at}/listeners?format=json") as answer:
                        found = (await answer.json()).get("listener_statuses", [])
                    async with session.get(f"http://{at}/ready") as answer:
                        if found and answer.status == 200:
                            listener = found[0]["local_address"]["socket_address"]
        yield f"http://{listener['address']}:{listener['port_value']}"
    finally:
        envoy.kill()
        await envoy.wait()


class Watched(EmbeddedBackend):
    """Tells when the work of a call has ended early."""

    def __init__(self) -> None:
        super().__init__()
        self.cancelled = asyncio.Event()

    async def generate_image(
        self, request: GenerateImageRequest
    ) -> UnaryAnswer[GenerateImageResponse]:
        try:
            return await super().generate_image(request)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def stream_image(self, request: StreamImageRequest) -> AsyncGenerator[Part, None]:
        try:
            async for part in super().stream_image(request):
                yield part
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.set()
            raise


@pytest.fixture
def backend() -> Watched:
    return Watched()


@pytest.fixture
async def door(backend: Watched, tmp_path: Path) -> AsyncIterator[str]:
    """The URL of Envoy before a server with its defaults."""
    server = GrpcServer("127.0.0.1:0", backend)
    async with envoy_before(await server.start(), tmp_path) as url:
        yield url
    await server.stop(0)


@pytest.fixture
async def session(door: str) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(door) as session:
        yield session


@pytest.fixture(scope="module")
def built() -> Path:
    """The directory of the page."""
    asyncio.run(_output_of(str(_PAGE / "build")))
    return _PAGE / "dist"


def _frame(message: Message) -> bytes:
    data = message.SerializeToString()
    return b"\0" + len(data).to_bytes(4) + data


def _slow() -> ImageRequest:
    request = ImageRequest(prompt="a fox")
    request.extra_fields.add(name="embedded", json='{"delay_seconds":60}')
    return request


async def _trailers(answer: aiohttp.ClientResponse) -> dict[str, str]:
    """The trailers, wherever they are: in the body, or in the headers if there is no body."""
    body = await answer.read()
    while body:
        end = 5 + int.from_bytes(body[1:5])
        if body[0] & 0x80:
            return dict(line.split(":", 1) for line in body[5:end].decode().splitlines())
        body = body[end:]
    return dict(answer.headers)


@pytest.fixture
async def page(built: Path) -> AsyncIterator[str]:
    """The URL of the page, served by something else than Envoy."""
    app = web.Application()
    app.router.add_static("/", built)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/index.html"
    await runner.cleanup()


async def test_envoy_takes_the_shipped_configuration() -> None:
    said = await _output_of(_envoy(), "--mode", "validate", "--config-path", str(_CONFIGURATION))
    assert said.rstrip().endswith("OK")
    assert "deprecated" not in said.lower()


@pytest.mark.toolchain  # The page is built with packages of npm.
async def test_a_page_in_a_browser_calls_and_streams(
    chromium: webdriver.Chrome, door: str, page: str
) -> None:
    def lines() -> list[str]:
        chromium.get(f"{page}?server={quote(door)}")
        WebDriverWait(chromium, _SECONDS).until(lambda browser: browser.title == "done")
        said = chromium.find_element(By.TAG_NAME, "pre").get_property("textContent")
        return str(said).splitlines()

    assert await asyncio.to_thread(lines) == [f"{name}\tok" for name in _CHECKS]


def _drawn(chromium: webdriver.Chrome, url: str) -> str:
    """Opens the page that draws. Returns its sentence, or the width of the image."""
    chromium.get(url)
    WebDriverWait(chromium, _SECONDS).until(lambda browser: browser.title == "done")
    images = chromium.find_elements(By.TAG_NAME, "img")
    if images:
        return f"{images[0].get_property('naturalWidth')} pixels"
    return chromium.find_element(By.TAG_NAME, "body").text


@pytest.fixture
def sample(page: str) -> str:
    return page.replace("index.html", "draw.html")


@pytest.mark.toolchain  # The page is built with packages of npm.
async def test_the_sample_shows_a_whole_image_or_why_there_is_none(
    chromium: webdriver.Chrome, sample: str, tmp_path: Path
) -> None:
    shown = {}
    changing = Faulty()
    async with faulty_server(changing) as address, envoy_before(address, tmp_path) as url:
        url = f"{sample}?server={quote(url)}"
        right = await asyncio.to_thread(_drawn, chromium, url)
        for name, (faulty, _) in REFUSED.items():
            changing.messages, changing.on_request = faulty.messages, faulty.on_request
            shown[name] = await asyncio.to_thread(_drawn, chromium, url)
    assert right == "1024 pixels"
    assert {
        name: text
        for name, text in shown.items()
        if any(word not in text for word in REFUSED[name][1])
    } == {}


@pytest.mark.toolchain  # The page is built with packages of npm.
async def test_the_sample_ends_the_call_of_a_stream_that_is_damaged(
    chromium: webdriver.Chrome, sample: str, tmp_path: Path
) -> None:
    damaged = Damaged()
    damaged.before = Faulty().before  # Envoy waits for the health of a server.
    async with faulty_server(damaged) as address, envoy_before(address, tmp_path) as url:
        text = await asyncio.to_thread(_drawn, chromium, f"{sample}?server={quote(url)}")
        assert text == "Error: a chunk is lost"
        await damaged.cancelled.wait()


@pytest.mark.toolchain  # The page is built with packages of npm.
async def test_the_sample_sends_its_token(
    chromium: webdriver.Chrome, sample: str, tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens"
    tokens.touch(0o600)
    tokens.write_text("a-page the-token-of-a-page\n")
    server = GrpcServer("127.0.0.1:0", EmbeddedBackend(), Admission(tokens=Tokens(tokens)))
    async with envoy_before(await server.start(), tmp_path) as url:
        url = f"{sample}?server={quote(url)}"
        refused = await asyncio.to_thread(_drawn, chromium, url)
        store = "sessionStorage.setItem('imagecall-token', 'the-token-of-a-page')"
        await asyncio.to_thread(chromium.execute_script, store)
        drawn = await asyncio.to_thread(_drawn, chromium, url)
    await server.stop(0)
    assert "reason TOKEN_REQUIRED" in refused
    assert drawn == "1024 pixels"


async def test_a_page_of_this_machine_may_call(session: aiohttp.ClientSession) -> None:
    async with session.options(_PARSE, headers=_ORIGIN | _PREFLIGHT) as answer:
        assert answer.status == 200
        assert answer.headers["access-control-allow-origin"] == _ORIGIN["origin"]
        assert answer.headers["access-control-allow-methods"] == "POST"
        allowed = answer.headers["access-control-allow-headers"].split(",")
        assert set(allowed) >= set(_PREFLIGHT["access-control-request-headers"].split(","))
    data = _frame(ParseCallRequest(json="{"))
    async with session.post(_PARSE, data=data, headers=_ORIGIN | _GRPC_WEB) as answer:
        assert answer.headers["access-control-allow-origin"] == _ORIGIN["origin"]
        exposed = answer.headers["access-control-expose-headers"].split(",")
        assert {"grpc-status", "grpc-message", "grpc-status-details-bin"} <= set(exposed)
        assert (await _trailers(answer))["grpc-status"] == "3"


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://localhost.evil.example",
        "http://127.0.0.1.evil.example:8081",
        "http://evil.example/http://localhost",
        "null",
    ],
)
async def test_a_page_from_elsewhere_may_not(session: aiohttp.ClientSession, origin: str) -> None:
    async with session.options(_PARSE, headers={"origin": origin} | _PREFLIGHT) as answer:
        assert "access-control-allow-origin" not in answer.headers
    data = _frame(ParseCallRequest(json="{}"))
    async with session.post(_PARSE, data=data, headers={"origin": origin} | _GRPC_WEB) as answer:
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        # What a browser sends for a page of another origin, without asking first.
        (_PARSE, {"content-type": "text/plain"}),
        (_PARSE, {"content-type": "application/grpc"}),
        (_PARSE, _GRPC_WEB | {"host": "rebound.example:8081"}),
        ("/grpc.health.v1.Health/Check", _GRPC_WEB),
        ("/", {}),
    ],
)
async def test_nothing_else_gets_through(
    session: aiohttp.ClientSession, path: str, headers: dict[str, str]
) -> None:
    data = _frame(ParseCallRequest(json="{}"))
    async with session.post(path, data=data, headers=headers) as answer:
        assert answer.status == 404 or answer.headers["grpc-status"] == "12"


@pytest.mark.parametrize("headers_after", [0.1, 60.0])
async def test_a_deadline_ends_the_work_with_a_status(
    session: aiohttp.ClientSession,
    backend: Watched,
    headers_after: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("imagecall.doors.grpc.services._COMMIT_SECONDS", headers_after)
    data = _frame(GenerateImageRequest(request=_slow()))
    headers = _ORIGIN | _GRPC_WEB | {"grpc-timeout": "1500m"}
    async with session.post(_GENERATE, data=data, headers=headers) as answer:
        assert (await _trailers(answer))["grpc-status"] == "4"
        assert answer.headers["access-control-allow-origin"] == _ORIGIN["origin"]
    await backend.cancelled.wait()


async def test_a_client_that_leaves_ends_the_work(
    session: aiohttp.ClientSession, backend: Watched
) -> None:
    data = _frame(StreamImageRequest(request=_slow()))
    async with session.post(_STREAM, data=data, headers=_GRPC_WEB) as answer:
        await answer.content.readexactly(5)
    await backend.cancelled.wait()


async def test_a_request_of_more_than_32_MiB_is_refused(session: aiohttp.ClientSession) -> None:
    data = BytesIO(_frame(ParseCallRequest(json=" " * (32 * 1024 * 1024))))
    async with session.post(_PARSE, data=data, headers=_ORIGIN | _GRPC_WEB) as answer:
        assert answer.status == 413
        assert answer.headers["access-control-allow-origin"] == _ORIGIN["origin"]


async def _status(session: aiohttp.ClientSession) -> str:
    data = _frame(ParseCallRequest(json='{"type":"message"}'))
    async with session.post(_PARSE, data=data, headers=_ORIGIN | _GRPC_WEB) as answer:
        assert answer.headers["access-control-allow-origin"] == _ORIGIN["origin"]
        return (await _trailers(answer))["grpc-status"]


async def test_a_server_that_stops_is_said_and_one_that_starts_is_found(tmp_path: Path) -> None:
    server = GrpcServer("127.0.0.1:0", EmbeddedBackend())
    address = await server.start()
    async with envoy_before(address, tmp_path) as url, aiohttp.ClientSession(url) as session:
        assert await _status(session) == "0"
        await server.stop(0)
        assert await _status(session) == "14"
        server = GrpcServer(address, EmbeddedBackend())
        await server.start()
        while await _status(session) != "0":  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        await server.stop(0)
