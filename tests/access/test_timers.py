"""Timers of equal length, of which the event loop holds one."""

import asyncio
from collections.abc import Sequence

from imagecall.access.timers import Timers
from tests.until import until


async def ends_of(timers: Timers[str], ended: Sequence[str]) -> None:
    """Starts three timers, stops the second, and waits for the ends of the others."""
    for name in ("first", "stopped", "last"):
        timers.start(name)
    timers.stop("stopped")
    await until(lambda: len(ended) == 2)


def test_timers_end_in_the_order_of_their_starts_also_in_the_next_event_loop() -> None:
    ended: list[str] = []
    timers = Timers(0.01, ended.append)
    for _ in range(2):
        asyncio.run(ends_of(timers, ended))
        assert ended == ["first", "last"]
        ended.clear()


def test_timers_end_in_another_event_loop_than_the_one_that_was_closed_before() -> None:
    ended: list[str] = []
    timers = Timers(0.01, ended.append)

    async def start_and_stop() -> None:
        timers.start("early")
        timers.stop("early")

    asyncio.run(start_and_stop())
    asyncio.run(ends_of(timers, ended))
    assert ended == ["first", "last"]


async def test_the_oldest_timer_is_taken_once_it_is_old_enough() -> None:
    ended: list[str] = []
    timers = Timers(3600, ended.append)
    assert timers.take_oldest(0) is None
    timers.start("first")
    timers.start("last")
    assert timers.take_oldest(3600) is None
    assert [timers.take_oldest(0) for _ in range(3)] == ["first", "last", None]
    assert not ended
