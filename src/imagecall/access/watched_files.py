"""Files that are reloaded when they change: tokens, certificates."""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, TypeVar

_T = TypeVar("_T")
_log: Final = logging.getLogger(__name__)

_SECONDS: Final = 1.0
"""Shortest time between two checks of the files."""


class WatchedFiles(Generic[_T]):
    """Value made of the content of some files, kept current.

    If a changed file is faulty, the earlier value stays in use, and a warning is logged.

    Args:
        paths: paths of the files.
        make: loads the value. Raises OSError with a sentence that does not quote the files.

    Raises the OSError of `make`.
    """

    def __init__(self, paths: list[Path], make: Callable[[], _T]) -> None:
        self._paths = paths
        self._make = make
        self._loaded_state = self._state()
        self._checked_at = time.monotonic()
        self._value = make()

    def get(self) -> _T:
        """Returns the value, which is reloaded if the files have changed."""
        now = time.monotonic()
        if now - self._checked_at >= _SECONDS:
            self._checked_at = now
            self._reload()
        return self._value

    def _reload(self) -> None:
        state = self._state()
        if state == self._loaded_state:
            return
        names = ", ".join(map(str, self._paths))
        try:
            self._value = self._make()
        except OSError as error:
            _log.warning("the earlier content of %s stays in use: %s", names, error)
            return  # The file may be half written: the next check tries again.
        self._loaded_state = state
        _log.info("%s: reloaded", names)

    def _state(self) -> list[tuple[int, int, int]]:
        states = []
        for path in self._paths:
            try:
                status = os.stat(path)
            except OSError:
                continue
            states.append((status.st_mtime_ns, status.st_size, status.st_ino))
        return states
