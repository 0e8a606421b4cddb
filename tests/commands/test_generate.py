"""`imagecall generate`: its lines for people, its JSON for programs, and where the image goes."""

import asyncio
import hashlib
import json
import os
from contextlib import chdir
from pathlib import Path
from unittest.mock import patch

import pytest

from tests.commands.command import Done, run_here
from tests.commands.command import run as run_process
from tests.commands.test_cli import ITEM
from tests.commands.test_cli import servers as servers
from tests.commands.test_terminal import OWN_LINE, on_terminal
from tests.streams import PNG, framed, happy, item
from tests.upstream import upstream

USAGE = {"input_tokens": 12, "output_tokens": 1234, "total_tokens": 1246, "cost": 0.0421}


def run(*arguments: str, cwd: Path, **environment: str) -> Done:
    """Runs the command in the process of the test."""
    with chdir(cwd), patch.dict(os.environ, environment):
        return run_here("generate", *arguments)


async def answered(*arguments: str, cwd: Path) -> tuple[Done, str]:
    """Runs the command before an API whose answer has an id, a prompt, tokens and a cost."""
    async with upstream() as api:
        events = happy(done=item(PNG, revised_prompt="a red fox\x1b[1m"))
        events[-1]["response"] |= {"usage": USAGE, "model": "m-1"}
        api.say(framed(events))
        options = ("--backend", api.url, *arguments)
        # A process of its own, as the API runs on the event loop of this one.
        done = await asyncio.to_thread(run_process, "generate", "a fox", *options, cwd=cwd)
        return done, api.url


async def test_the_backend_comes_first_and_the_facts_of_the_answer_last(tmp_path: Path) -> None:
    done, url = await answered("-o", "a.png", "--model", "m", cwd=tmp_path)
    lines = done.stderr.decode().splitlines()
    assert done.returncode == 0
    assert lines[0] == f"imagecall: backend: {url}, model: m"
    assert "imagecall: id: ig_1" in lines
    assert "imagecall: revised prompt: a red fox\\u001b[1m" in lines
    assert lines[-2:] == [
        "imagecall: tokens: 12 input, 1,234 output, 1,246 total",
        "imagecall: cost: 0.0421",
    ]


async def test_programs_get_json(tmp_path: Path) -> None:
    done, url = await answered("-o", "a.png", "--json", cwd=tmp_path)
    report = json.loads(done.stdout)
    assert report["images"] == [
        {
            "id": "ig_1",
            "status": "completed",
            "revised_prompt": "a red fox\x1b[1m",
            "path": "a.png",
            "format": "png",
            "width": 1,
            "height": 1,
            "bytes": len(PNG),
            "sha256": hashlib.sha256(PNG).hexdigest(),
        }
    ]
    assert (report["backend"], report["model"], report["usage"]) == (url, "m-1", USAGE)
    assert report["failure"] is None


def test_a_failure_is_json_too(tmp_path: Path) -> None:
    failed = run("a", "--json", "--set", 'embedded={"ending":"failed"}', cwd=tmp_path)
    report = json.loads(failed.stdout)
    assert (failed.returncode, report["images"], report["status"]) == (4, [], "failed")
    assert report["failure"].startswith("the response ended as failed")
    refused = run("a", "--json", "--set", 'embedded={"http_status":429}', cwd=tmp_path)
    error = json.loads(refused.stdout)["error"]
    assert (refused.returncode, error["reason"]) == (4, "UPSTREAM_RATE_LIMITED")
    slow = ("--set", 'embedded={"delay_seconds":60}', "--timeout", "0.1")
    late = run("a", "--json", *slow, cwd=tmp_path)
    error = json.loads(late.stdout)["error"]
    assert (late.returncode, error["code"]) == (4, "DEADLINE_EXCEEDED")
    assert error["may_be_billed"] is True


async def test_the_image_goes_to_standard_output(tmp_path: Path) -> None:
    done, _ = await answered("-o", "-", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, PNG)
    line = f"imagecall: standard output: png, 1 x 1 pixels, {len(PNG)} bytes"
    assert line in done.stderr.decode().splitlines()


async def test_a_terminal_shows_one_line_and_no_image(tmp_path: Path) -> None:
    shown = await on_terminal("generate", "a fox", "--size", "64x64", cwd=tmp_path)
    assert OWN_LINE in shown
    assert "imagecall: image_generation_call.generating" not in shown
    assert f"{OWN_LINE}image.png: png, 64 x 64 pixels" in shown
    refused = await on_terminal("generate", "a fox", "-o", "-", cwd=tmp_path)
    assert refused.startswith("imagecall: a terminal shows no image")


async def test_a_terminal_shows_a_bar_of_a_conversion(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(f"{ITEM}\n" * 1000)
    shown = await on_terminal("convert", "in.jsonl", "-o", "out.binpb", cwd=tmp_path)
    assert "1,000 converted, 0 refused" in shown.splitlines()[-1]
    assert f"{OWN_LINE}[" in shown


def test_the_server_can_stand_in_the_environment(servers: tuple[str, str], tmp_path: Path) -> None:
    small = ("--size", "64x64")
    done = run("a", *small, cwd=tmp_path, IMAGECALL_SERVER=servers[0])
    assert (done.returncode, done.stderr.decode().splitlines()[0]) == (
        0,
        f"imagecall: server: {servers[0]}",
    )
    named = run("a", *small, "--backend", "embedded", cwd=tmp_path, IMAGECALL_SERVER="nonsense")
    assert named.stderr.startswith(b"imagecall: backend: embedded\n")
    wrong = run("a", cwd=tmp_path, IMAGECALL_SERVER="nonsense")
    assert (wrong.returncode, b"IMAGECALL_SERVER: 'nonsense' is not" in wrong.stderr) == (2, True)


def test_no_credentials_of_a_backend_are_printed(tmp_path: Path) -> None:
    done = run("a", "--backend", "http://user:secret@127.0.0.1:1/v1?key=secret", cwd=tmp_path)
    assert b"secret" not in done.stderr


PARTIAL = ["--partial-images", "1", "--save-partial-images"]


@pytest.mark.parametrize("arguments", [["--json"], PARTIAL])
def test_standard_output_has_an_image_alone(arguments: list[str], tmp_path: Path) -> None:
    done = run("a", "-o", "-", *arguments, cwd=tmp_path)
    assert (done.returncode, b"-o - is an image alone" in done.stderr) == (2, True)


def test_the_help_names_the_exit_codes(tmp_path: Path) -> None:
    text = " ".join(run("--help", cwd=tmp_path).stdout.decode().split())
    assert "0 for an image; 1 if the input was refused" in text
    assert "2 for wrong usage, or a package that is not installed; 4 if the call failed" in text
