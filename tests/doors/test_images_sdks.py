"""The Images API at the HTTP door, with the SDKs and frameworks of others, unmodified.

Each has a program in tests/npm or tests/pypi/images, which prints the images as JSON.
"""

import asyncio
import base64
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from imagecall.backends.embedded.backend import EmbeddedBackend
from tests.doors.test_agent_frameworks import OFFLINE
from tests.doors.test_http import door_before
from tests.doors.test_npm_sdks import install, output_of
from tests.doors.test_pypi_sdks import python_with, run

TESTS = Path(__file__).parents[1]
PYPI = TESTS / "pypi" / "images"
OF_NPM = ("openai", "ai", "openrouter-1.3")
OF_PYPI = ("litellm", "langchain")
GENERATION = ["image_generation.partial_image", "image_generation.completed"]

pytestmark = [pytest.mark.toolchain, pytest.mark.timeout(400)]  # With the installation.


async def from_npm(sdk: str) -> Any:
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.fail("the tests of npm need Node.js 22 or later with npm: scripts/setup dev")
    await install()
    async with door_before(EmbeddedBackend()) as address:
        return json.loads(await output_of("node", "images.mjs", address, sdk))


async def from_pypi(framework: str) -> Any:
    environment = TESTS.parent / ".venv-images"
    options = ("--no-deps", "--no-compile")
    python = await asyncio.to_thread(python_with, PYPI / "requirements.txt", environment, *options)
    async with door_before(EmbeddedBackend()) as address:
        program = str(PYPI / f"use_{framework}.py")
        return json.loads(await run(python, program, address, env={**os.environ, **OFFLINE}))


def png(text: str) -> bytes:
    image = base64.b64decode(text, validate=True)
    assert image.startswith(b"\x89PNG")
    return image


def check(report: Any) -> None:
    """Checks that the images of a program's report are right."""
    plain, again = map(png, report["plain"])
    assert plain == again
    if "edited" in report:
        [edited] = map(png, report["edited"])
        assert edited != plain


@pytest.mark.parametrize("sdk", OF_NPM)
async def test_an_sdk_of_npm_reads_images_and_edits(sdk: str) -> None:
    report = await from_npm(sdk)
    check(report)
    if "stream" in report:
        types = GENERATION if sdk == "openai" else GENERATION[-1:]
        assert report["stream"] == {"types": types, "image": report["plain"][0]}
    if sdk == "openai":
        assert report["edited_stream"]["types"] == ["image_edit.completed"]
        assert report["refused"] == [400, "/response_format"]


@pytest.mark.parametrize("framework", OF_PYPI)
async def test_a_framework_of_pypi_reads_images_and_edits(framework: str) -> None:
    report = await from_pypi(framework)
    check(report)
    if framework == "litellm":
        assert report["later"] == report["plain"][:1]
        assert report["tokens"] == [4]


def test_every_program_is_run() -> None:
    assert {file.stem.removeprefix("use_") for file in PYPI.glob("use_*.py")} == {*OF_PYPI}
