"""A figure: what was measured, and what is demanded of it."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """See the module.

    Attributes:
        name: what was measured, in a phrase.
        value: what came out.
        unit: of the value; "" if it has none.
        demanded: what is demanded, for people; "" if the figure only informs.
        ok: whether the value is as demanded.
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
    """How many failures there were: none may be. What they were goes to stderr."""
    for what, count in found.most_common():
        print(f"{count:,} x {what}", file=sys.stderr)
    return exactly(name, sum(found.values()), 0)
