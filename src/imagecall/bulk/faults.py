"""Faults of records, each with its file and line, and the log of them."""

import json
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple

from imagecall.errors import ConversionError

MAX_SHOWN: Final = 20
"""Most faults that are printed: a file may have a million."""


class Fault(NamedTuple):
    """Fault of a record.

    Attributes:
        line: first line of the record, from 1; for a file without lines, the number of the record.
            0: the whole file.
        pointer: JSON Pointer of the culprit in the record; "" for the whole.
        reason: name in UPPER_SNAKE_CASE: of ErrorReason, or of `REASONS`.
        message: a sentence.
        file: name of the file as it was named; "-" for standard input.
    """

    line: int
    pointer: str
    reason: str
    message: str
    file: str = ""


REASONS: Final = {
    "UNREADABLE": "the file, or the rest of it, cannot be read, or is compressed",
    "NO_IMAGE": "an item has no image, or a record has no item",
    "NOT_WRITTEN": "the file of an image cannot be written, or is there already",
    "OTHER_MESSAGE": "an item among documents, or a document among items",
    "NO_VALUE": "a row of a table is null",
}
"""Reasons of faults that no conversion has."""


def is_read(faults: Iterable[Fault]) -> bool:
    """True if none of the faults is that a file, or the rest of it, cannot be read."""
    return all(fault.reason != "UNREADABLE" for fault in faults)


def fault_of(error: ConversionError, line: int) -> Fault:
    """Fault for the refusal of a record."""
    return Fault(line, error.pointer, error.reason, str(error))


class FaultLog:
    """Prints the first faults, writes all of them to a file as JSON Lines, and counts them.

    Args:
        path: file of the faults. None: they are only printed.
        print_line: function that prints a line.
    """

    def __init__(self, path: Path | None, print_line: Callable[[str], object]) -> None:
        self.count = 0
        self._print = print_line
        self._files = ExitStack()
        self._file = None
        if path is not None:
            self._file = self._files.enter_context(path.open("w", encoding="utf-8"))

    def __enter__(self) -> "FaultLog":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._files.close()

    def add(self, file: str, faults: Iterable[Fault]) -> None:
        """Adds the faults of a file."""
        for fault in faults:
            self.count += 1
            if self._file is not None:
                row = fault._replace(file=file)._asdict()
                self._file.write(json.dumps(row, ensure_ascii=True) + "\n")
            if self.count <= MAX_SHOWN:
                self._print(_sentence(file, fault))

    def finish(self) -> None:
        """Prints the count of faults that were not printed."""
        if (hidden := self.count - MAX_SHOWN) > 0:
            where = "" if self._file else "; --errors FILE lists all"
            self._print(f"and {hidden:,} more{where}")


def _sentence(file: str, fault: Fault) -> str:
    place = f"{file}:{fault.line}" if fault.line else file
    pointer = f" at {fault.pointer}" if fault.pointer else ""
    return f"{place}: {fault.reason}{pointer}: {fault.message}"
