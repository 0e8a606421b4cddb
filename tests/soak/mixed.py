"""Ten minutes of mixed load over both doors: no call fails, memory and descriptors stay flat.

The load is that of tests/soak/mixed_load.py, in a process of its own: items small and of 2 MB,
hundreds on a stream, items in chunks, images of 2 and 20 MB, plain and as events, over gRPC and
HTTP, refusals and cancellations. The slope of the memory is that of least squares over samples
taken twice a second, after a warm-up; a short run is too short for it, and demands less.
Descriptors are counted without load, before and after.
"""

import asyncio
import time
from collections import Counter
from typing import Final

from tests.soak.beside import beside
from tests.soak.figure import Figure, at_most, exactly, failures, informs
from tests.soak.server import Server, running
from tests.soak.until import until

_MIB: Final = 1024 * 1024
_SAMPLE_SECONDS: Final = 0.5
_MOST_MIB_A_MINUTE: Final = 1.0
_MOST_WHEN_SHORT: Final = 60.0
"""In so short a time the allocator has not settled; this finds a leak of 20 KB a call."""


async def run(short: bool, seed: int) -> list[Figure]:
    warm_up, seconds = (15.0, 45.0) if short else (120.0, 600.0)
    async with running() as server:
        async with beside("mixed_load", server.grpc, server.http, seed) as load:
            await asyncio.sleep(3)
            await load.found()
        await asyncio.sleep(1)
        descriptors = server.descriptors()
        cpu, start = server.cpu_seconds(), time.monotonic()
        async with beside("mixed_load", server.grpc, server.http, seed) as load:
            samples = await _samples(server, seconds)
            found = await load.found()
        took = time.monotonic() - start
        share = (server.cpu_seconds() - cpu) / took
        await until(lambda: server.descriptors() <= descriptors, 10)
        more = server.descriptors() - descriptors
    made: Counter[str] = Counter(found["made"])
    slope = _slope([sample for sample in samples if sample[0] >= warm_up])
    return [
        failures(f"{sum(made.values()):,} calls of {len(made)} kinds: failed",
                 Counter(found["failed"])),
        at_most(f"memory slope from {warm_up:g} s to {seconds:g} s", slope / _MIB * 60,
                _MOST_WHEN_SHORT if short else _MOST_MIB_A_MINUTE, "MiB/min"),
        informs("memory at the end", samples[-1][1] / _MIB, "MiB"),
        informs("memory at its peak", max(size for _, size in samples) / _MIB, "MiB"),
        exactly("descriptors more, afterwards", more, 0),
        informs("calls in a second", sum(made.values()) / took),
        informs("the server took", share, "cores"),
        informs("the load took", found["cores"], "cores"),
    ]  # fmt: skip


async def _samples(server: Server, seconds: float) -> list[tuple[float, int]]:
    """For so long: the time, and the memory then."""
    start = time.monotonic()
    samples = []
    while (now := time.monotonic() - start) < seconds:
        samples.append((now, server.rss_bytes()))
        await asyncio.sleep(_SAMPLE_SECONDS)
    return samples


def _slope(samples: list[tuple[float, int]]) -> float:
    """Bytes in a second, by least squares."""
    mean_time = sum(at for at, _ in samples) / len(samples)
    mean_size = sum(size for _, size in samples) / len(samples)
    above = sum((at - mean_time) * (size - mean_size) for at, size in samples)
    return above / sum((at - mean_time) ** 2 for at, _ in samples)
