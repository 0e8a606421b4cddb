"""The HTTP door with the SDKs of npm, unmodified, run by Node.

Each SDK has a program in tests/npm, which does everything and prints it as JSON. The versions of
OpenRouter's are the newest, the first that can name the image tool, the last kind that cannot, and
the two oldest with the Responses API that npm still has: 0.0.0-beta.17, of the time of the first
image items, is gone. The oldest is also the only one that uses the path with "alpha" in it.
"""

import asyncio
import base64
import fcntl
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from imagecall.backends.embedded.backend import EmbeddedBackend
from tests.doors.test_http import door_before
from tests.doors.test_sent_once import FAILURES, answer_of, before_an_api
from tests.upstream import JSON

PROGRAMS = Path(__file__).parents[1] / "npm"
INSTALL = Path(__file__).parents[2] / "scripts/npm"
SECONDS = 100

OPENAI = ("BadRequestError", "RateLimitError", "InternalServerError")
OPENROUTER = (
    "BadRequestResponseError",
    "TooManyRequestsResponseError",
    "InternalServerResponseError",
)
KINDS = {
    "openai": OPENAI,
    "openrouter-1.3": OPENROUTER,
    "openrouter-0.10": OPENROUTER,
    "openrouter-0.3": OPENROUTER,
    "openrouter-0.0.1": OPENROUTER,
    # It has one kind for all, which says the status and the body.
    "openrouter-0.0.1-beta": ("OpenRouterDefaultError",) * 3,
}
"""The SDKs by their names in package.json, and the error of each for 400, 429 and 500."""

NEWEST = ("openai", "openrouter-1.3")
"""The SDKs of scripts/test. The other ones take long, and are of `toolchain`."""

OF_AI_SDK = ("ai", "@ai-sdk/openai")

EVENTS = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.image_generation_call.in_progress",
    "response.image_generation_call.generating",
    "response.image_generation_call.completed",
    "response.output_item.done",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
]


async def output_of(*command: str, programs: Path = PROGRAMS) -> bytes:
    """Runs a program in its directory; returns its output. Fails the test if the program fails."""
    program = await asyncio.create_subprocess_exec(
        *command,
        cwd=programs,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, said = await asyncio.wait_for(program.communicate(), SECONDS)
    except TimeoutError:
        program.kill()
        await program.wait()
        pytest.fail(f"{' '.join(command)} took more than {SECONDS} seconds")
    if program.returncode:
        pytest.fail(f"{' '.join(command)} failed: {said.decode()}{output.decode()}")
    return output


async def install(programs: Path = PROGRAMS) -> None:
    """Installs the packages of a directory, unless those of its lock file are there."""
    with (programs / "package-lock.json").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # Another worker of the tests may install them too.
        await output_of(str(INSTALL), str(programs), programs=programs)


async def report_of(sdk: str) -> Any:
    await install()
    program, *arguments = ("openai.mjs",) if sdk == "openai" else ("openrouter.mjs", sdk)
    async with door_before(EmbeddedBackend()) as address:
        return json.loads(await output_of("node", program, address, *arguments))


def with_marks(*names: str) -> list[Any]:
    """The names as parameters of a test; all but the newest are marked toolchain."""
    older = [pytest.mark.toolchain]
    return [pytest.param(name, marks=[] if name in NEWEST else older) for name in names]


@pytest.fixture(scope="module", params=with_marks(*KINDS))
def sdk(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def report(sdk: str) -> Any:
    """Returns the report that the program of an SDK printed."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.fail("the tests of npm SDKs need Node.js 22 or later with npm: scripts/setup dev")
    return asyncio.run(report_of(sdk))


def test_every_installed_sdk_is_tested() -> None:
    package = json.loads((PROGRAMS / "package.json").read_text())
    assert set(package["dependencies"]) == {*KINDS, *OF_AI_SDK}


@pytest.mark.parametrize("programs", ["npm", "npm/frameworks", "interop/typescript", "interop/web"])
def test_the_lock_file_names_no_registry(programs: str) -> None:
    lock = json.loads((PROGRAMS.parent / programs / "package-lock.json").read_text())
    assert not [name for name, entry in lock["packages"].items() if "resolved" in entry]


def test_a_plain_answer_has_its_image(report: Any) -> None:
    item = report["plain"]
    assert (item["type"], item["status"]) == ("image_generation_call", "completed")
    assert base64.b64decode(item["result"]).startswith(b"\x89PNG")


def test_a_stream_is_read_to_its_end_with_the_final_image(report: Any) -> None:
    assert report["stream"]["types"] == EVENTS
    assert report["stream"]["item"] == report["plain"]


def test_an_output_item_sent_back_is_what_the_next_image_starts_from(report: Any) -> None:
    edited, alone = report["replay"]["edited"], report["replay"]["alone"]
    assert edited["type"] == alone["type"] == "image_generation_call"
    assert edited["result"] != alone["result"]


def test_an_error_is_typed_and_says_when_to_try_again(sdk: str, report: Any) -> None:
    found = [(error["kind"], error["status"], error["retry_after"]) for error in report["errors"]]
    wanted = zip(KINDS[sdk], (400, 429, 500), strict=True)
    assert found == [(kind, status, "7") for kind, status in wanted for _ in ("plain", "stream")]
    for error in report["errors"]:
        said = f"the API answered {error['status']}: the request asked for a failure"
        assert said in error["message"]


def test_an_error_in_the_middle_of_a_stream_arrives_after_the_events_before_it(
    report: Any,
) -> None:
    assert report["midway"] == {
        "types": EVENTS[:5],
        "code": "503",
        "message": "the API failed: the request asked for a failure",
    }


async def statuses(address: str, name: str, count: int) -> Any:
    """The statuses with which an SDK gives up, plain and as a stream, for each of some requests."""
    await install()
    return json.loads(await output_of("node", "once.mjs", address, name, str(count)))


@pytest.mark.parametrize("name", with_marks("openai", "openrouter-1.3", "ai"))
async def test_an_sdk_at_its_defaults_sends_once_what_may_be_billed(name: str) -> None:
    failures = [failure for failure, streams in FAILURES if not streams]
    async with before_an_api(idle_seconds=0.5) as (api, address):
        api.answers = [answer_of(failure) for failure in failures for _ in range(2)]
        assert await statuses(address, name, len(failures)) == [[424, 424]] * len(failures)
        assert len(api.requests) == 2 * len(failures)


@pytest.mark.parametrize("name", with_marks("openai", "ai"))  # The other one goes on for an hour.
async def test_an_sdk_at_its_defaults_sends_again_what_cost_nothing(name: str) -> None:
    async with before_an_api() as (api, address):
        api.say(b'{"error":{}}', status=503, content_type=JSON, headers={"retry-after": "0"})
        assert await statuses(address, name, 1) == [[503, 503]]
        assert len(api.requests) == 6
