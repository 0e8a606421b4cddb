"""Files that are read anew when they change: tokens, certificates."""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, TypeVar

_T = TypeVar("_T")
_log: Final = logging.getLogger(__name__)

_SECONDS: Final = 1.0
"""Least time between two checks of the files."""


class WatchedFiles(Generic[_T]):
    """Value made of the content of some files, kept current.

    If they are faulty later, what was made before stays, and the log says so.

    Args:
        paths: the files.
        make: reads them. Raises OSError with a sentence that does not quote them.

    Raises what `make` raises.
    """

    def __init__(self, paths: list[Path], make: Callable[[], _T]) -> None:
        self._paths = paths
        self._make = make
        self._seen = self._state()
        self._looked = time.monotonic()
        self._made = make()

    def get(self) -> _T:
        """The value; made anew if the files have changed."""
        now = time.monotonic()
        if now - self._looked >= _SECONDS:
            self._looked = now
            self._look()
        return self._made

    def _look(self) -> None:
        state = self._state()
        if state == self._seen:
            return
        names = ", ".join(map(str, self._paths))
        try:
            self._made = self._make()
        except OSError as error:
            _log.warning("what %s had before stays in use: %s", names, error)
            return  # Perhaps it is half written: the next look tries again.
        self._seen = state
        _log.info("%s: read anew", names)

    def _state(self) -> list[tuple[int, int, int]]:
        found = []
        for path in self._paths:
            try:
                status = os.stat(path)
            except OSError:
                continue
            found.append((status.st_mtime_ns, status.st_size, status.st_ino))
        return found
