"""Conversion of many records, for the command line."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from imagecall.bulk.conversion import Reading
from imagecall.bulk.faults import FaultLog
from imagecall.bulk.inputs import JSON_SUFFIXES, inputs
from imagecall.bulk.many import SUFFIXES, Format, Input, Task, convert
from imagecall.bulk.outputs import check_apart, planned
from imagecall.commands.codes import exit_code
from imagecall.commands.one import is_shown
from imagecall.conversion.converter import CALLS

_PROGRESS_SECONDS: Final = 0.2
_SUFFIX: Final[dict[Format, str]] = {"json": ".jsonl", "binary": ".binpb"}


def convert_many(options: argparse.Namespace) -> int:
    """Converts many records; prints what was refused, and the counts."""
    output = None if options.output in (None, Path("-")) else options.output
    named = list(inputs(options.files, (*JSON_SUFFIXES, ".binpb", ".pb")))
    source = options.source or _source([name for name, _ in named])
    target = options.target or _target(output, source)
    if target == "binary" and output is None and is_shown():
        raise OSError("a terminal shows no binary output: it takes -o FILE, or --to json")
    reading = Reading(options.kind, options.variant or CALLS.default, options.profile == "strict")
    task = Task(source, target, reading, options.lines)
    work = _planned(named, output, _SUFFIX[target])
    if options.skip_existing:
        work = [each for each in work if each.output is None or not each.output.exists()]
    progress = Progress()
    with FaultLog(options.errors) as log:
        for written in convert(task, work, options.jobs or 1):
            log.add(work[written.source].name, written.faults)
            progress.add(written.done, len(written.faults))
        progress.clear()
        log.finish()
    print(f"imagecall: {progress.summary(len(named) - len(work))}", file=sys.stderr)
    return exit_code(progress.done + (not progress.refused), progress.refused)


def _source(names: Sequence[str]) -> Format:
    """Format of files by their names. Raises OSError for files of both formats."""
    formats = {SUFFIXES.get(Path(name).suffix.lower(), "json") for name in names}
    if len(formats) > 1:
        raise OSError("some files are JSON and some are binary: choose one by --from")
    return formats.pop()


def _target(output: Path | None, source: Format) -> Format:
    """Format by the name of the output; without one, the other than that of the input."""
    suffix = output.suffix.lower() if output else ""
    return SUFFIXES.get(suffix, "binary" if source == "json" else "json")


def _planned(named: Sequence[tuple[str, Path]], output: Path | None, suffix: str) -> list[Input]:
    """Inputs with their outputs: one for all, or one for each in a folder."""
    if output is not None and _is_folder(output, named):
        return [Input(name, path) for name, path in planned(named, output, suffix)]
    if output is not None:
        for name, _ in named:
            check_apart(name, output)
    return [Input(name, output) for name, _ in named]


def _is_folder(output: Path, named: Sequence[tuple[str, Path]]) -> bool:
    return output.is_dir() or (len(named) > 1 and not output.suffix)


class Progress:
    """Counts of records, and a line with them on a terminal."""

    def __init__(self) -> None:
        self.done = self.refused = 0
        self._start = time.monotonic()
        self._shown = 0.0
        self._is_shown = sys.stderr is not None and sys.stderr.isatty()

    def add(self, done: int, refused: int) -> None:
        """Adds records, and shows the counts from time to time."""
        self.done += done
        self.refused += refused
        now = time.monotonic()
        if self._is_shown and now - self._shown >= _PROGRESS_SECONDS:
            self._shown = now
            print(f"\r\x1b[K{self.summary()}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Clears the line."""
        if self._is_shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def summary(self, skipped: int = 0) -> str:
        """Line with the counts, and the speed."""
        seconds = max(time.monotonic() - self._start, 0.001)
        files = f", {skipped:,} files skipped" if skipped else ""
        speed = f"{self.done / seconds:,.0f} records a second"
        return f"{self.done:,} converted, {self.refused:,} refused{files} ({speed})"
