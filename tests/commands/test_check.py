"""`imagecall check`."""

import asyncio
import json
import os
from pathlib import Path
from xml.etree import ElementTree

import pytest

from imagecall.access.admission import Admission
from imagecall.access.tokens import Tokens
from imagecall.backends.embedded.backend import EmbeddedBackend
from imagecall.conformance.suite import RULES
from tests.commands.command import run, run_here
from tests.commands.test_cli import server as server
from tests.commands.test_cli import servers as servers
from tests.doors.test_generation import serving

SMALL = ["--size", "64x64"]
FAILING = ["--set", 'embedded={"http_status": 503}']
SLOW = ["--slow", 'embedded={"delay_seconds": 20}', "--tolerance", "4"]


def test_a_server_is_checked_by_every_rule(server: str) -> None:
    done = run("check", f"grpc://{server}", *SMALL, *SLOW)
    *rows, summary = done.stdout.decode().splitlines()
    assert (done.returncode, done.stderr) == (0, b"")
    assert [row.split()[:2] for row in rows] == [["passed", rule.name] for rule in RULES]
    assert summary.startswith(f"{len(RULES)} passed, 0 failed, 0 skipped; ")


def test_a_failure_names_what_came_what_was_expected_and_where_the_rule_stands(
    server: str,
) -> None:
    done = run_here("check", server, *SMALL, *FAILING, "--only", "methods", "--only", "image")
    assert done.returncode == 1
    lines = done.stdout.decode().splitlines()
    assert lines[0].split() == [
        *("FAILED", "methods", "GenerateImage", "and", "StreamImage"),
        *("answer", "an", "ordinary", "request"),
    ]
    assert lines[1].strip().startswith("came:     StreamImage with partial images: UNAVAILABLE")
    assert lines[2].strip() == "expected: an answer to an ordinary request"
    where = "imagecall/v1/image_generation_service.proto, ImageGenerationService"
    assert f"rule:     {where}" in done.stdout.decode()
    assert "not checked: StreamImage with partial images failed" in done.stdout.decode()
    assert lines[-1] == "0 passed, 1 failed, 1 skipped; 3 images were requested"


def test_the_report_is_json_and_junit_too(server: str, tmp_path: Path) -> None:
    file = tmp_path / "report.xml"
    rules = ["--only", "methods", "--only", "image", "--only", "health"]
    done = run_here("check", server, *SMALL, *FAILING, *rules, "--json", "--junit", str(file))
    report = json.loads(done.stdout)
    assert (done.returncode, report["server"], report["images"]) == (1, server, 3)
    assert (report["passed"], report["failed"], report["skipped"]) == (1, 1, 1)
    results = {rule["rule"]: rule["result"] for rule in report["rules"]}
    assert results == {"methods": "failed", "image": "skipped", "health": "passed"}
    [finding, *_] = report["rules"][0]["findings"]
    assert set(finding) == {"came", "expected"}
    suite = ElementTree.parse(file).getroot()
    assert [suite.get(name) for name in ("tests", "failures", "skipped")] == ["3", "1", "1"]
    children = {case.get("name"): [child.tag for child in case] for case in suite}
    assert children == {"methods": ["failure"], "image": ["skipped"], "health": []}


def test_max_images_bounds_the_images(server: str) -> None:
    done = run_here("check", server, *SMALL, "--max-images", "3")
    assert done.returncode == 0
    assert b"--max-images leaves 0" in done.stdout
    assert done.stdout.endswith(b"; 3 images were requested\n")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["127.0.0.1:1"], 1, "UNAVAILABLE: there is no connection to 127.0.0.1:1"),
        (["SERVER", "--only", "nothing"], 2, "nothing"),
        (["SERVER", "--max-images", "-1"], 2, "-1"),
        (["SERVER", "--slow", "x"], 2, "is not KEY=JSON"),
        ([], 2, "ADDRESS"),
        (["http://a:1"], 2, "is not grpc://HOST:PORT"),
        (["SERVER", "--only", "health", "--junit", "no/such/file"], 1, "No such file"),
    ],
)
def test_a_fault_of_usage_is_a_sentence(
    arguments: list[str], code: int, message: str, server: str
) -> None:
    done = run_here("check", *(server if word == "SERVER" else word for word in arguments))
    assert done.returncode == code
    assert message in done.stderr.decode().splitlines()[-1]


async def test_a_token_comes_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "tokens"
    file.write_text("someone 0123456789abcdef\n")
    admission = Admission(tokens=Tokens(file))
    async with serving(EmbeddedBackend(), admission) as address:
        arguments = ("check", address, "--only", "blank-prompt")
        refused = await asyncio.to_thread(run, *arguments)
        monkeypatch.setitem(os.environ, "IMAGECALL_TOKEN", "0123456789abcdef")
        taken = await asyncio.to_thread(run, *arguments)
    assert refused.returncode == 1
    assert b"TOKEN_REQUIRED" in refused.stderr
    assert taken.returncode == 0
