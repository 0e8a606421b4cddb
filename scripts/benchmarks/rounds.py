"""Interleaved rounds: candidates take turns, so that only ratios of the same rounds are compared.

All benchmarks print the rows of one table: `print_row`.
"""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NamedTuple, TypeAlias

_MOST_ROUND_SECONDS: Final = 0.02
_ROUNDS: Final = 10
_FEWEST_ROUNDS: Final = 5
_FEWEST_CALLS: Final = 3


class Ratio(NamedTuple):
    """Median of the ratios of two candidates' times, round by round, and their quartiles."""

    median: float
    low: float
    high: float

    def per(self, units: float) -> "Ratio":
        """Ratio for one of so many units."""
        return Ratio(*(value / units for value in self))

    def __str__(self) -> str:
        digits = 2 if self.median < 9.95 else 1 if self.median < 99.5 else 0
        spread = f"{self.low:.{digits}f}-{self.high:.{digits}f}"
        return f"{self.median:.{digits}f} ({spread})"


class Rounds(dict[str, list[float]]):
    """Seconds of each candidate in each round."""

    def seconds(self, name: str) -> float:
        """Median time of a candidate."""
        return statistics.median(self[name])

    def ratio(self, numerator: str, denominator: str) -> Ratio:
        """Ratio of the times of two candidates in the same rounds."""
        pairs = zip(self[numerator], self[denominator], strict=True)
        low, median, high = statistics.quantiles([a / b for a, b in pairs], n=4)
        return Ratio(median, low, high)


def measured(candidates: Mapping[str, Callable[[], object]], seconds: float) -> Rounds:
    """Runs the candidates in turn for about so many seconds.

    A time is the CPU time of the thread, which other programs on the machine disturb least.
    """
    most = min(seconds / _ROUNDS / len(candidates), _MOST_ROUND_SECONDS)
    counts = {name: max(1, int(most / _once(run))) for name, run in candidates.items()}
    rounds = Rounds({name: [] for name in candidates})
    deadline = time.perf_counter() + seconds
    done = 0
    while time.perf_counter() < deadline or done < _FEWEST_ROUNDS:
        done += 1
        for name, run in candidates.items():
            start = time.thread_time()
            for _ in range(counts[name]):
                run()
            rounds[name].append((time.thread_time() - start) / counts[name])
    return rounds


def _once(run: Callable[[], object]) -> float:
    run()  # The first run may compile or allocate something.
    start = time.thread_time()
    run()
    return max(time.thread_time() - start, 1e-7)


async def measured_calls(
    candidates: Mapping[str, Callable[[], Awaitable[object]]], seconds: float
) -> Rounds:
    """Awaits the candidates in turn for about so many seconds; a time is that of the clock."""
    rounds = Rounds({name: [] for name in candidates})
    for run in candidates.values():
        await run()
    deadline = time.perf_counter() + seconds
    done = 0
    while time.perf_counter() < deadline or done < _FEWEST_CALLS:
        done += 1
        for name, run in candidates.items():
            await asyncio.sleep(0)
            start = time.perf_counter()
            await run()
            rounds[name].append(time.perf_counter() - start)
    return rounds


Figure: TypeAlias = Ratio | float | str


def print_row(row: str, ours: str, figures: Mapping[str, Figure]) -> None:
    """Prints a row of the table: a subject, our figure, and how we compare with each peer."""
    shown = (
        f"{peer} {figure:.2f}" if isinstance(figure, float) else f"{peer} {figure}"
        for peer, figure in figures.items()
    )
    print(f"{row:54}{ours:>15}   {'; '.join(shown)}", flush=True)


def time_of(seconds: float) -> str:
    """Time for the table."""
    return f"{seconds * 1e6:,.1f} us" if seconds < 1e-3 else f"{seconds * 1e3:,.2f} ms"
