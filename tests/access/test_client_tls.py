"""TLS on each hop: command line, Python client and backends, and the sentence for each failure."""

import asyncio
import datetime
import re
import shlex
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp.web
import pytest
import trustme

from imagecall.access.certificates import Certificates
from imagecall.backends.choice import backend_from_uri
from imagecall.backends.embedded.backend import EmbeddedBackend
from imagecall.client import AsyncImageClient, ClientTls
from imagecall.doors.grpc.server import GrpcServer
from imagecall.errors import GenerationError
from imagecall.generation.backend import UnaryAnswer
from imagecall.v1.image_generation_service_pb2 import (
    GenerateImageRequest,
    GenerateImageResponse,
)
from imagecall.v1.image_generation_tool_pb2 import ImageGenerationTool, Tool
from imagecall.v1.image_request_pb2 import ImageRequest
from tests.commands.command import COMMAND, run_here
from tests.doors.test_http import door_before
from tests.images_api import ENGINES
from tests.readme_regions import ROOT
from tests.streams import framed, happy

SMALL = Tool(image_generation_tool=ImageGenerationTool(size="64x64", quality="low"))
FOX = ImageRequest(prompt="a fox", tools=[SMALL])
PAST = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)


class Pair(NamedTuple):
    """A certificate chain and its key, in files."""

    cert: Path
    key: Path


class Authority:
    """An authority, with its certificate and those that it signs in files of a directory."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self._directory = directory
        self._authority = trustme.CA()
        self.file = directory / "ca.pem"
        self._authority.cert_pem.write_to_path(self.file)

    def issue(self, name: str, *hosts: str, expired: bool = False) -> Pair:
        issued = self._authority.issue_cert(*hosts, not_after=PAST if expired else None)
        pair = Pair(self._directory / f"{name}.pem", self._directory / f"{name}.key")
        pair.key.write_bytes(issued.private_key_pem.bytes())
        pair.cert.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        return pair


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "stranger")


class Held(EmbeddedBackend):
    """Embedded backend that holds back the image of a prompt until a test releases it."""

    def __init__(self, prompt: str = "") -> None:
        super().__init__()
        self.prompt = prompt
        self.reached, self.released = asyncio.Event(), asyncio.Event()

    async def generate_image(
        self, request: GenerateImageRequest
    ) -> UnaryAnswer[GenerateImageResponse]:
        if request.request.prompt == self.prompt:
            self.reached.set()
            await self.released.wait()
        return await super().generate_image(request)


@asynccontextmanager
async def serving(
    pair: Pair | None, clients: Path | None = None, backend: EmbeddedBackend | None = None
) -> AsyncIterator[str]:
    """The address of a server, with TLS if there is a certificate."""
    certificates = Certificates(pair.cert, pair.key, clients) if pair else None
    server = GrpcServer("127.0.0.1:0", backend or EmbeddedBackend(), certificates=certificates)
    try:
        yield await server.start()
    finally:
        await server.stop(0)


@asynccontextmanager
async def serving_json(pair: Pair, clients: Path | None = None) -> AsyncIterator[str]:
    """The base URL of a Responses API, and of an Images API, with TLS."""

    async def respond(request: aiohttp.web.Request) -> aiohttp.web.Response:
        await request.read()
        return aiohttp.web.Response(body=framed(happy()), content_type="text/event-stream")

    async def draw(request: aiohttp.web.Request) -> aiohttp.web.Response:
        await request.read()
        return aiohttp.web.json_response(ENGINES["openai"].answer)

    app = aiohttp.web.Application()
    app.router.add_post("/responses", respond)
    app.router.add_post("/images/generations", draw)
    runner = aiohttp.web.AppRunner(app)
    await runner.setup()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.cert, pair.key)
    if clients:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients)
    site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    yield f"https://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@contextmanager
def with_alerts(pair: Pair, clients: Path, version: ssl.TLSVersion) -> Iterator[int]:
    """The port of a server that requires a certificate, and closes with an alert of TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.cert, pair.key)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(clients)
    context.set_alpn_protocols(["h2", "http/1.1"])
    context.maximum_version = version

    def run(listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with context.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            ) as tls:
                with suppress(OSError):
                    tls.do_handshake()
                # Bytes that are not read would end the connection with a reset, which drops the
                # alert where the client has not read it yet.
                with suppress(OSError):
                    tls.settimeout(5)
                    socket.socket.shutdown(tls, socket.SHUT_WR)
                    while socket.socket.recv(tls, 4096):
                        pass

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=run, args=[listening], daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(5)


