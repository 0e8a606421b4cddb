"""The command line, as a process or in the process of the test."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Final
from unittest.mock import patch

from imagecall.commands.main import main

COMMAND: Final = [str(Path(sys.executable).with_name("imagecall"))]

Done = subprocess.CompletedProcess[bytes]


def run(*arguments: str, stdin: bytes | str = b"", cwd: Path | None = None) -> Done:
    """Runs a command as a user does."""
    return subprocess.run(
        [*COMMAND, *arguments], input=_bytes(stdin), capture_output=True, cwd=cwd, check=False
    )


def run_here(*arguments: str, stdin: bytes | str = b"") -> Done:
    """Runs a command in this process, for tables of cases: a process takes half a second to start.

    Not for `serve`, which sets up the logs of its process.
    """
    data, output, errors = BytesIO(_bytes(stdin)), BytesIO(), BytesIO()
    streams = _standard_streams(stdin=data, stdout=output, stderr=errors)
    with streams, patch.dict(os.environ):
        try:
            code: int | str | None = main(arguments)
        except SystemExit as end:
            code = end.code
    assert isinstance(code, int)
    return subprocess.CompletedProcess(arguments, code, output.getvalue(), errors.getvalue())


@contextmanager
def _standard_streams(**streams: BytesIO) -> Iterator[None]:
    with ExitStack() as stack:
        for name, stream in streams.items():
            wrapper = TextIOWrapper(stream, encoding="utf-8", write_through=True)
            stack.callback(wrapper.detach)  # Else the end of the wrapper closes the bytes.
            stack.enter_context(patch.object(sys, name, wrapper))
        yield


def _bytes(stdin: bytes | str) -> bytes:
    return stdin.encode() if isinstance(stdin, str) else stdin
