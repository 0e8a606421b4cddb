"""Lines about a call in progress: one line that changes on a terminal, plain lines elsewhere."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from imagecall.errors import printable

_TICK_SECONDS: Final = 1.0


def print_line(text: str) -> None:
    """Prints a line to standard error."""
    if sys.stderr is not None:
        print(f"imagecall: {printable(text)}", file=sys.stderr, flush=True)


class StatusLine:
    """Status of a call: on a terminal in one line, with the seconds since the start."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr is not None and sys.stderr.isatty()
        self._start = time.monotonic()
        self._status = ""
        self._is_shown = False

    def show(self, status: str) -> None:
        """Shows a status: on a terminal in place of the last one, else as a line."""
        if not self._is_terminal:
            print_line(status)
            return
        self._status = status
        self._draw()

    def print(self, text: str) -> None:
        """Prints a line that stays."""
        self.clear()
        print_line(text)

    def clear(self) -> None:
        """Removes the status from the terminal."""
        if self._is_shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._is_shown = False

    @asynccontextmanager
    async def ticking(self) -> AsyncIterator[None]:
        """Counts the seconds on a terminal; the status is removed at the end."""
        ticks = asyncio.create_task(self._tick()) if self._is_terminal else None
        try:
            yield
        finally:
            if ticks:
                ticks.cancel()
            self.clear()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            self._draw()

    def _draw(self) -> None:
        seconds = time.monotonic() - self._start
        text = f"{seconds:,.0f} s  {printable(self._status or 'waiting for the answer')}"
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
        self._is_shown = True
