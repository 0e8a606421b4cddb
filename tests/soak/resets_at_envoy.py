"""Resets as fast as they go, at three replicas behind Envoy with the shipped configuration.

What is before the server where strangers may come is to keep their resets from it. The bystander's
p99 is the median of rounds, taken while they come.
"""

import asyncio
import statistics
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Final

from tests.balancing.balancers import envoy
from tests.balancing.replicas import replicas
from tests.soak.beside import beside
from tests.soak.figure import Figure, at_most, failures, informs, percentile

_RESETS: Final = 20_000
_KINDS: Final = {"resets": "resets", "resets_of_requests": "resets of whole requests"}
_MOST_TIMES_SLOWER: Final = 5.0


async def run(short: bool, seed: int) -> list[Figure]:
    """In short each once, and how much slower the bystander is, is told and not demanded."""
    rounds, seconds = (1, 3.0) if short else (5, 6.0)
    figures: list[Figure] = []
    async with replicas() as some:
        with tempfile.TemporaryDirectory() as directory:
            async with envoy([replica.port for replica in some], Path(directory)) as balancer:
                await _bystander(balancer.target, 1)  # To warm it up.
                for kind, name in _KINDS.items():
                    figures += await _attacked(balancer.target, kind, name, rounds, seconds, short)
    return figures


async def _attacked(
    address: str, kind: str, name: str, rounds: int, seconds: float, short: bool
) -> list[Figure]:
    normal: list[float] = []
    attacked: list[float] = []
    speeds: list[float] = []
    failed: Counter[str] = Counter()
    for _ in range(rounds):
        usual, failures_before = await _bystander(address, seconds)
        async with (
            beside("attackers", kind, address, _RESETS) as attackers,
            beside("bystander", address) as bystander,
        ):
            attackers.go()
            speeds.append((await attackers.found())["per_second"])
            found = await bystander.found()
        normal.append(usual)
        attacked.append(percentile(found["grpc"], 0.99))
        failed += failures_before + Counter(found["failures"])
    times = statistics.median(attacked) / statistics.median(normal)
    while_coming = informs if short else partial(at_most, limit=_MOST_TIMES_SLOWER)
    return [
        while_coming(f"{_RESETS:,} {name}: p99 while they come, to normal", times, unit="times"),
        informs(f"{name}: this p99", statistics.median(attacked), "ms"),
        failures(f"{name}: bystander's calls that failed", failed),
        informs(f"{name}: of them in a second", statistics.median(speeds)),
    ]


async def _bystander(address: str, seconds: float) -> tuple[float, Counter[str]]:
    """Lets the bystander call for so long: its p99, in milliseconds, and the calls that failed."""
    async with beside("bystander", address) as bystander:
        await asyncio.sleep(seconds)
        found = await bystander.found()
    return percentile(found["grpc"], 0.99), Counter(found["failures"])
