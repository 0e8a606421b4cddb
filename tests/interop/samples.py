"""The programs `draw` and `convert` of each language, against right servers and mistaken ones.

`sample draw ADDRESS FILE` draws an image; `sample convert ADDRESS FILE` converts the lines of a
file. With IMAGECALL_TLS_CA, the calls go over TLS, with the token in IMAGECALL_TOKEN.
"""

import asyncio
import os
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import grpc
import trustme
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from imagecall.access.admission import Admission
from imagecall.access.certificates import Certificates
from imagecall.access.tokens import Tokens
from imagecall.backends.embedded.backend import EmbeddedBackend
from imagecall.conformance.session import STREAM
from imagecall.doors.grpc.server import GrpcServer
from tests import golden_streams
from tests.conformance import changes
from tests.conformance.faulty import Faulty, faulty_server
from tests.conformance.kinds import DETAILS, fails, stream
from tests.conformance.mistakes import MISTAKES

HERE: Final = Path(__file__).parent

_SECONDS: Final = 60
_AT_ONCE: Final = 2
_TOKEN: Final = "a-token-of-the-samples"
_DETAILS: Final[tuple[Message, ...]] = (
    ErrorInfo(reason="UPSTREAM_RATE_LIMITED", domain="imagecall"),
    BadRequest(field_violations=[BadRequest.FieldViolation(field="/model")]),
    RetryInfo(retry_delay=Duration(seconds=3)),
)
_BUSY: Final = "the API answered 429"
_LARGE: Final = 4_000_000


def _golden(name: str) -> Faulty:
    return stream(lambda parts: list(golden_streams.read(name)))


def _busy() -> Faulty:
    """Refuses each stream with all three details."""
    details = [Packed() for _ in _DETAILS]
    for packed, detail in zip(details, _DETAILS, strict=True):
        packed.Pack(detail)
    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    status = Status(code=code.value[0], message=_BUSY, details=details).SerializeToString()
    faulty = fails(code, _BUSY, lambda method, _: method == STREAM)
    refuse = faulty.on_request
    faulty.on_request = lambda method, request: (
        (code, _BUSY, ((DETAILS, status),)) if refuse(method, request) else None
    )
    return faulty


REFUSED: Final[dict[str, tuple[Faulty, tuple[str, ...]]]] = {
    "a response that failed": (
        _golden("failed"),
        ("no image", "FAILED", "the request asked for a failure"),
    ),
    "a response that is incomplete": (
        _golden("incomplete"),
        ("no image", "INCOMPLETE", "max_output_tokens"),
    ),
    "a text in place of an image": (
        _golden("no_image"),
        ("no image", "COMPLETED", "No image was drawn"),
    ),
    "no final image": (MISTAKES["not_final"][1], ("no image", "COMPLETED")),
    "a chunk that is missing": (MISTAKES["gap"][1], ("a chunk is lost",)),
    "chunks out of order": (MISTAKES["order"][1], ("a chunk is lost",)),
    "chunks without an end": (MISTAKES["no_chunk_end"][1], ("a chunk is lost",)),
    "another size": (MISTAKES["size"][1], ("the value is damaged",)),
    "another digest": (MISTAKES["digest"][1], ("the value is damaged",)),
    "no end": (MISTAKES["no_end"][1], ("the stream has no end",)),
    "an error with details": (
        _busy(),
        (_BUSY, "reason UPSTREAM_RATE_LIMITED", "at /model", "retry after 3 s"),
    ),
}
"""What a server sends in place of an image, and the words in the sentence that `draw` prints."""

LINES: Final = (
    b'{"type":"image_generation_call","id":"ig_0","result":"aGk="}\n'
    b'{"type":"image_generation_call","id":"\xff"}\n'
    b'{"type":"image_generation_call","id":5}\n'
    b'{"type":"image_generation_call","id":"ig_3","result":"%s"}\n' % b64encode(bytes(_LARGE))
)
"""Items, one of them with a bad byte, one with a wrong type, and one that is answered in chunks."""

CONVERTED: Final = [
    "0: ig_0, 2 bytes",
    "1: NOT_UTF8 at /id: the text is not UTF-8 at byte 38",
    '2: WRONG_TYPE at /id: "id" must be a string, not a number',
    f"3: ig_3, {_LARGE} bytes",
]
ROWS: Final = (
    *("draw", "draw: TLS and a token", "draw: a wrong token", "convert", "convert: a damaged chunk"),
    *(f"draw: {name}" for name in REFUSED),
)


