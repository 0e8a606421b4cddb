"""The guide of imagecall.service: its programs as they stand, served in each of its ways."""

import asyncio
import base64
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import openai
import pytest

from imagecall.conformance.suite import RULES
from tests.commands.command import COMMAND, run
from tests.readme_regions import ROOT

GUIDE: Final = ROOT / "src/imagecall/service/README.md"
PLAIN: Final = ["aio_server.py", "threaded_server.py"]
NAMES: Final = ["fox_service.py", *PLAIN, "http_door.py"]
LONGEST_CLASS: Final = 20

ONLY_OF_OUR_SERVER: Final = ["health", *(r.name for r in RULES if r.name.startswith("convert-"))]
"""Rules of services that a plain server of the guide has not."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of the guide, each in the file that the text before it names."""
    folder = tmp_path_factory.mktemp("guide")
    blocks = re.findall(
        r"`(\w+\.py)`[^`]*(?:`server`\))?:\n\n```python\n(.*?)```", GUIDE.read_text(), re.DOTALL
    )
    assert [name for name, _ in blocks] == NAMES
    for name, program in blocks:
        (folder / name).write_text(program)
    return folder


@contextmanager
def started(command: list[str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that runs in the folder of the programs."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.terminate()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def test_the_example_is_short(folder: Path) -> None:
    lines = (folder / "fox_service.py").read_text().split("class ")[1].splitlines()
    assert len(lines) < LONGEST_CLASS


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_server_passes_every_rule_of_the_schema(folder: Path, name: str) -> None:
    with started([sys.executable, name], folder) as process:
        done = run("check", f"grpc://127.0.0.1:{line_of(process)}", "--tolerance", "4", *of_plain())
    rows = [row.split()[:2] for row in done.stdout.decode().splitlines()]
    assert done.returncode == 0, done.stdout.decode()
    assert {rule for result, rule in rows if result == "skipped"} <= {"deadline"}


def of_plain() -> list[str]:
    names = [rule.name for rule in RULES if rule.name not in ONLY_OF_OUR_SERVER]
    return [word for name in names for word in ("--only", name)]


@pytest.fixture(scope="module")
def doors(folder: Path) -> Iterator[list[str]]:
    """The addresses of both doors of `imagecall serve` before the class of the guide."""
    options = ["--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"]
    command = [*COMMAND, "serve", "--backend", "fox_service:FoxService", *options]
    with started(command, folder) as process:
        yield [line_of(process).split()[-1] for _ in ("grpc", "http")]


def test_serve_takes_the_class_which_then_passes_every_rule(doors: list[str]) -> None:
    done = run("check", f"grpc://{doors[0]}", "--tolerance", "4")
    assert done.returncode == 0, done.stdout.decode()
    assert b", 0 failed, " in done.stdout


def test_the_sdk_of_openai_draws_a_fox(doors: list[str]) -> None:
    asyncio.run(the_sdk_draws_a_fox(doors[1]))


async def the_sdk_draws_a_fox(address: str) -> None:
    """Calls with OpenAI's SDK, plainly and as a stream, and is refused once."""
    tool = {"type": "image_generation", "partial_images": 1}
    options = {"model": "m", "input": "a fox", "tools": [tool]}
    async with openai.AsyncOpenAI(base_url=f"http://{address}/v1", api_key="none") as client:
        response = await client.responses.create(**options)  # type: ignore[call-overload]
        [image] = response.output
        assert (image.status, image.revised_prompt) == ("completed", "a fox, at dusk")
        assert base64.b64decode(image.result).startswith(b"\x89PNG")
        stream = await client.responses.create(**options, stream=True)  # type: ignore[call-overload]
        events = [event async for event in stream]
        kinds = [event.type.removeprefix("response.") for event in events]
        assert kinds == [
            "created",
            "in_progress",
            "output_item.added",
            "image_generation_call.in_progress",
            "image_generation_call.generating",
            "image_generation_call.partial_image",
            "image_generation_call.completed",
            "output_item.done",
            "completed",
        ]
        assert events[-1].response.output[0].result == image.result
        with pytest.raises(openai.BadRequestError, match="only foxes are drawn here"):
            await client.responses.create(**options | {"input": "a cat"}, stream=True)  # type: ignore[call-overload]


def test_generate_takes_the_class_too(folder: Path) -> None:
    command = ["generate", "a fox", "-o", "fox.png", "--backend", "fox_service:FoxService"]
    done = subprocess.run([*COMMAND, *command], cwd=folder, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"fox.png: png, 256 x 256 pixels")


def test_the_app_of_the_http_door_is_served_by_uvicorn(folder: Path) -> None:
    command = [sys.executable, "-m", "uvicorn", "http_door:app", "--port", "0"]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        lines = (re.search(r"running on http://(\S+)", line) for line in process.stderr)
        address = next(match[1] for match in lines if match)
        asyncio.run(the_sdk_draws_a_fox(address))
        process.terminate()


@pytest.mark.toolchain  # It takes long without the cache of an earlier run.
def test_the_programs_are_typed_strictly(folder: Path) -> None:
    cache = ["--cache-dir", str(folder / ".mypy_cache"), "--strict"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *cache, *NAMES],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
