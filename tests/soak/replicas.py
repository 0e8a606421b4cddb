"""More than one machine: three replicas behind each of the shipped load balancers.

Under load, one is ended by SIGKILL and started again; then each by SIGTERM, in a rolling restart.
With the shipped retry policy no call may fail. A stream that had begun when its replica was killed
is counted apart: it may have cost, so nothing but its caller may try it again.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from tests.balancing.balancers import BALANCERS
from tests.balancing.load import Tally
from tests.balancing.measure import Case, measure
from tests.soak.figure import Figure, exactly, informs

_ROUNDS: Final = 5


async def run(short: bool, seed: int) -> list[Figure]:
    """In short all load balancers at once, and each fault once."""
    figures: list[Figure] = []
    for names in [list(BALANCERS)] if short else [[name] for name in BALANCERS]:
        figures += _figures(await measure(names, 1 if short else _ROUNDS, seed))
    return figures


def _figures(tallies: Mapping[Case, Tally]) -> Iterator[Figure]:
    for case, tally in tallies.items():
        killing = "SIGKILL" in case.fault
        name = f"{case.balancer}, {case.fault}, {'' if case.retry else 'no '}retry policy"
        calls = sum(tally.done.values()) + len(tally.failed) + len(tally.cut)
        failed = f"{name}: failed of {calls:,}"
        cut = f"{name}: streams cut"
        if not case.retry:
            yield informs(failed, len(tally.failed), "calls")
            continue
        yield exactly(failed, len(tally.failed), 0, "calls")
        yield (
            informs(cut, len(tally.cut), "calls")
            if killing
            else exactly(cut, len(tally.cut), 0, "calls")
        )
        yield informs(f"{name}: longest call", tally.longest, "s")
