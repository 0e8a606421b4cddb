"""Builds and runs the programs of tests/interop, and prints what came of each case; see README.md.

python -m tests.interop [--all] [language...]
"""

import argparse
import asyncio
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from google.protobuf import message_factory
from google.protobuf.descriptor_pool import Default
from google.protobuf.message import DecodeError, Message

from tests import cases
from tests.conformance.faulty import faulty_server
from tests.interop.samples import Damaged
from tests.json_value import json_value

HERE: Final = Path(__file__).parent
LANGUAGES: Final = sorted(path.parent.name for path in HERE.glob("*/run"))
LIVE: Final = (
    "ConvertCalls",
    "StreamImage",
    "error details",
    "deadline",
    "cancellation",
    "cancellation when damaged",
    "many calls",
    "health",
)
DROP_UNKNOWN_FIELDS: Final = frozenset({"rust"})
"""The languages whose runtime forgets fields that its schema does not have: prost, for one."""

_NO_TOOLCHAIN: Final = 69
_DROPPED: Final = "dropped"
_SECONDS: Final = 300


def main() -> int:
    """Returns 1 if anything failed, or a toolchain is missing that was asked for."""
    parser = argparse.ArgumentParser("scripts/interop")
    parser.add_argument("--all", action="store_true", help="a missing toolchain is a failure")
    parser.add_argument("language", nargs="*", choices=[[], *LANGUAGES], help=", ".join(LANGUAGES))
    options = parser.parse_args()
    _complete_cases()
    built = [name for name in options.language or LANGUAGES if _build(name)]
    wanted = LANGUAGES if options.all else options.language
    missing = sorted(set(wanted) - set(built))
    columns = asyncio.run(_columns(built))
    if columns:
        _print_table(columns)
    failed = _print_failures(columns)
    for language in missing:
        print(f"{language}: not built")
    return int(failed or bool(missing))


def _complete_cases() -> None:
    """Writes what stands beside a new case, so that it has a row."""
    for path in cases.write_missing():
        print(f"wrote {path}: read it before you commit it")


def _build(language: str) -> bool:
    begun = time.monotonic()
    done = subprocess.run([HERE / language / "build"], capture_output=True, text=True, check=False)
    if done.returncode == _NO_TOOLCHAIN:
        print(f"{language}: left out: {done.stderr.strip()}", flush=True)
        return False
    if done.returncode:
        print(f"{done.stdout}{done.stderr}{language}: the build failed", flush=True)
        return False
    print(f"{language}: built in {time.monotonic() - begun:.1f} s", flush=True)
    return True


async def _columns(languages: list[str]) -> dict[str, dict[str, str]]:
    """Runs the programs of each language. Returns the outcome of each row of its column."""
    columns = {}
    with _server() as address:
        async with faulty_server(Damaged()) as damaged:
            for language in languages:
                begun = time.monotonic()
                columns[language] = await asyncio.to_thread(_column, language, address, damaged)
                print(f"{language}: ran in {time.monotonic() - begun:.1f} s", flush=True)
    return columns


@contextmanager
def _server() -> Iterator[str]:
    """The address of a server of its own, with the defaults."""
    serve = [str(Path(sys.executable).with_name("imagecall")), "serve", "--grpc", "127.0.0.1:0"]
    with subprocess.Popen([*serve, "--http", "off"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()


def _column(language: str, address: str, damaged: str) -> dict[str, str]:
    """Returns the outcome of each row: "ok", "dropped", or the failure."""
    with tempfile.TemporaryDirectory() as out:
        command = [str(HERE / language / "run"), address, str(cases.ROOT), out, damaged]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=_SECONDS
            )
        except subprocess.TimeoutExpired:
            return dict.fromkeys(_rows(), f"the program took more than {_SECONDS} s")
        reported = dict(re.findall(r"^(.*)\t(.*)$", done.stdout, re.MULTILINE))
        nothing = f"no report; exit status {done.returncode} {done.stderr[-300:].strip()}"
        found = {name: reported.get(name, nothing) for name in _rows()}
        for name in cases.names():
            if found[name] == "ok":
                found[name] = _compared(name, Path(out), language)
        return found


def _rows() -> list[str]:
    return [*cases.names(), *LIVE]


def _compared(name: str, out: Path, language: str) -> str:
    """Compares the files that the program wrote for a case; returns the outcome."""
    golden = (cases.ROOT / f"{name}.binpb").read_bytes()
    kind = json.loads((cases.ROOT / f"{name}.expected.json").read_text())["message"]
    message = message_factory.GetMessageClass(Default().FindMessageTypeByName(kind))
    whole = message.FromString(golden)
    written = _read(out / f"{name}.binpb", message)
    if written != whole:
        known = message.FromString(golden)
        known.DiscardUnknownFields()
        dropped = written == known and language in DROP_UNKNOWN_FIELDS
        return _DROPPED if dropped else "the message is another after its serialization"
    if name.startswith("items/"):
        if _read(out / f"{name}.parsed.binpb", message) != whole:
            return "what ParseCall answered is another message"
        text = out / f"{name}.json"
        golden_text = (cases.ROOT / f"{name}.json").read_bytes()
        if not text.exists() or json_value(text.read_bytes()) != json_value(golden_text):
            return "what FormatCall answered is other JSON"
    return "ok"


def _read(path: Path, message: type[Message]) -> Message | None:
    try:
        return message.FromString(path.read_bytes())
    except (FileNotFoundError, DecodeError):
        return None


def _print_table(columns: dict[str, dict[str, str]]) -> None:
    rows = _rows()
    width = max(map(len, rows))
    print()
    print(" " * width, *(language.rjust(12) for language in columns))
    for name in rows:
        cells = [column[name] for column in columns.values()]
        shown = [cell if cell in ("ok", _DROPPED) else "FAILED" for cell in cells]
        print(name.ljust(width), *(cell.rjust(12) for cell in shown))
    print()


def _print_failures(columns: dict[str, dict[str, str]]) -> bool:
    """Prints the failures; returns True if there were any."""
    failed = [
        f"{language}: {name}: {outcome}"
        for language, column in columns.items()
        for name, outcome in column.items()
        if outcome not in ("ok", _DROPPED)
    ]
    print(*failed, sep="\n", end="\n" if failed else "")
    rights = sum(outcome == "ok" for column in columns.values() for outcome in column.values())
    drops = sum(outcome == _DROPPED for column in columns.values() for outcome in column.values())
    print(f"{rights} ok, {drops} with unknown fields dropped, {len(failed)} failed")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
