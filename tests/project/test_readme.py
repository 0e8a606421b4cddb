"""The commands and the Python of the README do what it shows."""

import doctest
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from imagecall.access.setting import settings_of
from imagecall.backends.embedded.fault_injection import Faults
from imagecall.client import SERVICE_CONFIG
from imagecall.conversion.converter import CALLS
from imagecall.errors import CODES
from imagecall.server.settings import ServerSettings
from tests import tables
from tests.commands.test_cli import servers as servers
from tests.interop.__main__ import DROP_UNKNOWN_FIELDS
from tests.readme_regions import README, ROOT, guides, marked, shown

ADDRESSES = ("127.0.0.1:50051", "127.0.0.1:8080")
SCHEMA = ROOT / "proto/README.md"
ROOMS = ROOT / "src/imagecall/README.md"
PRODUCTION = ROOT / "scripts/deploy/README.md"
TEXTS = [
    ROOT / name
    for name in subprocess.run(
        ["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
]
LONGEST = 250


def test_the_python_of_the_readme_is_true() -> None:
    found = doctest.testfile(str(README), module_relative=False)
    assert found.attempted > 10
    assert found.failed == 0


def test_the_readme_is_short() -> None:
    assert README.read_text().count("\n") <= LONGEST


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.parent.name)
def test_every_link_of_a_text_leads_to_a_file(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text()):
        assert "://" in target or (path.parent / target).exists(), target


BLOCKS = [
    pytest.param(block, id=f"{text.parent.name}-{number}")
    for text in (README, SCHEMA)
    for number, block in enumerate(re.findall(r"```console\n(.*?)```", text.read_text(), re.DOTALL))
]


def test_there_are_commands_that_are_run() -> None:
    assert len(BLOCKS) == 6


@pytest.mark.parametrize("block", BLOCKS)
def test_the_commands_of_a_text_print_what_it_shows(
    block: str, servers: tuple[str, str], tmp_path: Path
) -> None:
    steps = re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for step in steps:
        command, _, shown = step.partition("\n")
        done = subprocess.run(
            ["bash", "-c", _addressed(command, servers)],
            cwd=tmp_path,
            timeout=60,
            env=os.environ | {"PATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        printed, shown = done.stdout, _addressed(shown, servers)
        if command.startswith("buf curl"):
            printed, shown = re.sub(r"\s", "", printed), re.sub(r"\s", "", shown)
        assert _comparable(printed) == _comparable(shown), command


def _comparable(text: str) -> str:
    """The text without random ids, and the sizes of files, which differ between Pillows."""
    return re.sub(r"[\d,]+ bytes", "N bytes", re.sub(r"ig_[0-9a-f]{24}", "ig_N", text))


def _addressed(text: str, servers: tuple[str, str]) -> str:
    """The text with the addresses of the test's server."""
    for written, real in zip(ADDRESSES, servers, strict=True):
        text = text.replace(written, real)
    return text


def test_the_program_of_the_rooms_runs(servers: tuple[str, str]) -> None:
    [program] = _programs(ROOMS)
    run = [sys.executable, "-c", _addressed(program, servers)]
    done = subprocess.run(run, capture_output=True, text=True, check=True, timeout=60)
    assert "images=(Image(data=<" in done.stdout
    assert done.stdout.endswith("MISSING_KEY\n")


def test_the_programs_of_the_readme_run(servers: tuple[str, str], tmp_path: Path) -> None:
    programs = _programs(README)
    assert len(programs) == 2
    for program in programs:
        run = [sys.executable, "-c", _addressed(program, servers)]
        done = subprocess.run(
            run, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
        )
        assert re.fullmatch(r"ig_\w+ \d+ bytes\n", done.stdout)
    assert [file.name for file in tmp_path.iterdir()] == ["fox.png"]


@pytest.mark.toolchain  # It takes long without the cache of an earlier run.
def test_the_programs_of_the_texts_are_typed_strictly(tmp_path: Path) -> None:
    for text in (README, ROOMS, PRODUCTION):
        for number, program in enumerate(_programs(text)):
            (tmp_path / f"{text.parent.name}_{number}.py").write_text(program)
    check = [sys.executable, "-m", "mypy", "--strict", "."]
    done = subprocess.run(check, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def _programs(text: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text.read_text(), re.DOTALL)


def test_the_readme_names_every_variant_and_public_name() -> None:
    import imagecall

    text = README.read_text()
    for name in CALLS.variants:
        assert f"`{name}`" in text
    for name in imagecall.__all__:
        assert name in text, name


def test_the_retry_policy_is_the_same_in_the_readme_in_the_package_and_for_deployment() -> None:
    [shown] = re.findall(r"```json\n(.*?)```", SCHEMA.read_text(), re.DOTALL)
    deployed = (README.with_name("scripts") / "deploy" / "service_config.json").read_text()
    assert json.loads(shown) == json.loads(SERVICE_CONFIG)
    [policy, same] = [
        json.loads(text)["methodConfig"][0]["retryPolicy"] for text in (shown, deployed)
    ]
    assert policy == same


def test_the_tables_of_the_schema_are_those_that_are_made_from_it() -> None:
    assert SCHEMA.read_text() == tables.written()
    assert all(f"| `{reason}` |" in SCHEMA.read_text() for reason in CODES)


def test_the_table_of_what_can_be_asked_of_the_embedded_backend_is_complete() -> None:
    text = README.read_text()
    assert all(f"`{name}`" in text for name in Faults.__struct_fields__)


def test_the_table_of_settings_has_each_with_its_default() -> None:
    rows = re.findall(
        r"^\| `--([a-z-]+)` \| (?:`([^`]*)`)? *\| .+ \|$", PRODUCTION.read_text(), re.M
    )
    assert rows == [(each.name, each.default or "") for each in settings_of(ServerSettings)]


def test_what_the_readme_shows_of_each_language_is_what_its_program_has() -> None:
    assert len({region.file.split("/")[2] for region in shown()}) == 7
    assert sorted(shown()) == sorted(marked())


def test_the_guides_name_the_languages_that_drop_unknown_fields() -> None:
    found = {name for name, text in guides().items() if "drops the fields" in text}
    assert found == DROP_UNKNOWN_FIELDS


def test_the_readme_links_to_the_guide_of_each_language() -> None:
    text = README.read_text()
    assert all(f"(tests/interop/{name})" in text for name in guides())
