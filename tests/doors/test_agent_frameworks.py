"""The HTTP door with agent frameworks, unmodified, before the embedded backend.

Each framework has a program in tests/pypi/frameworks or tests/npm/frameworks, which takes three
turns: a plain one, a streamed one, and one after the streamed one, with all of its items.
"""

import asyncio
import base64
import json
import os
import shutil
import struct
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest

from imagecall.backends.embedded.backend import EmbeddedBackend
from tests.doors.test_http import door_before
from tests.doors.test_npm_sdks import install, output_of
from tests.doors.test_pypi_sdks import python_with, run

TESTS = Path(__file__).parents[1]
PYPI = TESTS / "pypi" / "frameworks"
NPM = TESTS / "npm" / "frameworks"

OFFLINE = {
    "DO_NOT_TRACK": "1",
    "LANGSMITH_TRACING": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
}
"""Keeps the frameworks from sending traces, and from asking for lists of prices."""

SIDES = {"pydantic_ai": 1024, "ai-sdk": 1024}
"""Sides of the image, in pixels, for those that take no other sizes than OpenAI's; else 64."""

NO_STREAMED_IMAGE = ("semantic_kernel",)
"""The stream of Semantic Kernel gives the text, and passes over items that are no messages."""

OPENAI_3 = ("openai_agents", "pydantic_ai", "litellm", "langchain")
OPENAI_2 = ("semantic_kernel", "llama_index")
PROGRAMS = ("openai-agents", "ai-sdk")

pytestmark = [pytest.mark.toolchain, pytest.mark.timeout(400)]  # With the installation.


async def output_at_door(python: str, program: Path) -> bytes:
    async with door_before(EmbeddedBackend()) as address:
        return await run(python, str(program), address, env={**os.environ, **OFFLINE})


def python_of(major: int) -> str:
    """The Python with the frameworks that take this version of openai."""
    environment = TESTS.parent / f".venv-frameworks-openai-{major}"
    requirements = PYPI / f"requirements-openai-{major}.txt"
    # Compiling all modules takes longer than the programs, which import a few.
    return python_with(requirements, environment, "--no-deps", "--no-compile")


@cache
def pythons() -> dict[int, str]:
    """Both environments, made at the same time."""
    with ThreadPoolExecutor() as pool:
        return dict(zip((2, 3), pool.map(python_of, (2, 3)), strict=True))


def from_pypi(framework: str) -> bytes:
    python = pythons()[3 if framework in OPENAI_3 else 2]
    return asyncio.run(output_at_door(python, PYPI / f"use_{framework}.py"))


async def at_npm(framework: str) -> bytes:
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.fail("the tests of npm need Node.js 22 or later with npm: scripts/setup dev")
    await install(NPM)
    async with door_before(EmbeddedBackend()) as address:
        return await output_of("node", f"{framework}.mjs", address, programs=NPM)


def from_npm(framework: str) -> bytes:
    return asyncio.run(at_npm(framework))


def side_of(image: bytes) -> int:
    """The width of a square PNG file, in pixels."""
    assert image.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", image[16:24])
    assert width == height
    return int(width)


@pytest.mark.parametrize("framework", [*OPENAI_3, *OPENAI_2, *PROGRAMS])
def test_a_framework_ends_with_an_image_plain_streamed_and_in_a_second_turn(
    framework: str,
) -> None:
    found = json.loads((from_npm if framework in PROGRAMS else from_pypi)(framework))
    images = {name: [base64.b64decode(i) for i in turn["images"]] for name, turn in found.items()}
    side = SIDES.get(framework, 64)
    text = f"Here is a test card of {side}x{side} pixels, as png."
    assert {turn["text"] for turn in found.values()} == {text}
    [plain], [again] = images["plain"], images["again"]
    assert {side_of(plain), side_of(again)} == {side}
    assert images["streamed"] == ([] if framework in NO_STREAMED_IMAGE else [plain])
    assert again != plain


def test_every_program_is_run() -> None:
    ours = {file.stem.removeprefix("use_") for file in PYPI.glob("use_*.py")}
    assert ours == {*OPENAI_3, *OPENAI_2}
    assert {file.stem for file in NPM.glob("*.mjs")} == {*PROGRAMS}
