"""Lines about work in progress: one line that changes on a terminal, plain lines elsewhere."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from unicodedata import east_asian_width

from imagecall.errors import printable

_TICK_SECONDS: Final = 1.0
_UNKNOWN_WIDTH: Final = 80
_WIDE: Final = ("F", "W")


def print_line(text: str) -> None:
    """Prints a line to standard error."""
    if sys.stderr is not None:
        print(f"imagecall: {printable(text)}", file=sys.stderr, flush=True)


class TerminalLine:
    """Line at the end of a terminal that is drawn again and again; nothing elsewhere.

    Args:
        is_hidden: True for nothing on a terminal too.
    """

    def __init__(self, is_hidden: bool = False) -> None:
        self.is_terminal = sys.stderr is not None and sys.stderr.isatty() and not is_hidden
        self._is_shown = False

    def draw(self, text: str) -> None:
        """Draws the line, cut to the width of the terminal."""
        if self.is_terminal:
            line = _cut(printable(text), _width() - 1)
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
            self._is_shown = True

    def clear(self) -> None:
        """Removes the line from the terminal."""
        if self._is_shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._is_shown = False

    def print(self, text: str) -> None:
        """Prints a line that stays."""
        self.clear()
        print_line(text)


def _width() -> int:
    """Columns of the terminal, as it is now."""
    return os.get_terminal_size(sys.stderr.fileno()).columns or _UNKNOWN_WIDTH


def _cut(text: str, columns: int) -> str:
    """Start of a printable text that fits into so many columns."""
    width = 0
    for index, character in enumerate(text):
        width += 2 if east_asian_width(character) in _WIDE else 1
        if width > columns:
            return text[:index]
    return text


class StatusLine(TerminalLine):
    """Status of a call: on a terminal in one line, with the seconds since the start."""

    def __init__(self) -> None:
        super().__init__()
        self._start = time.monotonic()
        self._status = "waiting for the answer"

    def show(self, status: str) -> None:
        """Shows a status: on a terminal in place of the last one, else as a line."""
        if not self.is_terminal:
            print_line(status)
            return
        self._status = status
        self._draw_status()

    @asynccontextmanager
    async def ticking(self) -> AsyncIterator[None]:
        """Counts the seconds on a terminal; the status is removed at the end."""
        ticks = asyncio.create_task(self._tick()) if self.is_terminal else None
        try:
            yield
        finally:
            if ticks:
                ticks.cancel()
            self.clear()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            self._draw_status()

    def _draw_status(self) -> None:
        self.draw(f"{time.monotonic() - self._start:,.0f} s  {self._status}")