async def failure_of(client: AsyncImageClient) -> str:
    async with client:
        with pytest.raises(GenerationError) as caught:
            await client.generate_image(FOX, timeout=60)
    assert (caught.value.code, caught.value.may_be_billed) == ("UNAVAILABLE", False)
    return str(caught.value)


async def run(*arguments: str) -> tuple[int, str, str]:
    """Runs a command; returns the exit code and both outputs."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    output, errors = await process.communicate()
    return process.returncode or 0, output.decode(), errors.decode()


def flags(tls: ClientTls, prefix: str = "") -> list[str]:
    named = {"ca": tls.ca, "cert": tls.cert, "key": tls.key, "name": tls.name}
    return [
        part
        for name, value in named.items()
        if value
        for part in (f"--{prefix}tls-{name}", str(value))
    ]


async def test_a_client_with_a_certificate_is_served_on_every_hop(
    authority: Authority, tmp_path: Path
) -> None:
    server, own = authority.issue("server", "127.0.0.1"), authority.issue("client", "a@b.example")
    tls = ClientTls(authority.file, *own)
    async with serving(server, authority.file) as address:
        secure = f"grpcs://{address}"
        for client in (AsyncImageClient(secure, tls=tls), AsyncImageClient(address, tls=tls)):
            async with client:
                assert (await client.generate_image(FOX)).calls
        output = tmp_path / "fox.png"
        where = ["--server", secure, *flags(tls)]
        size = ["--size", "64x64"]
        code, _, errors = await run("generate", "a fox", *size, "-o", str(output), *where)
        assert (code, output.exists()) == (0, True), errors
        assert (await run("convert", str(ROOT / "tests/cases/none"), *where))[0] == 1
        assert (await run("health", secure, *flags(tls))) == (0, "SERVING\n", "")
        checked = await run("check", secure, *flags(tls), "--only", "blank-prompt")
        assert (checked[0], checked[2]) == (0, "")
        async with door_before(backend_from_uri(secure, tls=tls)) as door:
            assert (await posted(door))[0] == 200


async def posted(door: str) -> tuple[int, str]:
    """Status and body of a response of a door."""
    tool = {"type": "image_generation", "size": "64x64", "quality": "low"}
    body = {"input": "a fox", "tools": [tool]}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://{door}/v1/responses", json=body) as answer,
    ):
        return answer.status, await answer.text()


FAILURES = {
    "another name": ("elsewhere", "ca", "", "its certificate is for another name"),
    "expired": ("expired", "ca", "", "its certificate has expired"),
    "unknown authority": (
        "server",
        "stranger",
        "",
        "its certificate is of no CA that is trusted here",
    ),
    "no TLS": ("", "ca", "", "it does not speak TLS"),
    "no certificate": (
        "server",
        "ca",
        "required",
        "it ended the TLS handshake, and may require a client certificate that it trusts",
    ),
    "a certificate of a stranger": (
        "server",
        "ca",
        "stranger",
        "it ended the TLS handshake, and may require a client certificate that it trusts",
    ),
    "no TLS here": ("server", "", "", "it closed the connection at once, and may require TLS"),
}


@pytest.mark.parametrize("name", FAILURES)
async def test_a_failed_handshake_is_a_sentence(
    name: str, authority: Authority, stranger: Authority
) -> None:
    served, trusted, own, cause = FAILURES[name]
    pairs = {
        "": None,
        "server": authority.issue("server", "127.0.0.1"),
        "elsewhere": authority.issue("elsewhere", "elsewhere.example"),
        "expired": authority.issue("expired", "127.0.0.1", expired=True),
    }
    pair = stranger.issue("client", "a@b.example") if own == "stranger" else (None, None)
    authorities = {"ca": authority.file, "stranger": stranger.file, "": None}
    tls = ClientTls(authorities[trusted], *pair)
    async with serving(pairs[served], authority.file if own else None) as address:
        whole = f"grpcs://{address}" if trusted else f"grpc://{address}"
        sentence = f"there is no connection to {address}: {cause}"
        async with door_before(backend_from_uri(whole, tls=tls)) as door:
            failure, ended, (status, body) = await asyncio.gather(
                failure_of(AsyncImageClient(whole, tls=tls if trusted else None)),
                run("health", whole, *flags(tls)),
                posted(door),
            )
        assert failure == sentence
        assert ended == (1, "", f"imagecall: UNAVAILABLE: {sentence}\n")
        assert status == 503
        assert f'"the gRPC backend is not reachable: {cause}"' in body


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
async def test_an_alert_of_an_api_names_the_cause(
    version: str, authority: Authority, stranger: Authority
) -> None:
    server = authority.issue("server", "127.0.0.1")
    unknown = "it does not trust the CA of the client certificate"
    required = {
        "TLSv1_2": "it refuses the TLS handshake",
        "TLSv1_3": "it requires a client certificate",
    }
    other = stranger.issue("client", "a@b.example")
    with with_alerts(server, authority.file, ssl.TLSVersion[version]) as port:
        for pair, cause in (((None, None), required[version]), (other, unknown)):
            backend = backend_from_uri(
                f"https://127.0.0.1:{port}", tls=ClientTls(authority.file, *pair)
            )
            async with door_before(backend) as door:
                status, body = await posted(door)
            assert (status, f"there is no connection to the API: {cause}" in body) == (503, True)


async def test_an_api_with_a_private_authority_and_client_certificates_is_called(
    authority: Authority, stranger: Authority
) -> None:
    server, own = authority.issue("server", "api.example"), authority.issue("client", "a@b.example")
    tls = ClientTls(authority.file, *own, name="api.example")
    async with (
        serving_json(server, authority.file) as url,
        door_before(backend_from_uri(url, tls=tls)) as door,
    ):
        assert (await posted(door))[0] == 200
    causes = {
        ClientTls(authority.file): "its certificate is for another name",
        ClientTls(stranger.file, name="api.example"): FAILURES["unknown authority"][3],
    }
    async with serving_json(server) as url:
        for other, cause in causes.items():
            async with door_before(backend_from_uri(url, tls=other)) as door:
                assert f"there is no connection to the API: {cause}" in (await posted(door))[1]


async def test_an_images_api_has_the_same_settings_of_tls(
    authority: Authority, stranger: Authority
) -> None:
    server, own = authority.issue("server", "127.0.0.1"), authority.issue("client", "a@b.example")
    async with serving_json(server, authority.file) as url:
        trusted = backend_from_uri(f"images+{url}", tls=ClientTls(authority.file, *own))
        async with door_before(trusted) as door:
            assert (await posted(door))[0] == 200
        foreign = backend_from_uri(f"images+{url}", tls=ClientTls(stranger.file, *own))
        async with door_before(foreign) as door:
            cause = FAILURES["unknown authority"][3]
            assert f"there is no connection to the API: {cause}" in (await posted(door))[1]


async def test_a_backend_gets_the_new_certificate_while_a_call_goes_on(
    authority: Authority, stranger: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imagecall.access.watched_files._SECONDS", 0)
    server = authority.issue("server", "127.0.0.1")
    own = stranger.issue("client", "a@b.example")
    held = Held("a late fox")
    late = ImageRequest(prompt=held.prompt, tools=[SMALL])
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(serving(server, authority.file, held))
        backend: Any = backend_from_uri(f"grpcs://{address}", tls=ClientTls(authority.file, *own))
        inner = GrpcServer("127.0.0.1:0", backend)
        outer = await inner.start()
        stack.push_async_callback(inner.stop, 0)
        stack.push_async_callback(backend.close)
        async with AsyncImageClient(outer) as client:
            with pytest.raises(GenerationError, match="is not reachable"):
                await client.generate_image(FOX)
            for source, target in zip(authority.issue("new", "a@b.example"), own, strict=True):
                target.write_bytes(source.read_bytes())
            drawing = asyncio.create_task(client.generate_image(late))
            await held.reached.wait()
            for source, target in zip(authority.issue("newer", "a@b.example"), own, strict=True):
                target.write_bytes(source.read_bytes())
            assert (await client.generate_image(FOX)).calls
            assert not drawing.done()
            held.released.set()
            assert (await drawing).calls


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "a:1", "--tls-ca", "x"], "--tls-ca needs the address of a server with TLS"),
        (["health", "--tls-ca", "x"], "--tls-ca needs the address of a server with TLS"),
        (["health", "grpcs://a:1", "--tls-ca", "/none"], "/none cannot be read"),
        (["health", "grpcs://a:1", "--tls-ca", "FILE"], "FILE has no certificates in PEM"),
        (["health", "grpcs://a:1", "--tls-cert", "x"], "--tls-cert and --tls-key belong together"),
        (["health", "a"], "is not grpc://HOST:PORT"),
        (["health", "--timeout", "0"], "is not a number of seconds"),
        (["convert", "--tls-key", "x"], "--tls-key needs the address of a server with TLS"),
        (["generate", "a fox", "--tls-name", "x"], "--tls-name needs the address of a server"),
    ],
)
def test_faulty_options_of_tls_end_with_2(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("no PEM")
    done = run_here(*(each.replace("FILE", str(file)) for each in arguments))
    assert done.returncode == 2
    assert message.replace("FILE", str(file)) in done.stderr.decode()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backend-tls-ca", "FILE"], "the backend 'embedded' has no TLS"),
        (
            ["--backend", "grpcs://a:1", "--backend-tls-ca", "FILE"],
            "FILE has no certificates in PEM",
        ),
        (
            ["--backend", "https://a", "--backend-tls-key", "FILE"],
            "the certificate of a client and its key belong together",
        ),
    ],
)
async def test_faulty_options_of_tls_to_the_backend_stop_the_start_with_2(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("no PEM")
    code, _, errors = await run("serve", *(each.replace("FILE", str(file)) for each in arguments))
    assert code == 2
    assert message.replace("FILE", str(file)) in errors
    assert "Traceback" not in errors


def test_an_encrypted_key_is_refused_and_no_password_is_asked_for(authority: Authority) -> None:
    own = authority.issue("client", "a@b.example")
    locked = own.key.with_name("locked.key")
    command = ["openssl", "pkcs8", "-topk8", "-passout", "pass:secret", "-in", str(own.key)]
    subprocess.run([*command, "-out", str(locked)], check=True)
    with pytest.raises(OSError, match="no certificate with its key in PEM"):
        ClientTls(authority.file, own.cert, locked).context()


async def test_health_tells_what_a_server_says(authority: Authority) -> None:
    async with serving(None) as address:
        assert await run("health", address) == (0, "SERVING\n", "")
        name = "imagecall.v1.ImageGenerationService"
        assert await run("health", f"grpc://{address}", "--service", name) == (0, "SERVING\n", "")
        code, _, errors = await run("health", address, "--service", "none")
        assert (code, errors) == (1, f'imagecall: NOT_FOUND: {address} has no service "none"\n')
    code, _, errors = await run("health", address)
    assert code == 1
    assert errors.endswith(f"no connection to {address}: the connection was refused\n")
    assert "exit codes:\n  0 " in (await run("health", "--help"))[1]


async def test_health_ends_in_time_if_a_server_is_silent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        code, _, errors = await run("health", address, "--timeout", "0.5")
        assert (code, errors.count("\n")) == (1, 1)


def test_the_commands_of_tls_in_the_readme_do_what_it_shows(
    authority: Authority, tmp_path: Path
) -> None:
    authority.issue("server", "127.0.0.1")
    authority.issue("client", "a@b.example")
    text = (ROOT / "scripts/deploy/README.md").read_text()
    section = text.partition("## TLS on each hop\n")[2].partition("\n## ")[0]
    [commands], [program] = (
        re.findall(rf"```{kind}\n(.*?)```", section, re.DOTALL) for kind in ("sh", "python")
    )
    ports = {"50061": "", "50062": ""}

    def placed(line: str) -> str:
        for written, port in ports.items():
            line = line.replace(f":{written}", f":{port or 0}")
        return line

    with ExitStack() as stack:
        for line, written in zip(commands.splitlines()[:2], ports, strict=True):
            ports[written] = stack.enter_context(_served(placed(line), tmp_path))
        for line in commands.splitlines()[2:]:
            command = [*COMMAND, *shlex.split(placed(line))[1:]]
            subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=60)
        assert (tmp_path / "near.png").read_bytes() == (tmp_path / "far.png").read_bytes()
        whole = placed(program)
        done = subprocess.run(
            [sys.executable, "-c", whole], cwd=tmp_path, check=True, capture_output=True, timeout=60
        )
        assert done.stdout == b"1 image\n"


@contextmanager
def _served(line: str, directory: Path) -> Iterator[str]:
    """The port of a server that a line of a shell starts."""
    command = [*COMMAND, *shlex.split(line)[1:]]
    with subprocess.Popen(command, cwd=directory, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield process.stdout.readline().strip().rpartition(":")[2]
        finally:
            process.kill()
