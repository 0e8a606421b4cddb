"""Requests that cost much for their size: small calls beside each wait little.

A bystander makes small calls at both doors. A busy machine delays the bystander too: so the demand
is on the median over the kinds, and grows with the waits of the bystander alone. The time on a core
is demanded as well, which other processes change little.
"""

import asyncio
import time
from typing import Any, Final, NamedTuple

import grpc

from tests.soak.beside import beside
from tests.soak.figure import Figure, at_most, exactly, informs, percentile
from tests.soak.outcome import OK, Outcome, channel_to, of_call, of_post, of_stream
from tests.soak.server import Server, running
from tests.soak.stall_kinds import CONVERT, RESPONSES, Kind, other_kinds, value_kinds

MIB: Final = 1024 * 1024
SMALL: Final = MIB - 1000
LARGE: Final = 32 * MIB - 1000
_FLAGS: Final = ("--max-json-bytes", str(32 * MIB))
_TIMEOUT: Final = 120
_PAUSE_SECONDS: Final = 0.1
_QUIET_MS: Final = 100
_BUSY_FACTOR: Final = 10
_ALONE_SECONDS: Final = 0.3
_TIMES_ALONE: Final = 9
_CPU_SECONDS: Final = 60
_AT_ONCE: Final = 100
_SERVED_SECONDS: Final = 20
_SENT_SECONDS: Final = 3.0


class Sent(NamedTuple):
    """Request that was sent: its name, its time, the seconds on a core, and its outcome."""

    name: str
    start: float
    end: float
    cpu_seconds: float
    outcome: Outcome


async def run(short: bool, seed: int) -> list[Figure]:
    values, others = value_kinds(), other_kinds()
    if short:
        values = values[: len(values) // 8]
    requests = [(kind, LARGE) for kind in values] + [(kind, SMALL) for kind in others]
    requests += [] if short else [(kind, LARGE) for kind in others]
    return [*await alone(requests), *await _at_once()]


async def alone(requests: list[tuple[Kind, int]], shown: bool = False) -> list[Figure]:
    """Sends each request alone, beside a bystander."""
    sent: list[Sent] = []
    async with running(*_FLAGS) as server, beside("bystander", server.grpc, server.http) as calls:
        begin = time.monotonic()
        await asyncio.sleep(_TIMES_ALONE * _ALONE_SECONDS)
        async with channel_to(server.grpc) as channel:
            for kind, size in requests:
                sent.append(await _send(kind, size, server, channel))
        found = await calls.found()
    waited = [_waited(found, each.start, each.end) for each in sent]
    starts = [begin + number * _ALONE_SECONDS for number in range(_TIMES_ALONE)]
    usual = percentile([_waited(found, at, at + _ALONE_SECONDS) for at in starts], 0.5)
    slowest = max(zip(waited, sent, strict=True), key=lambda pair: pair[0])
    dearest = max(sent, key=lambda each: each.cpu_seconds)
    for milliseconds, each in zip(waited, sent, strict=True) if shown else ():
        print(f"{each.name:62} {milliseconds:6.0f} ms {each.cpu_seconds:5.2f} s {each.outcome}")
    return [
        exactly("small calls that failed", len(found["failures"]), 0),
        informs("longest wait without such a request, median", usual, "ms"),
        at_most(f"longest wait beside each of {len(sent)} requests, median",
                percentile(waited, 0.5), round(_QUIET_MS + _BUSY_FACTOR * usual), "ms"),
        informs("longest wait, 9 of 10", percentile(waited, 0.9), "ms"),
        informs("longest wait: " + slowest[1].name, slowest[0], "ms"),
        at_most("most time on a core: " + dearest.name, dearest.cpu_seconds, _CPU_SECONDS, "s"),
    ]  # fmt: skip


async def _send(kind: Kind, size: int, server: Server, channel: grpc.aio.Channel) -> Sent:
    body = kind.body(size)
    await asyncio.sleep(_PAUSE_SECONDS)
    cpu, start = server.cpu_seconds(), time.monotonic()
    outcome = await _outcome(kind, body, server, channel)
    end = time.monotonic()
    await asyncio.sleep(_PAUSE_SECONDS)
    name = f"{kind.name}, {len(body) // 1024:,} KiB"
    return Sent(name, start, end, server.cpu_seconds() - cpu, outcome)


async def _outcome(kind: Kind, body: bytes, server: Server, channel: grpc.aio.Channel) -> Outcome:
    if kind.path in (RESPONSES, CONVERT):
        return await of_post(server.http, body, kind.path)
    call: Any = channel.stream_stream(kind.path)
    return await of_stream(call(iter([body]), timeout=_TIMEOUT))


def _waited(found: dict[str, Any], start: float, end: float) -> float:
    """Longest wait of a small call from `start` to `end` at either door, in milliseconds."""
    calls = [
        call for door in found["due"] for call in zip(found["due"][door], found[door], strict=True)
    ]
    return max((wait for due, wait in calls if start - 0.05 <= due <= end), default=0.0)


async def _at_once() -> list[Figure]:
    """Cancels many large requests at once, and then makes one."""
    kind = next(kind for kind in value_kinds() if kind.name == "ParseCall: a string of letters")
    body = kind.body(8 * MIB)
    async with running(*_FLAGS) as server, channel_to(server.grpc) as channel:
        method: Any = channel.unary_unary(kind.path)
        calls = [asyncio.ensure_future(of_call(method(body))) for _ in range(_AT_ONCE)]
        await asyncio.wait(calls, timeout=_SENT_SECONDS)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        start, cpu = time.monotonic(), server.cpu_seconds()
        outcome = await of_call(method(body, timeout=_TIMEOUT))
        took = time.monotonic() - start
        await asyncio.sleep(1)
        spent = server.cpu_seconds() - cpu
    name = f"after {_AT_ONCE} of 8 MiB at once, cancelled, one more"
    return [
        exactly(name, str(outcome), OK),
        at_most(name + ": takes", took, _SERVED_SECONDS, "s"),
        informs(name + ": on a core", spent, "s"),
    ]
