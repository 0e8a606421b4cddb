"""Strangers who fill the memory of three replicas behind Envoy with the shipped configuration.

gRPC's core holds all that has arrived of a message, and the server does not learn of the message
until it ends: so Envoy limits the streams of ConvertCalls, and resets the largest streams if its
own memory is scarce.
"""

import asyncio
import tempfile
from pathlib import Path
from typing import Final

from tests.balancing.balancers import Balancer, envoy
from tests.balancing.replicas import Replica, replicas
from tests.soak.figure import Figure, at_most, exactly
from tests.soak.memory import outcome_of_small_call
from tests.soak.server import peak_rss_bytes
from tests.soak.unread import unread_calls

_MIB: Final = 1024 * 1024
_PEAK_MIB: Final = 1024
_HELD_SECONDS: Final = 4
_SERVICE: Final = "/imagecall.v1.ConversionService/"
_ATTACKS: Final = {
    "unfinished messages of ConvertCalls of 31 MiB": ("ConvertCalls", 31 * _MIB, 200),
    "unfinished requests of ParseCall of 1 MiB": ("ParseCall", _MIB - 1024, 2000),
}
"""Method, bytes that are sent of each message, and number of calls, by the name of the attack."""


async def run(short: bool, seed: int) -> list[Figure]:
    """Runs each attack against replicas of its own, in short with half of the calls."""
    figures: list[Figure] = []
    for name, (method, size, count) in _ATTACKS.items():
        async with replicas() as some:
            with tempfile.TemporaryDirectory() as directory:
                async with envoy([replica.port for replica in some], Path(directory)) as balancer:
                    calls = count // 2 if short else count
                    figures += await _attacked(balancer, some, name, method, size, calls)
    return figures


async def _attacked(
    balancer: Balancer, some: list[Replica], name: str, method: str, size: int, count: int
) -> list[Figure]:
    messages = [bytes(size)]
    writers = await unread_calls(balancer.target, _SERVICE + method, messages, count, whole=False)
    await asyncio.sleep(_HELD_SECONDS)
    served = await outcome_of_small_call(balancer.target, some[0].target)
    for writer in writers:
        writer.transport.abort()
    replica = max(peak_rss_bytes(each.pid) for each in some) / _MIB
    return [
        at_most(f"{count:,} {name}: peak of a replica", replica, _PEAK_MIB, "MiB"),
        at_most(f"{name}: peak of Envoy", peak_rss_bytes(balancer.pid) / _MIB, _PEAK_MIB, "MiB"),
        exactly(f"{name}: a small call, and health", served, "OK SERVING"),
    ]
