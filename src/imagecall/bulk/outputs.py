"""Output of a conversion: a file that is complete or not there, or standard output.

A file is incomplete if an input cannot be read to its end. Such a file has another name, so that
nobody takes it for the whole, and a conversion that is resumed makes it anew.
"""

import os
import stat
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from imagecall.bulk.inputs import STANDARD_INPUT

_STANDARD_INPUT: Final = 0
_STANDARD_OUTPUT: Final = 1
"""File descriptors of the standard streams."""


def planned(
    inputs: Sequence[tuple[str, Path]], folder: Path, suffix: str
) -> list[tuple[str, Path]]:
    """Names of inputs, each with the path of its output in a folder.

    `a.jsonl` becomes `a.binpb`, and `a.jsonl.binpb` if there is `a.json` too. Raises OSError if two
    inputs would have the same output, or an output is an input.
    """
    paths = [relative.with_suffix(suffix) for _, relative in inputs]
    counts = Counter(paths)
    outputs: dict[Path, str] = {}
    for (name, relative), path in zip(inputs, paths, strict=True):
        is_unique = counts[path] == 1
        output = folder / (path if is_unique else relative.with_name(relative.name + suffix))
        if output in outputs:
            raise OSError(f"{name} and {outputs[output]} have the same output, {output}")
        check_apart(name, output)
        outputs[output] = name
    return [(name, output) for output, name in outputs.items()]


def check_apart(name: str, output: Path | None) -> None:
    """Raises OSError if an output is the input of this name. None: standard output."""
    source = _STANDARD_INPUT if name == STANDARD_INPUT else name
    if _is_same_file(source, _STANDARD_OUTPUT if output is None else output):
        raise OSError(f"{name} is both input and output")


def check_report(report: Path, inputs: Iterable[str], outputs: Iterable[Path | None]) -> None:
    """Raises OSError if a report of faults would overwrite an input or an output."""
    for name in inputs:
        if _is_same_file(_STANDARD_INPUT if name == STANDARD_INPUT else name, report):
            raise OSError(f"--errors {report} would overwrite the input {name}")
    for output in {*outputs}:
        if _is_same_file(_STANDARD_OUTPUT if output is None else output, report):
            raise OSError(f"--errors {report} would overwrite the output")


def _is_same_file(one: str | Path | int, other: str | Path | int) -> bool:
    """True for two paths, or open files, of one regular file, which need not exist."""
    try:
        first, second = os.stat(one), os.stat(other)
    except OSError:
        return _resolved(one) == _resolved(other)
    return stat.S_ISREG(first.st_mode) and os.path.samestat(first, second)


def _resolved(file: str | Path | int) -> Path | int:
    return file if isinstance(file, int) else Path(os.path.realpath(file))


def partial_path(path: Path) -> Path:
    """Path for an output that is incomplete."""
    return path.with_name(f"{path.name}.partial")


@dataclass
class Written:
    """Output that is open.

    Attributes:
        is_complete: False if the output lacks records of an input.
    """

    file: BinaryIO
    is_complete: bool = True


@contextmanager
def written(path: Path | None) -> Iterator[Written]:
    """Opens an output; None is standard output.

    A file has another name until it is complete, and is removed after an error.
    """
    if path is None:
        yield Written(sys.stdout.buffer)
        sys.stdout.buffer.flush()
        return
    if path.exists() and not path.is_file():  # A device or a pipe.
        with path.open("wb") as file:
            yield Written(file)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=".imagecall-", dir=path.parent)
    os.close(handle)
    try:
        with open(temporary, "wb") as file:
            output = Written(file)
            yield output
        os.chmod(temporary, 0o666 & ~umask())
        os.replace(temporary, path if output.is_complete else partial_path(path))
    except BaseException:
        os.unlink(temporary)
        raise


def umask() -> int:
    """Permissions that new files of this process lack."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
