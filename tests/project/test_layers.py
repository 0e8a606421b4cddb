"""Rooms: each folder of the package imports only what stands below it."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

PACKAGE: Final = Path(__file__).parents[2] / "src/imagecall"

FLOORS: Final = (
    {"v1"},
    {"allocator", "errors", "formats", "sizes", "turns"},
    {"json"},
    {"wire"},
    {"conversion"},
    {"bulk", "rpc"},
    {"observing"},
    {"generation"},
    {"access", "client", "conformance"},
    {"backends"},
    {"doors"},
    {"server", "service"},
    {"commands"},
)
"""Rooms and single modules, from the lowest floor to the highest."""

PURE: Final = ("json", "wire", "conversion", "bulk")
"""Rooms that know no gRPC, no event loop, no telemetry and no HTTP."""

IMPURE: Final = ("grpc", "asyncio", "aiohttp", "starlette", "uvicorn", "opentelemetry", "PIL")


def modules() -> Iterator[tuple[str, Path]]:
    """The hand-written modules, each with its room."""
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if not room.startswith("__") and room != "v1":
            yield room, path


def imported(path: Path) -> Iterator[str]:
    """The modules of this package that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.ImportFrom(module=str(name)) if name.startswith("imagecall."):
                yield name
            case ast.Import(names=names):
                yield from (each.name for each in names if each.name.startswith("imagecall."))


def test_every_room_has_a_floor() -> None:
    assert {room for room, _ in modules()} | {"v1"} == set().union(*FLOORS)


@pytest.mark.parametrize(("room", "path"), [*modules()], ids=lambda value: str(value)[-40:])
def test_imports_point_to_lower_floors(room: str, path: Path) -> None:
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    for name in imported(path):
        target = name.split(".")[1]
        assert target == room or floor[target] < floor[room], f"{path.name} imports {name}"


@pytest.mark.parametrize("door", ["grpc", "http"])
def test_a_door_does_not_import_the_client_or_a_backend(door: str) -> None:
    for path in (PACKAGE / "doors" / door).glob("*.py"):
        wrong = [n for n in imported(path) if n.split(".")[1] in ("client", "backends")]
        assert not wrong, path.name


def loaded(*names: str) -> set[str]:
    """The packages that a process has loaded once it has imported these modules."""
    program = f"import sys, {', '.join(names)}\nprint(*{{m.split('.')[0] for m in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    return set(done.stdout.split())


def test_the_converters_load_no_grpc_no_event_loop_and_no_telemetry() -> None:
    names = [
        ".".join(["imagecall", *path.relative_to(PACKAGE).with_suffix("").parts])
        for room, path in modules()
        if room in PURE
    ]
    assert "jiter" in loaded("imagecall", *names)
    assert not loaded("imagecall", *names) & set(IMPURE)


def test_addresses_and_settings_load_no_grpc() -> None:
    assert not loaded("imagecall.rpc.addresses", "imagecall.server.settings") & set(IMPURE)


def test_a_service_of_ones_own_needs_no_extra() -> None:
    extras = ["aiohttp", "grpc_channelz", "grpc_health", "grpc_reflection", "starlette", "uvicorn"]
    missing = dict.fromkeys([*extras, "opentelemetry", "PIL"])
    program = f"import sys; sys.modules.update({missing}); import imagecall.service"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
