"""The programs `draw` and `convert` of each language, run against right servers and faulty ones."""

import asyncio
import os
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest
import trustme

from imagecall.access.admission import Admission
from imagecall.access.certificates import Certificates
from imagecall.access.tokens import Tokens
from imagecall.backends.embedded.backend import EmbeddedBackend
from imagecall.doors.grpc.server import GrpcServer
from tests.conformance.faulty import faulty_server
from tests.conformance.mistakes import MISTAKES
from tests.interop.samples import CONVERTED, LINES, REFUSED

# The first build of a language takes minutes.
pytestmark = [pytest.mark.toolchain, pytest.mark.timeout(600)]

HERE: Final = Path(__file__).parent
LANGUAGES: Final = sorted(path.parent.name for path in HERE.glob("*/sample"))

_SECONDS: Final = 60
_AT_ONCE: Final = 2
_TOKEN: Final = "a-token-of-the-samples"


@dataclass(frozen=True)
class Scenario:
    """A program, the address of its server, its environment, and the words of its failure."""

    name: str
    address: str
    command: str = "draw"
    words: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)


@asynccontextmanager
async def _own_server(
    *access: Admission, certificates: Certificates | None = None
) -> AsyncIterator[str]:
    server = GrpcServer("127.0.0.1:0", EmbeddedBackend(), *access, certificates=certificates)
    try:
        yield await server.start()
    finally:
        await server.stop(0)


def _right(address: str) -> Iterator[Scenario]:
    yield Scenario("an image", address)
    yield Scenario("items", address, "convert")


def _access(directory: Path) -> tuple[Admission, Certificates, dict[str, str]]:
    """Access to a server with TLS and tokens, and the environment of its clients."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    ca, cert, key, tokens = (directory / name for name in ("ca.pem", "c.pem", "c.key", "tokens"))
    authority.cert_pem.write_to_path(ca)
    issued.cert_chain_pems[0].write_to_path(cert)
    issued.private_key_pem.write_to_path(key)
    tokens.touch(0o600)
    tokens.write_text(f"samples {_TOKEN}\n")
    environment = {"IMAGECALL_TLS_CA": str(ca), "IMAGECALL_TOKEN": _TOKEN}
    return Admission(tokens=Tokens(tokens)), Certificates(cert, key), environment


def _protected(address: str, environment: dict[str, str]) -> Iterator[Scenario]:
    address = address.replace("127.0.0.1", "localhost")
    yield Scenario("TLS and a token", address, environment=environment)
    words = ("no token that this server accepts", "reason TOKEN_REQUIRED")
    wrong = environment | {"IMAGECALL_TOKEN": "another-token"}
    yield Scenario("a wrong token", address, words=words, environment=wrong)


@pytest.fixture
async def scenarios(tmp_path: Path) -> AsyncIterator[list[Scenario]]:
    async with AsyncExitStack() as servers:
        right = await servers.enter_async_context(_own_server())
        admission, certificates, environment = _access(tmp_path)
        protected = await servers.enter_async_context(
            _own_server(admission, certificates=certificates)
        )
        every = [*_right(right), *_protected(protected, environment)]
        for name, (faulty, words) in REFUSED.items():
            address = await servers.enter_async_context(faulty_server(faulty))
            every.append(Scenario(name, address, words=words))
        damaged = faulty_server(MISTAKES["convert_large"][1])
        address = await servers.enter_async_context(damaged)
        words = ("the value is damaged",)
        every.append(Scenario("an item with a damaged chunk", address, "convert", words))
        yield every


async def _build(language: str) -> None:
    build = await asyncio.create_subprocess_exec(
        HERE / language / "build", stdout=PIPE, stderr=PIPE
    )
    out, err = await build.communicate()
    assert build.returncode == 0, (out + err).decode()


@pytest.mark.parametrize("language", LANGUAGES)
async def test_a_sample_writes_a_whole_image_or_prints_why_there_is_none(
    language: str, scenarios: list[Scenario], tmp_path: Path
) -> None:
    await _build(language)
    turn = asyncio.Semaphore(_AT_ONCE)

    async def fault(scenario: Scenario) -> str:
        async with turn:
            return await _fault(HERE / language / "sample", scenario, _file(scenario, tmp_path))

    faults = await asyncio.gather(*map(fault, scenarios))
    names = [scenario.name for scenario in scenarios]
    assert {name: text for name, text in zip(names, faults, strict=True) if text} == {}


def _file(scenario: Scenario, directory: Path) -> Path:
    """The file that `convert` reads, or `draw` writes."""
    file = directory / scenario.name
    if scenario.command == "convert":
        file.write_bytes(LINES)
    return file


async def _fault(sample: Path, scenario: Scenario, file: Path) -> str:
    """Runs a program; returns the difference from the outcome that is right, "" for none."""
    command = (sample, scenario.command, scenario.address, file)
    program = await asyncio.create_subprocess_exec(
        *command, stdout=PIPE, stderr=PIPE, env=os.environ | scenario.environment
    )
    try:
        out, err = await asyncio.wait_for(program.communicate(), _SECONDS)
    except TimeoutError:
        program.kill()
        return f"the program took more than {_SECONDS} s"
    if bool(program.returncode) != bool(scenario.words):
        return f"exit status {program.returncode}: {err.decode()}"
    if scenario.words:
        return _fault_of_failure(scenario, err.decode(), file)
    return _fault_of_success(scenario, out.decode(), file)


def _fault_of_failure(scenario: Scenario, err: str, file: Path) -> str:
    if scenario.command == "draw" and file.exists():
        return "there is a file"
    missing = [word for word in scenario.words if word not in err]
    return f"it printed {err!r}, without {missing}" if missing else ""


def _fault_of_success(scenario: Scenario, out: str, file: Path) -> str:
    if scenario.command == "draw":
        return "" if file.read_bytes().startswith(b"\x89PNG") else "the file is no image"
    printed = out.replace("ERROR_REASON_", "").splitlines()
    return "" if printed == CONVERTED else f"it printed {out!r}"
