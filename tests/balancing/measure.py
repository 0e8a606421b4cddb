"""Outcomes of calls while replicas behind load balancers fail and restart."""

import asyncio
import random
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

from tests.balancing.balancers import BALANCERS
from tests.balancing.load import Tally, load
from tests.balancing.replicas import kill_one, replicas, restart_all

FAULTS: Final = {"SIGKILL and restart": kill_one, "rolling restart": restart_all}
_WARM_SECONDS: Final = 1.0


class Case(NamedTuple):
    """Measured case: the load balancer, the fault and the clients."""

    balancer: str
    fault: str
    retry: bool


async def measure(names: Sequence[str], rounds: int, seed: int) -> dict[Case, Tally]:
    """Load on all of these load balancers at once, which are before the same replicas.

    Each fault comes so many times. Half of the clients have the shipped retry policy.
    """
    random.seed(seed)
    tallies: dict[Case, Tally] = {}
    async with replicas() as some, AsyncExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory()))
        ports = [replica.port for replica in some]
        balancers = {
            name: await stack.enter_async_context(BALANCERS[name](ports, directory))
            for name in names
        }
        for fault, do in FAULTS.items():
            async with AsyncExitStack() as loads:
                for name, balancer in balancers.items():
                    for retry in (True, False):
                        loading = load(balancer, retry=retry)
                        case = Case(name, fault, retry)
                        tallies[case] = await loads.enter_async_context(loading)
                await asyncio.sleep(_WARM_SECONDS)
                for _ in range(rounds):
                    await do(some)
    return tallies
