"""Files that are named on a command line: themselves, those in folders, or standard input."""

import os
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeAlias

from imagecall.bulk.faults import Fault
from imagecall.bulk.records import Batch, foreign, json_records

STANDARD_INPUT: Final = "-"

Format: TypeAlias = Literal["json", "binary", "parquet"]

FORMATS: Final[dict[str, Format]] = {
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".sse": "json",
    ".txt": "json",
    ".log": "json",
    ".binpb": "binary",
    ".pb": "binary",
    ".parquet": "parquet",
}
"""Format of a file by the extension of its name. A folder gives the files of these."""

JSON_EXTENSIONS: Final = tuple(name for name, format in FORMATS.items() if format == "json")

_MAX_NAMED: Final = 5
"""Most files left out that a summary names."""

_HEAD: Final = 64 * 1024
_BUFFER: Final = 1024 * 1024


class Inputs(NamedTuple):
    """Files that are read.

    Attributes:
        files: names, each with the path below the folder that was named.
        left_out: names of the files of folders that are not read, because of their extensions.
    """

    files: list[tuple[str, Path]]
    left_out: list[str]

    @property
    def names(self) -> list[str]:
        """Names of the files that are read."""
        return [name for name, _ in self.files]

    def summary(self) -> str:
        """Phrase about the files that are left out; "" for none."""
        if not self.left_out:
            return ""
        more = "" if len(self.left_out) <= _MAX_NAMED else ", ..."
        names = ", ".join(self.left_out[:_MAX_NAMED])
        return f", {len(self.left_out):,} files left out by their extensions: {names}{more}"


def inputs(names: Sequence[str], extensions: Sequence[str] = JSON_EXTENSIONS) -> Inputs:
    """Finds the files that are named, and in folders those with one of the extensions, in order.

    Hidden files and folders in a folder are passed over. Raises OSError for a folder without a file
    that is read.
    """
    found = Inputs([], [])
    for name in names or [STANDARD_INPUT]:
        path = Path(name)
        if name == STANDARD_INPUT or not path.is_dir():
            found.files.append((name, Path(path.name)))
            continue
        files = sorted(each for each in path.rglob("*") if _is_visible_file(each, path))
        read = [file for file in files if file.suffix.lower() in extensions]
        if not read:
            raise OSError(f"the folder {name} has no file that ends with {', '.join(extensions)}")
        found.files.extend((str(file), file.relative_to(path)) for file in read)
        found.left_out.extend(str(file) for file in files if file.suffix.lower() not in extensions)
    return found


def _is_visible_file(file: Path, folder: Path) -> bool:
    is_hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    return not is_hidden and file.is_file()


@contextmanager
def opened(name: str) -> Iterator[BufferedReader]:
    """Opens a file, or standard input. Raises OSError."""
    if name == STANDARD_INPUT and sys.stdin is None:
        raise OSError("standard input is closed")
    source = sys.stdin.fileno() if name == STANDARD_INPUT else name
    raw = FileIO(source, closefd=name != STANDARD_INPUT)
    file: BufferedReader = BufferedReader(raw, _BUFFER)
    with file:
        yield file


def size_of(name: str) -> int | None:
    """Bytes of a file, 0 if it is missing; None for standard input, a pipe or a device."""
    if name == STANDARD_INPUT:
        return None
    try:
        status = os.stat(name)
    except OSError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def head_of(stream: BufferedReader) -> bytes:
    """First bytes of a file, which are still to be read from the stream."""
    return stream.peek(_HEAD)[:_HEAD]


def format_of(name: str, default: Format = "json") -> Format:
    """Format by the extension of a name."""
    return FORMATS.get(Path(name).suffix.lower(), default)


def read_json(name: str, *, lines: bool = False) -> Iterator[Batch]:
    """Yields the records of a file with JSON, as `json_records` does.

    A file that cannot be read is a fault.
    """
    try:
        with opened(name) as stream:
            head = head_of(stream)
            if sentence := foreign(head):
                yield Batch(faults=[Fault(0, "", "UNREADABLE", sentence)])
                return
            yield from json_records(stream, head, lines=lines)
    except OSError as error:
        yield unreadable(error)


def unreadable(error: OSError) -> Batch:
    """Batch of a file that cannot be read."""
    return Batch(faults=[Fault(0, "", "UNREADABLE", error.strerror or str(error))])
