"""The HTTP door with the SDKs of PyPI of the time of the first image items, in their own process.

The newest ones are in test_http_door. openai 1.109.1 is of September 2025; openrouter 0.0.22 is the
oldest of its line that was found to have the Responses API and a typed image item.
"""

import asyncio
import base64
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from imagecall.backends.embedded.backend import EmbeddedBackend
from tests.doors.test_http import door_before
from tests.doors.test_npm_sdks import EVENTS

pytestmark = [pytest.mark.toolchain, pytest.mark.timeout(400)]  # With the installation.

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "tests" / "pypi" / "requirements.txt"
ENVIRONMENT = ROOT / ".venv-sdks"


async def run(*command: str, env: Mapping[str, str] = os.environ) -> bytes:
    """Runs a program; returns its output. Fails the test if the program fails."""
    program = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, env=env
    )
    output, _ = await program.communicate()
    assert program.returncode == 0, command
    return output


def python_with(requirements: Path, environment: Path, *options: str) -> str:
    """The Python of an environment that has these packages, made unless it is there."""
    stamp, want = environment / ".set-up", requirements.read_text()
    python = str(environment / "bin" / "python")
    if not stamp.exists() or stamp.read_text() != want:
        subprocess.run([sys.executable, "-m", "venv", "--clear", environment], check=True)
        pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        subprocess.run([*pip, *options, "--requirement", requirements], check=True)
        stamp.write_text(want)
    return python


async def report(python: str) -> Any:
    async with door_before(EmbeddedBackend()) as address:
        return json.loads(await run(python, str(REQUIREMENTS.with_name("program.py")), address))


@pytest.fixture(scope="module")
def reports() -> Any:
    return asyncio.run(report(python_with(REQUIREMENTS, ENVIRONMENT)))


@pytest.mark.parametrize("sdk", ["openai", "openrouter"])
def test_an_sdk_of_the_time_of_the_first_items_works_unmodified(reports: Any, sdk: str) -> None:
    found = reports[sdk]
    plain, streamed, edited = found["results"]
    assert base64.b64decode(plain).startswith(b"\x89PNG")
    assert streamed == plain
    assert edited != plain
    assert found["types"] == EVENTS
    assert found["refused"] == 400
