"""Connections that say nothing, reset what they begin, read slowly or write slowly.

Each kind of attacker comes, and is there for a while, in a process of its own, while a bystander
makes small calls at both doors at a steady pace; then it is gone for as long. The bystander's p99
is the median of such rounds; while the attackers come, all at once, it is told apart. Resets are
over when they have come. The short form tells how it is while they come, and demands nothing of it.
Afterwards the server has the descriptors that it had before.
"""

import asyncio
import statistics
from collections import Counter
from functools import partial
from typing import Any, Final, NamedTuple

from tests.soak.beside import beside
from tests.soak.figure import Figure, at_most, exactly, failures, informs, percentile
from tests.soak.server import Server, running
from tests.soak.until import until

_MIB: Final = 1024 * 1024
_MOST_TIMES_SLOWER: Final = 5.0
_SETTLE_SECONDS: Final = 10.0
_COMING_SECONDS: Final = 3.0
_CUT_SECONDS: Final = 20.0
"""After how long the server closes a connection that does not come to the point."""

_SLOW_MIB: Final = 8.0
"""Allowed memory per slow reader. All read one image, which the embedded backend holds once.

With an API as backend, the HTTP door would hold each image once, as the JSON before an image comes
after the image's chunks.
"""


class _Attack(NamedTuple):
    name: str
    kind: str
    door: str
    clients: int


_ATTACKS: Final = (
    _Attack("silent connections to gRPC", "silent", "grpc", 2000),
    _Attack("connections that greet gRPC", "greeting", "grpc", 2000),
    _Attack("silent connections to HTTP", "silent", "http", 2000),
    _Attack("slow heads to HTTP", "stalled_head", "http", 500),
    _Attack("slow bodies to HTTP", "stalled_body", "http", 1100),
    _Attack("slow readers of gRPC, 20 MB each", "slow_grpc", "grpc", 20),
    _Attack("slow readers of HTTP, 20 MB each", "slow_http", "http", 20),
    _Attack("resets", "resets", "grpc", 20_000),
    _Attack("resets of whole requests", "resets_of_requests", "grpc", 20_000),
    _Attack("resets at 5,000 a second", "resets_at_a_pace", "grpc", 20_000),
)


async def run(short: bool, seed: int) -> list[Figure]:
    figures: list[Figure] = []
    async with running() as server, running() as other, asyncio.TaskGroup() as group:
        cutting = group.create_task(_cut_off(other))
        await _bystander(server, 1)  # To warm it up.
        for attack in _ATTACKS:
            figures += await _attacked(server, attack, short)
        return [*figures, await cutting]


async def _attacked(server: Server, attack: _Attack, short: bool) -> list[Figure]:
    rounds, seconds = (1, 3.0) if short else (5, 6.0)
    normal: dict[str, list[float]] = {"grpc": [], "http": []}
    slowed: dict[str, list[float]] = {"grpc": [], "http": []}
    coming: dict[str, list[float]] = {"grpc": [], "http": []}
    resets = attack.kind.startswith("resets")
    failed: Counter[str] = Counter()
    cores, grown, speed = 0.0, 0, 0.0
    descriptors = server.descriptors()
    for _ in range(rounds):
        failed += await _bystander(server, seconds, normal)
        before = server.rss_bytes()
        server.reset_peak()
        address = server.grpc if attack.door == "grpc" else server.http
        async with beside("attackers", attack.kind, address, attack.clients) as attackers:
            async with beside("bystander", server.grpc, server.http) as bystander:
                attackers.go()
                if resets:
                    attacked = await attackers.found()
                else:
                    await asyncio.sleep(_COMING_SECONDS)
                failed += _add(await bystander.found(), coming)
            if not resets:
                failed += await _bystander(server, seconds, slowed)
                attacked = await attackers.found()
        cores = attacked["cores"]
        speed = attacked.get("per_second", 0.0)
        grown = max(grown, server.peak_rss_bytes() - before)
        await until(lambda: server.descriptors() <= descriptors, _SETTLE_SECONDS)
    figures = [
        at_most(f"{attack.clients:,} {attack.name}: bystander's p99 at {door}, to normal",
                statistics.median(slowed[door]) / statistics.median(normal[door]),
                _MOST_TIMES_SLOWER, "times")
        for door in normal if not resets
    ]  # fmt: skip
    while_coming = informs if short else partial(at_most, limit=_MOST_TIMES_SLOWER)
    figures += [
        while_coming(f"{attack.clients:,} {attack.name}: p99 at {door} while they come, to normal",
                     statistics.median(coming[door]) / statistics.median(normal[door]),
                     unit="times")
        for door in normal
    ]  # fmt: skip
    if not resets:
        figures.append(informs(f"{attack.name}: these p99, gRPC and HTTP", _both(slowed), "ms"))
    figures += [
        informs(f"{attack.name}: p99 while they come", _both(coming), "ms"),
        failures(f"{attack.name}: bystander's calls that failed", failed),
        exactly(f"{attack.name}: descriptors more, afterwards",
                max(0, server.descriptors() - descriptors), 0),
        informs(f"{attack.name}: the attacker took", cores, "cores"),
    ]  # fmt: skip
    if speed:
        figures.append(informs(f"{attack.name}: of them in a second", speed))
    if attack.kind.startswith("slow_"):
        name = f"{attack.name}: memory for each, at most"
        cost = grown / _MIB / attack.clients
        figures.append(at_most(name, cost, _SLOW_MIB, "MiB"))
    return figures


def _both(times: dict[str, list[float]]) -> str:
    return " and ".join(f"{statistics.median(times[door]):.1f}" for door in times)


async def _bystander(
    server: Server, seconds: float, into: dict[str, list[float]] | None = None
) -> Counter[str]:
    """Lets the bystander call for so long; the calls that failed."""
    async with beside("bystander", server.grpc, server.http) as bystander:
        await asyncio.sleep(seconds)
        return _add(await bystander.found(), into if into is not None else {})


def _add(found: dict[str, Any], into: dict[str, list[float]]) -> Counter[str]:
    for door, times in into.items():
        times.append(percentile(found[door], 0.99))
    return Counter(found["failures"])


async def _cut_off(server: Server) -> Figure:
    """Counts the idle and unfinished connections that the server closes in time."""
    count = 100
    async with (
        beside("attackers", "silent", server.grpc, count) as silent_grpc,
        beside("attackers", "silent", server.http, count) as silent_http,
        beside("attackers", "stalled_head", server.http, count) as slow_heads,
    ):
        for attackers in (silent_grpc, silent_http, slow_heads):
            attackers.go()
        await asyncio.sleep(_CUT_SECONDS + 3)
        closed = 0
        for attackers in (silent_grpc, silent_http, slow_heads):
            closed += (await attackers.found())["closed"]
    name = f"silent at both doors, slow heads: closed by the server after {_CUT_SECONDS:g} s"
    return exactly(name, closed, 3 * count, "")
