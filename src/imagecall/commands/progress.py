"""Progress of a conversion: counts, and a bar with them on a terminal."""

import time
from collections.abc import Sequence
from typing import Final

from imagecall.bulk.inputs import size_of
from imagecall.commands.status_line import TerminalLine

_SECONDS: Final = 0.2
_WIDTH: Final = 24


class Progress(TerminalLine):
    """Counts of records, and a bar on a terminal.

    Args:
        names: names of the files that are converted. The bar counts the bytes of those that have a
            size; without any, only the counts are shown.
        is_hidden: True to show no bar, as the records are printed on the terminal.
    """

    def __init__(self, names: Sequence[str], is_hidden: bool) -> None:
        super().__init__(is_hidden)
        self.done = self.refused = 0
        self._sizes = [size_of(name) or 0 for name in names]
        self._total = sum(self._sizes)
        self._source = self._read_bytes = 0
        self._start = time.monotonic()
        self._drawn = 0.0

    def add(self, source: int, read_bytes: int, done: int, refused: int) -> None:
        """Adds records of a file, and shows the bar from time to time."""
        self._read_bytes = self._read_bytes + read_bytes if source == self._source else read_bytes
        self._source = source
        self.done += done
        self.refused += refused
        now = time.monotonic()
        if self.is_terminal and now - self._drawn >= _SECONDS:
            self._drawn = now
            self.draw(self._bar() + self.summary())

    def summary(self, skipped: int = 0) -> str:
        """Line with the counts, and the speed."""
        files = f", {skipped:,} files skipped" if skipped else ""
        speed = f"{self.done / self._seconds():,.0f} records a second"
        return f"{self.done:,} converted, {self.refused:,} refused{files} ({speed})"

    def _bar(self) -> str:
        """Bar of the bytes that are read; "" if there is no size."""
        if not self._total:
            return ""
        of_file = min(self._read_bytes, self._sizes[self._source])
        share = (sum(self._sizes[: self._source]) + of_file) / self._total
        done = "#" * round(share * _WIDTH)
        left = self._seconds() * (1 - share) / share if share else 0
        return f"[{done:-<{_WIDTH}}] {share:4.0%}, {left:,.0f} s left: "

    def _seconds(self) -> float:
        return max(time.monotonic() - self._start, 0.001)
