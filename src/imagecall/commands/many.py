"""Conversion of many records, for the command line."""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from imagecall.allocator import keep_freed_memory
from imagecall.bulk.conversion import Reading
from imagecall.bulk.faults import FaultLog, is_read
from imagecall.bulk.inputs import FORMATS, Format, format_of, inputs
from imagecall.bulk.many import Input, Task, convert
from imagecall.bulk.outputs import check_apart, check_report, partial_path, planned
from imagecall.commands.codes import exit_code
from imagecall.commands.one import is_shown
from imagecall.commands.progress import Progress
from imagecall.commands.status_line import print_line
from imagecall.conversion.converter import CALLS

_EXTENSION: Final[dict[Format, str]] = {
    "json": ".jsonl",
    "binary": ".binpb",
    "parquet": ".parquet",
}


def convert_many(options: argparse.Namespace) -> int:
    """Converts many records; prints what was refused, and the counts. Raises OSError."""
    output = None if options.output in (None, Path("-")) else options.output
    named = inputs(options.files, (*FORMATS,))
    formats = {name: options.source or format_of(name) for name in named.names}
    target = options.target or _target(output, formats.values())
    _check_output(output, target)
    if "parquet" in (target, *formats.values()):
        import imagecall.bulk.parquet  # noqa: F401  # A missing package ends the run here.
    reading = Reading(options.kind, options.variant or CALLS.default, options.profile == "strict")
    task = Task(target, reading, options.lines, options.column)
    plan = _planned(named.files, output, _EXTENSION[target])
    if options.errors:
        check_report(options.errors, named.names, [path for _, path in plan])
    work = [
        Input(name, formats[name], path)
        for name, path in plan
        if not (options.skip_existing and path is not None and path.exists())
    ]
    keep_freed_memory()  # Else lines of megabytes take twice as long.
    progress = Progress([each.name for each in work], is_hidden=output is None and is_shown())
    begun: set[Path | None] = set()
    unread: set[Path | None] = set()
    with FaultLog(options.errors, progress.print) as log:
        try:
            for part in convert(task, work, options.jobs or 1):
                log.add(work[part.source].name, part.faults)
                begun |= {work[part.source].output} if part.done else set()
                unread |= set() if is_read(part.faults) else {work[part.source].output}
                progress.add(part.source, part.read_bytes, part.done, len(part.faults))
        finally:
            progress.clear()
        log.finish()
    for path in sorted(filter(None, begun & unread)):
        if (partial := partial_path(path)).exists():  # An output may be a device.
            print_line(f"{path} is not written: what could be read of its input is in {partial}")
    print_line(progress.summary(len(plan) - len(work)) + named.summary())
    return exit_code(progress.done + (not progress.refused), progress.refused)


def _target(output: Path | None, sources: Iterable[Format]) -> Format:
    """Format by the name of the output; without one, binary for JSON, and else JSON."""
    is_json = all(source == "json" for source in sources)
    return format_of(str(output or ""), "binary" if is_json else "json")


def _check_output(output: Path | None, target: Format) -> None:
    """Raises OSError for an output that cannot have the format."""
    if output is None and target == "parquet":
        raise OSError("Parquet is written to a file: it takes -o FILE")
    if output is None and target == "binary" and is_shown():
        raise OSError("a terminal shows no binary output: it takes -o FILE, or --to json")


def _planned(
    named: Sequence[tuple[str, Path]], output: Path | None, extension: str
) -> list[tuple[str, Path | None]]:
    """Inputs with their outputs: one for all, or one for each in a folder."""
    if output is not None and _is_folder(output, named):
        return [*planned(named, output, extension)]
    for name, _ in named:
        check_apart(name, output)
    return [(name, output) for name, _ in named]


def _is_folder(output: Path, named: Sequence[tuple[str, Path]]) -> bool:
    return output.is_dir() or (len(named) > 1 and not output.suffix)
