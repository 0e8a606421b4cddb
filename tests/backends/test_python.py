"""Backends of Python modules, chosen by --backend PACKAGE.MODULE:FACTORY."""

import subprocess
from pathlib import Path

import pytest

from imagecall.access.setting import SettingError
from imagecall.server.run import check
from imagecall.server.settings import ServerSettings, read_settings
from tests.commands.command import COMMAND, run_here

MODULE = """
from imagecall.service import FinalImage, ImageService

class Service(ImageService):
    async def generate(self, request):
        yield FinalImage(b"\\x89PNG\\r\\n\\x1a\\n")

class Abstract(ImageService):
    pass

class Half:
    async def generate_image(self, request): ...

def make():
    return Service()

def nothing():
    pass

def the_class():
    return Service

def fails():
    raise RuntimeError("there is no model file")

number = 5
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with modules."""
    folder = tmp_path_factory.mktemp("working")
    (folder / "package").mkdir()
    (folder / "package/service.py").write_text(MODULE)
    (folder / "needs_more.py").write_text("import no_such_library\n")
    (folder / "faulty.py").write_text("raise OSError('no disk')\n")
    return folder


def generate(backend: str, folder: Path, command: str = "generate") -> tuple[int, str]:
    words = ["a fox", "-o", "fox.png"] if command == "generate" else ["--grpc", "127.0.0.1:0"]
    done = subprocess.run(
        [*COMMAND, command, *words, "--backend", backend],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("factory", ["Service", "make"])
def test_a_class_or_function_of_the_working_directory_makes_the_backend(
    factory: str, folder: Path
) -> None:
    code, errors = generate(f"package.service:{factory}", folder)
    assert code == 0, errors
    assert (folder / "fox.png").read_bytes() == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize(
    ("backend", "sentence"),
    [
        ("no_such_module:make", "there is no module no_such_module"),
        ("package.other:make", "there is no module package.other"),
        ("no_such.service:make", "there is no module no_such"),
        ("package.service:missing", "package.service.missing is missing; name a class"),
        ("package.service:number", "package.service.number is of the type int; name a class"),
        ("package.service:nothing", "its factory returned NoneType without generate_image"),
        ("package.service:the_class", "its factory returned the class Service"),
        ("package.service:Half", "its factory returned Half without stream_image, close"),
        ("package.service:fails", "its factory failed: RuntimeError: there is no model file"),
        ("package.service:Abstract", "its factory failed: TypeError: Can't instantiate"),
        ("needs_more:make", "No module named 'no_such_library'"),
        ("faulty:make", "the module faulty cannot be imported: OSError: no disk"),
        ("package.service", "there is no backend 'package.service'; choose embedded"),
        ("localhost:8080", "there is no backend 'localhost:8080'; choose embedded"),
    ],
)
def test_any_other_name_is_refused_with_a_sentence(
    backend: str, sentence: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    done = run_here("generate", "a fox", "-o", "fox.png", "--backend", backend)
    assert done.returncode == 2
    assert sentence in done.stderr.decode()
    with pytest.raises(SettingError) as caught:
        check(read_settings(ServerSettings, {"backend": backend}, {}))
    assert sentence in str(caught.value)


@pytest.mark.parametrize("command", ["generate", "serve"])
def test_a_faulty_factory_stops_the_command_with_2(command: str, folder: Path) -> None:
    code, errors = generate("package.service:fails", folder, command)
    assert code == 2
    assert "its factory failed: RuntimeError: there is no model file" in errors
    assert "Traceback" not in errors
