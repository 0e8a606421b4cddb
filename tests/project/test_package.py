"""The package as pip installs it, into an empty environment."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
ITEM = b'{"type":"image_generation_call","id":"ig_1"}'

pytestmark = [pytest.mark.toolchain, pytest.mark.timeout(600)]


def run(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """A command that must end well. No variable of this environment leads it to this checkout."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done: subprocess.CompletedProcess[bytes] = subprocess.run(
        list(map(str, command)), capture_output=True, env=environment, check=False, **options
    )
    assert done.returncode == 0, done.stderr.decode()
    return done


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the wheel and the sdist."""
    home = tmp_path_factory.mktemp("build")
    run(sys.executable, "-m", "venv", home / "venv")
    run(home / "venv/bin/pip", "install", "--quiet", "hatchling")
    run(home / "venv/bin/hatchling", "build", "-d", home / "dist", cwd=REPOSITORY)
    return home / "dist"


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with the wheel alone, without any extra."""
    home = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", home)
    [wheel] = built.glob("*.whl")
    done = run(home / "bin/pip", "install", "--disable-pip-version-check", wheel)
    assert b"warning" not in (done.stdout + done.stderr).lower()
    return home / "bin"


def test_the_schema_is_in_wheel_and_sdist(built: Path) -> None:
    schema = {path.name for path in (REPOSITORY / "proto/imagecall/v1").glob("*.proto")}
    [wheel], [sdist] = built.glob("*.whl"), built.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {Path(name).name for name in names if name.startswith("imagecall/v1/")} >= schema
    with tarfile.open(sdist) as archive:
        names = archive.getnames()
    assert {Path(name).name for name in names if "/proto/imagecall/v1/" in name} == schema


def test_the_core_alone_converts_describes_and_calls(installed: Path) -> None:
    message = run(installed / "imagecall", "convert", "--to", "binary", input=ITEM).stdout
    again = run(
        installed / "imagecall", "convert", "--from", "binary", "--to", "json", input=message
    )
    assert again.stdout.strip() == ITEM
    assert b"output_image_generation_call" in run(installed / "imagecall", "describe").stdout
    assert b"--max-images" in run(installed / "imagecall", "check", "--help").stdout
    assert run(installed / "imagecall", "--version").stdout.startswith(b"imagecall ")
    run(
        installed / "python",
        "-c",
        "import imagecall.client, imagecall.v1.image_generation_service_pb2_grpc",
    )


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["serve"], "server"),
        (["generate", "a fox", "-o", "fox.png"], "embedded"),
        (["convert", "in.parquet", "-o", "out.binpb"], "bulk"),
    ],
)
def test_an_extra_that_is_missing_is_named(
    installed: Path, arguments: list[str], extra: str, tmp_path: Path
) -> None:
    command = [str(installed / "imagecall"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"pip install 'imagecall[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr
