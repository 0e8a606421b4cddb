"""A figure: what was measured, and what is demanded of it."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """Measured figure, and the demand on it.

    Attributes:
        name: phrase for the measured quantity.
        value: measured value.
        unit: unit of the value; "" if it has none.
        demanded: demand on the value, for people; "" if the figure only informs.
        ok: True if the value meets the demand.
    """

    name: str
    value: float | int | str
    unit: str
    demanded: str
    ok: bool


def at_most(name: str, value: float, limit: float, unit: str = "") -> Figure:
    return Figure(name, value, unit, f"at most {limit:,}", value <= limit)


def exactly(name: str, value: int | str, wanted: int | str, unit: str = "") -> Figure:
    shown = f"{wanted:,}" if isinstance(wanted, int) else wanted
    return Figure(name, value, unit, shown, value == wanted)


def informs(name: str, value: float | str, unit: str = "") -> Figure:
    """A figure of which nothing is demanded."""
    return Figure(name, value, unit, "", True)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that the given share of the values, from 0 to 1, does not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def failures(name: str, found: Counter[str]) -> Figure:
    """Returns the number of failures, of which none is allowed; prints the failures to stderr."""
    for what, count in found.most_common():
        print(f"{count:,} x {what}", file=sys.stderr)
    return exactly(name, sum(found.values()), 0)
