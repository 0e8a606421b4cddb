"""Output of a conversion: a file that is complete or not there, or standard output."""

import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from imagecall.bulk.inputs import STANDARD_INPUT

STANDARD_OUTPUT: Final = "-"


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


def check_apart(name: str, output: Path) -> None:
    """Raises OSError if an output is the input of this name."""
    is_file = name != STANDARD_INPUT and output.is_file() and Path(name).is_file()
    if is_file and output.samefile(name):
        raise OSError(f"{name} is both input and output")


@contextmanager
def written(path: Path | None) -> Iterator[BinaryIO]:
    """Opens an output; None is standard output.

    A file has another name until it is complete, and is removed after an error.
    """
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if path.exists() and not path.is_file():  # A device or a pipe.
        with path.open("wb") as file:
            yield file
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=".imagecall-", dir=path.parent)
    try:
        with open(handle, "wb") as file:
            yield file
        os.chmod(temporary, 0o666 & ~umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def umask() -> int:
    """Permissions that new files of this process lack."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
