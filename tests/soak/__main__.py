"""Runs the scenarios, one after another, and prints their figures.

A scenario is a module of this package with a function `run(short, seed)`, whose docstring says what
it shows.
"""

import argparse
import asyncio
import importlib
import os
import random
import sys
import time
import traceback
from typing import Final

from tests.soak.beside import beside
from tests.soak.figure import Figure, informs, percentile

SCENARIOS: Final = (
    "limits",
    "fuzzing",
    "bombs",
    "memory",
    "stalls",
    "damages",
    "deadlines",
    "upstream_faults",
    "connections",
    "shutdown",
    "mixed",
    "replicas",
    "resets_at_envoy",
    "memory_at_envoy",
)
_BY_NAME: Final = ("memory", "memory_at_envoy", "stalls")
"""Scenarios that --short runs only by name: they take minutes, and need a quiet machine."""

_MAX_SECONDS: Final = 3600
_ROW: Final = "{:<16} {:<66} {:>16}  {:<22} {}"


async def _figures(scenario: str, short: bool, seed: int) -> list[Figure]:
    """Returns the figures of a scenario; a failed figure if the scenario raises an exception."""
    try:
        module = importlib.import_module(f"tests.soak.{scenario}")
        async with asyncio.timeout(_MAX_SECONDS), beside("hiccups") as idle:
            figures: list[Figure] = await module.run(short, seed)
            waited: list[float] = (await idle.found())["milliseconds"]
    except Exception as error:  # Any failure is a row of its scenario; other scenarios follow.
        traceback.print_exc()
        return [Figure("runs to its end", type(error).__name__, "", "no exception", False)]
    both = f"{percentile(waited, 0.99):.1f} and {max(waited):.1f}"
    return [*figures, informs("an idle process waited for a core: p99 and worst", both, "ms")]


def _value(figure: Figure) -> str:
    match figure.value:
        case float(value):
            shown = f"{value:,.2f}"
        case int(value):
            shown = f"{value:,}"
        case value:
            shown = value
    return f"{shown} {figure.unit}".strip()


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument(
        "--short",
        action="store_true",
        help=f"in a few minutes; without {', '.join(_BY_NAME)}, which runs by name",
    )
    parser.add_argument("--seed", type=int, help="of what is random (default: another each time)")
    parser.add_argument(
        "scenarios",
        nargs="*",
        metavar="SCENARIO",
        help=f"which to run, of {', '.join(SCENARIOS)} (default: all)",
    )
    options = parser.parse_args()
    for name in options.scenarios:
        if name not in SCENARIOS:
            parser.error(f"there is no scenario {name}; there are {', '.join(SCENARIOS)}")
    seed = random.randrange(2**32) if options.seed is None else options.seed
    print(f"seed {seed}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
    print(_ROW.format("scenario", "figure", "value", "demanded", ""), flush=True)
    failed: list[str] = []
    skipped = _BY_NAME if options.short else ()
    for scenario in options.scenarios or [name for name in SCENARIOS if name not in skipped]:
        start = time.monotonic()
        for figure in asyncio.run(_figures(scenario, options.short, seed)):
            verdict = "ok" if figure.ok else "FAILED"
            row = _ROW.format(scenario, figure.name, _value(figure), figure.demanded, verdict)
            print(row)
            if not figure.ok:
                failed.append(row)
        print(_ROW.format(scenario, "time taken", f"{time.monotonic() - start:,.0f} s", "", ""))
        sys.stdout.flush()
    print(f"{len(failed)} FAILED:" if failed else "all as demanded", *failed, sep="\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