@dataclass
class Damaged(Faulty):
    """A server whose streams are damaged, and then hang.

    The check of its health waits until the client has cancelled the last stream.
    """

    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.messages = MISTAKES["gap"][1].messages
        self.last = self._hang
        self.before = self._wait

    async def _hang(self, method: str) -> None:
        if method == STREAM:
            try:
                await asyncio.sleep(_SECONDS)
            except asyncio.CancelledError:
                self.cancelled.set()
                raise

    async def _wait(self, method: str) -> None:
        if "Health" in method:
            await asyncio.wait_for(self.cancelled.wait(), 10)
            self.cancelled.clear()


@contextmanager
def _authority() -> Iterator[tuple[Admission, Certificates, dict[str, str]]]:
    """Access to a server with TLS and tokens: its parts, and the environment of a client."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    with TemporaryDirectory() as name:
        directory = Path(name)
        ca, cert, key, tokens = (directory / n for n in ("ca.pem", "c.pem", "c.key", "tokens"))
        authority.cert_pem.write_to_path(ca)
        issued.cert_chain_pems[0].write_to_path(cert)
        issued.private_key_pem.write_to_path(key)
        tokens.touch(0o600)
        tokens.write_text(f"samples {_TOKEN}\n")
        environment = {"IMAGECALL_TLS_CA": str(ca), "IMAGECALL_TOKEN": _TOKEN}
        yield Admission(tokens=Tokens(tokens)), Certificates(cert, key), environment


@asynccontextmanager
async def _serving(*access: Any, **certificates: Any) -> AsyncIterator[str]:
    server = GrpcServer("127.0.0.1:0", EmbeddedBackend(), *access, **certificates)
    try:
        yield await server.start()
    finally:
        await server.stop(0)


async def outcomes(languages: list[str]) -> dict[str, dict[str, str]]:
    """Runs the samples of each language. Returns the outcome of each row: "ok" or the failure."""
    turn = asyncio.Semaphore(_AT_ONCE)
    found: dict[str, dict[str, str]] = {language: {} for language in languages}

    async def each(row: str, address: str, expected: "Expected") -> None:
        async def one(language: str) -> None:
            async with turn:
                found[language][row] = await _outcome(language, address, expected)

        await asyncio.gather(*map(one, languages))

    async def refused(name: str, faulty: Faulty, words: tuple[str, ...]) -> None:
        async with faulty_server(faulty) as address:
            await each(f"draw: {name}", address, Expected(words=words))

    async def right() -> None:
        async with _serving() as address:
            await each("draw", address, Expected())
            await each("convert", address, Expected("convert"))

    async def protected() -> None:
        with _authority() as (admission, certificates, environment):
            async with _serving(admission, certificates=certificates) as address:
                secure = address.replace("127.0.0.1", "localhost")
                await each("draw: TLS and a token", secure, Expected(environment=environment))
                wrong = environment | {"IMAGECALL_TOKEN": "another-token"}
                words = ("no token that this server accepts", "reason TOKEN_REQUIRED")
                expected = Expected(words=words, environment=wrong)
                await each("draw: a wrong token", secure, expected)

    async def damaged() -> None:
        async with faulty_server(MISTAKES["convert_large"][1]) as address:
            expected = Expected("convert", words=("the value is damaged",))
            await each("convert: a damaged chunk", address, expected)

    works = [refused(name, *mistake) for name, mistake in REFUSED.items()]
    await asyncio.gather(right(), protected(), damaged(), *works)
    return found


@dataclass(frozen=True)
class Expected:
    """A program, its environment, and the words of its failure; none where it succeeds."""

    command: str = "draw"
    words: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)

    def fault(self, exit_code: int | None, out: str, err: str, file: Path) -> str:
        """Sentence about a difference; "" for none."""
        if bool(exit_code) != bool(self.words):
            return f"exit code {exit_code}: {err}"
        lost = [word for word in self.words if word not in err]
        if lost:
            return f"it printed {err!r}, without {lost[0]!r}"
        if self.command == "draw" and file.exists() == bool(self.words):
            return "there is a file" if self.words else "there is no file"
        if self.command == "draw" and not self.words and not file.read_bytes().startswith(b"\x89P"):
            return "the file is no image"
        lines = out.replace("ERROR_REASON_", "").splitlines()
        if self.command == "convert" and not self.words and lines != CONVERTED:
            return f"it printed {out!r}"
        return ""


async def _outcome(language: str, address: str, expected: Expected) -> str:
    with TemporaryDirectory() as directory:
        file = Path(directory, "file")
        if expected.command == "convert":
            file.write_bytes(LINES)
        program = await asyncio.create_subprocess_exec(
            *(HERE / language / "sample", expected.command, address, file),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=os.environ | expected.environment,
        )
        try:
            out, err = await asyncio.wait_for(program.communicate(), _SECONDS)
        except TimeoutError:
            program.kill()
            return f"the program took more than {_SECONDS} s"
        fault = expected.fault(program.returncode, out.decode(), err.decode(), file)
        return " ".join(fault.split())[:300] or "ok"
