"""The HTTP door with the SDKs of PyPI of the time of the first image items, in their own process.

The newest ones are in test_http_door. openai 1.109.1 is of September 2025; openrouter 0.0.22 is the
oldest of its line that was found to have the Responses API and a typed image item.
"""

import asyncio
import base64
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from imagecall.backends.embedded.backend import EmbeddedBackend
from tests.doors.test_http import door_before
from tests.doors.test_npm_sdks import EVENTS

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "tests" / "pypi" / "requirements.txt"
ENVIRONMENT = ROOT / ".venv-sdks"


async def run(*command: str) -> bytes:
    """Returns the output of a program. Fails the test if the program fails."""
    program = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await program.communicate()
    assert program.returncode == 0, command
    return output


async def report() -> Any:
    stamp, want = ENVIRONMENT / ".set-up", REQUIREMENTS.read_text()
    python = str(ENVIRONMENT / "bin" / "python")
    if not stamp.exists() or stamp.read_text() != want:
        await run(sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT))
        pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        await run(*pip, "--requirement", str(REQUIREMENTS))
        stamp.write_text(want)
    async with door_before(EmbeddedBackend()) as address:
        return json.loads(await run(python, str(REQUIREMENTS.with_name("program.py")), address))


@pytest.fixture(scope="module")
def reports() -> Any:
    return asyncio.run(report())


@pytest.mark.parametrize("sdk", ["openai", "openrouter"])
def test_an_sdk_of_the_time_of_the_first_items_works_unmodified(reports: Any, sdk: str) -> None:
    found = reports[sdk]
    plain, streamed, edited = found["results"]
    assert base64.b64decode(plain).startswith(b"\x89PNG")
    assert streamed == plain
    assert edited != plain
    assert found["types"] == EVENTS
    assert found["refused"] == 400
