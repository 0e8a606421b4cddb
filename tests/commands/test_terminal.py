"""A terminal: it gets no control characters of a server, and may be the source of a prompt."""

import asyncio
import fcntl
import os
import pty
import struct
import subprocess
import termios
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from imagecall.v1 import conversion_service_pb2 as conversion_pb
from imagecall.v1 import image_generation_service_pb2 as pb
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall
from tests.commands.command import COMMAND, run_here
from tests.streams import PNG

ITEM = b'{"type":"image_generation_call","id":"ig_1"}'
SMALL = ("--size", "64x64", "--quality", "low")
HOSTILE = "\x1b]0;owned\x07\x1b[2J\nimagecall: fine\r\x9b31m\u202e\u2066\u2028\u200b\x7f"
FORBIDDEN = set(HOSTILE) - set("\n imagecall: fine]0;owned[2J31m")
OWN_LINE = "\r\x1b[K"
"""Start of the line that the command itself draws again."""
KEY = "sk-0123456789abcdefghij"


class Hostile(grpc.GenericRpcHandler):
    """Server whose every text has control characters."""

    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code

    def service(self, handler_call_details: Any) -> Any:
        method = handler_call_details.method.rpartition("/")[2]
        make: Any = (
            grpc.unary_stream_rpc_method_handler
            if method == "StreamImage"
            else grpc.unary_unary_rpc_method_handler
        )
        return make(self._stream if method == "StreamImage" else getattr(self, method))

    async def _refuse(self, context: Any) -> None:
        if self._code is not grpc.StatusCode.OK:
            await context.abort(self._code, HOSTILE)

    async def _stream(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        await self._refuse(context)
        end = pb.StreamEnd(ending=pb.STREAM_ENDING_FAILED)
        end.response.error.message = HOSTILE
        end.response.output_text = HOSTILE
        end.response.refusal = HOSTILE
        call = end.response.calls.add().output_image_generation_call
        call.result.text = HOSTILE
        yield pb.StreamImageResponse(end=end).SerializeToString()

    async def ParseCall(self, request: bytes, context: Any) -> bytes:
        await self._refuse(context)
        call = ImageGenerationCall()
        call.output_image_generation_call.id = HOSTILE
        return conversion_pb.ParseCallResponse(call=call).SerializeToString()

    async def FormatCall(self, request: bytes, context: Any) -> bytes:
        return conversion_pb.FormatCallResponse(json=HOSTILE).SerializeToString()


async def on_terminal(*arguments: str, data: bytes = b"", cwd: Path, columns: int = 80) -> str:
    """Runs the command with a terminal for its output and errors; returns what is shown."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = await asyncio.create_subprocess_exec(
        *COMMAND, *arguments, stdin=subprocess.PIPE, stdout=theirs, stderr=theirs, cwd=cwd
    )
    os.close(theirs)
    assert process.stdin
    process.stdin.write(data)
    process.stdin.close()

    def read() -> bytes:
        pieces = []
        try:
            while piece := os.read(ours, 65_536):
                pieces.append(piece)
        except OSError:  # The terminal's other end is closed.
            pass
        return b"".join(pieces)

    shown = await asyncio.to_thread(read)
    await process.wait()
    os.close(ours)
    return shown.replace(b"\r\n", b"\n").decode()


@pytest.mark.parametrize("code", [grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT])
@pytest.mark.parametrize(
    "command",
    [
        ("generate", "a fox"),
        ("convert",),
        ("convert", "--to", "json"),
        ("convert", "--to", "binary"),
    ],
    ids=" ".join,
)
async def test_a_terminal_gets_no_control_characters_of_a_server(
    command: tuple[str, ...], code: grpc.StatusCode, tmp_path: Path
) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Hostile(code),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    where = ("--server", f"127.0.0.1:{port}")
    shown = await on_terminal(*command, *where, data=ITEM, cwd=tmp_path)
    await server.stop(0)
    assert shown.startswith("imagecall: ") or "owned" in shown
    assert not FORBIDDEN & set(shown.replace(OWN_LINE, ""))
    assert not [line for line in shown.splitlines() if line.startswith("imagecall: fine")]


def shown_lines(shown: str, columns: int) -> list[str]:
    """Lines that stay on a terminal. Fails for a drawn line that is longer than the terminal is."""
    lines = shown.split("\n")
    drawn = [part for line in lines for part in line.split(OWN_LINE)[1:-1]]
    assert not [part for part in drawn if len(part) >= columns]
    return [line.split(OWN_LINE)[-1] for line in lines]


@pytest.mark.parametrize("columns", [0, 1, 30])
async def test_the_line_of_progress_is_one_line_of_the_terminal(
    columns: int, tmp_path: Path
) -> None:
    image = b64encode(bytes(200_000)).decode()
    record = ITEM.replace(b"}", f',"result":"{image}"}}\n'.encode())
    (tmp_path / "in.jsonl").write_bytes((record * 20 + b"{\n") * 6)
    options = ("in.jsonl", "-o", "out.binpb")
    shown = await on_terminal("convert", *options, cwd=tmp_path, columns=columns)
    assert columns == 1 or "[" in shown  # The bar was drawn.
    *faults, summary, end = shown_lines(shown, columns or 80)
    assert [line[:32] for line in faults] == [
        f"imagecall: in.jsonl:{n}: NOT_JSON"[:32] for n in range(21, 127, 21)
    ]
    assert summary.startswith("imagecall: 120 converted, 6 refused (")
    assert end == ""


async def test_the_line_of_progress_is_cleared_before_an_error(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_bytes(ITEM + b"\n")
    (tmp_path / "out/b.binpb").mkdir(parents=True)
    shown = await on_terminal("convert", "a.jsonl", "b.jsonl", "-o", "out", cwd=tmp_path)
    assert shown.startswith(f"{OWN_LINE}[")
    error, end = shown_lines(shown, 80)
    assert error.startswith("imagecall: [Errno 21] Is a directory: ")
    assert end == ""


async def test_no_line_of_progress_is_among_records_on_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(ITEM + b"\n")
    shown = await on_terminal("convert", "--lines", "in.jsonl", "--to", "json", cwd=tmp_path)
    assert OWN_LINE not in shown
    assert shown.startswith(ITEM.decode() + "\n") or shown.startswith('{"type"')


@pytest.mark.parametrize("columns", [1, 7, 80])
async def test_the_line_of_a_call_is_one_line_of_the_terminal(columns: int, tmp_path: Path) -> None:
    options = ("-o", "fox.png", *SMALL)
    shown = await on_terminal("generate", "a fox", *options, cwd=tmp_path, columns=columns)
    first, image, *_ = shown_lines(shown, columns)
    assert first == "imagecall: backend: embedded"
    assert image.startswith("fox.png: png, 64 x 64 pixels")


def run(
    *arguments: str, data: bytes = b"", cwd: Path, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    env = os.environ | (environment or {})
    return subprocess.run(
        [*COMMAND, *arguments], input=data, capture_output=True, cwd=cwd, env=env, check=False
    )


def test_a_prompt_comes_from_standard_input(tmp_path: Path) -> None:
    prompt = "a føx\n"
    there = run("generate", "-", "-o", "a.png", *SMALL, data=prompt.encode(), cwd=tmp_path)
    named = run("generate", prompt.strip(), "-o", "b.png", *SMALL, cwd=tmp_path)
    assert (there.returncode, named.returncode) == (0, 0), there.stderr
    image = (tmp_path / "a.png").read_bytes()
    assert image.startswith(PNG[:8])
    assert image == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the prompt on standard input is empty"),
        (b" \n", "the prompt on standard input is empty"),
        (b"\xff", "the prompt on standard input is not UTF-8"),
    ],
)
def test_no_prompt_on_standard_input_is_refused(data: bytes, message: str) -> None:
    done = run_here("generate", "-", stdin=data)
    assert (done.returncode, done.stderr.decode()) == (1, f"imagecall: {message}\n")


@pytest.mark.parametrize(
    ("command", "source"),
    [
        (("generate", "a fox", "--model", "gpt-5", "-o", "a.png"), "environment"),
        (("generate", "a fox", "--model", "gpt-5", "-o", "a.png"), "file"),
        (("serve", "--grpc", "127.0.0.1:0", "--http", "off"), "environment"),
        (("serve", "--grpc", "127.0.0.1:0", "--http", "off", "--workers", "2"), "file"),
    ],
)
def test_a_key_without_a_backend_is_refused(
    command: tuple[str, ...], source: str, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text(KEY)
    given = {"IMAGECALL_API_KEY": KEY} if source == "environment" else {}
    options = () if given else ("--api-key-file", "key")
    done = run(*command, *options, cwd=tmp_path, environment=given)
    said = done.stderr.decode()
    assert done.returncode == 2
    assert "imagecall: there is a key for a backend, and no backend: name one" in said
    assert KEY not in said
    assert not (tmp_path / "a.png").exists()


def test_a_key_beside_the_embedded_backend_is_no_fault(tmp_path: Path) -> None:
    options = ("generate", "a fox", *SMALL, "--backend", "embedded")
    assert run(*options, cwd=tmp_path, environment={"IMAGECALL_API_KEY": KEY}).returncode == 0
    named = {"IMAGECALL_API_KEY": KEY, "IMAGECALL_BACKEND": "embedded"}
    assert run("generate", "a fox", *SMALL, cwd=tmp_path, environment=named).returncode == 0
