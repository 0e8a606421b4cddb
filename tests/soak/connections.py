"""Connections that send nothing, reset their calls, read slowly or write slowly.

Each kind of attacker comes, and is there for a while, in a process of its own, while a bystander
makes small calls at both doors at a steady pace; then it is gone for as long. The bystander's p99
is the median of such rounds. While the attackers come, all at once, it is shown, and not demanded:
that is what the proxy is for that the README puts before the doors. After a flood of resets the
bystander is demanded to be as before within a second; the short form only shows this. No call of
the bystander fails, and afterwards the server has the descriptors that it had before.
"""

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Final, NamedTuple

from tests.soak.beside import Beside, beside
from tests.soak.figure import Figure, at_most, exactly, failures, informs, percentile
from tests.soak.server import Server, running
from tests.soak.until import until

_MIB: Final = 1024 * 1024
_MOST_TIMES_SLOWER: Final = 5.0
_SETTLE_SECONDS: Final = 10.0
_COMING_SECONDS: Final = 3.0
_RECOVERY_SECONDS: Final = 1.0
"""Time after a flood of resets within which the bystander is as before."""

_CUT_SECONDS: Final = 20.0
"""Time after which the gRPC door closes a connection that begins with no HTTP/2."""

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


class _Round(NamedTuple):
    """The bystander's calls of one round, and the report of the attackers."""

    coming: dict[str, list[float]]
    slowed: dict[str, list[float]]
    failed: Counter[str]
    attackers: dict[str, Any]


async def _attacked(server: Server, attack: _Attack, short: bool) -> list[Figure]:
    rounds, seconds = (1, 3.0) if short else (5, 6.0)
    normal: dict[str, list[float]] = {"grpc": [], "http": []}
    slowed: dict[str, list[float]] = {"grpc": [], "http": []}
    coming: dict[str, list[float]] = {"grpc": [], "http": []}
    resets = attack.kind.startswith("resets")
    one_round = _reset if resets else _held
    failed: Counter[str] = Counter()
    cores, grown, speed = 0.0, 0, 0.0
    descriptors = server.descriptors()
    for _ in range(rounds):
        failed += await _bystander(server, seconds, normal)
        before = server.rss_bytes()
        server.reset_peak()
        found = await one_round(server, attack, seconds)
        _add(found.coming, coming)
        _add(found.slowed, slowed)
        failed += found.failed
        cores = found.attackers["cores"]
        speed = found.attackers.get("per_second", 0.0)
        grown = max(grown, server.peak_rss_bytes() - before)
        await until(lambda: server.descriptors() <= descriptors, _SETTLE_SECONDS)
    when = f" from {_RECOVERY_SECONDS:g} s after them" if resets else ""
    slower = informs if short and resets else partial(at_most, limit=_MOST_TIMES_SLOWER)
    figures = [
        *(slower(f"{attack.clients:,} {attack.name}: bystander's p99 at {door}{when}, to normal",
                 statistics.median(slowed[door]) / statistics.median(normal[door]), unit="times")
          for door in normal),
        informs(f"{attack.name}: these p99, gRPC and HTTP", _both(slowed), "ms"),
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


async def _held(server: Server, attack: _Attack, seconds: float) -> _Round:
    """A round of attackers that come, and stay until the bystander has called for so long."""
    async with _attackers(server, attack) as attackers:
        async with beside("bystander", server.grpc, server.http) as bystander:
            attackers.go()
            await asyncio.sleep(_COMING_SECONDS)
            coming = await bystander.found()
        async with beside("bystander", server.grpc, server.http) as bystander:
            await asyncio.sleep(seconds)
            slowed = await bystander.found()
        attacked = await attackers.found()
    failed = Counter(coming["failures"] + slowed["failures"])
    return _Round(_times(coming), _times(slowed), failed, attacked)


async def _reset(server: Server, attack: _Attack, seconds: float) -> _Round:
    """A round of resets, with the bystander meanwhile and for so long after the recovery."""
    async with (
        _attackers(server, attack) as attackers,
        beside("bystander", server.grpc, server.http) as bystander,
    ):
        attackers.go()
        attacked = await attackers.found()
        over = time.monotonic()
        await asyncio.sleep(_RECOVERY_SECONDS + seconds)
        found = await bystander.found()
    coming = _times(found, lambda due: due < over)
    slowed = _times(found, lambda due: due >= over + _RECOVERY_SECONDS)
    return _Round(coming, slowed, Counter(found["failures"]), attacked)


def _attackers(server: Server, attack: _Attack) -> AbstractAsyncContextManager[Beside]:
    address = server.grpc if attack.door == "grpc" else server.http
    return beside("attackers", attack.kind, address, attack.clients)


def _times(
    found: dict[str, Any], chosen: Callable[[float], bool] = lambda due: True
) -> dict[str, list[float]]:
    """The milliseconds of the bystander's calls at each door that were due at a chosen time."""
    return {
        door: [took for due, took in zip(dues, found[door], strict=True) if chosen(due)]
        for door, dues in found["due"].items()
    }


def _both(times: dict[str, list[float]]) -> str:
    return " and ".join(f"{statistics.median(times[door]):.1f}" for door in times)


async def _bystander(
    server: Server, seconds: float, into: dict[str, list[float]] | None = None
) -> Counter[str]:
    """Lets the bystander call for so long; returns the calls that failed."""
    async with beside("bystander", server.grpc, server.http) as bystander:
        await asyncio.sleep(seconds)
        found = await bystander.found()
    _add(_times(found), into if into is not None else {})
    return Counter(found["failures"])


def _add(found: dict[str, list[float]], into: dict[str, list[float]]) -> None:
    """Adds the p99 of each door."""
    for door, times in into.items():
        times.append(percentile(found[door], 0.99))


async def _cut_off(server: Server) -> Figure:
    """The connections without HTTP/2 that the gRPC door closes itself, in time."""
    count = 100
    async with beside("attackers", "silent", server.grpc, count) as silent:
        silent.go()
        await asyncio.sleep(_CUT_SECONDS + 3)
        closed = (await silent.found())["closed"]
    name = f"silent at the gRPC door: closed by the server after {_CUT_SECONDS:g} s"
    return exactly(name, closed, count, "")
