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


async def test_a_timer_that_is_started_again_begins_anew() -> None:
    timers = Timers[str](3600, print)
    for name in ("first", "second", "first"):
        timers.start(name)
    assert [timers.take_oldest(0) for _ in range(3)] == ["second", "first", None]


async def test_timers_go_on_after_an_end_that_fails() -> None:
    ended: list[str] = []
    failures: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, said: failures.append(said))

    def end(name: str) -> None:
        if name == "faulty":
            raise RuntimeError(name)
        ended.append(name)

    timers = Timers(0.01, end)
    for name in ("faulty", "next"):
        timers.start(name)
    await until(lambda: bool(ended))
    timers.start("last")
    await until(lambda: len(ended) == 2)
    assert ended == ["next", "last"]
    assert len(failures) == 1


def test_timers_of_a_closed_event_loop_are_forgotten() -> None:
    ended: list[str] = []
    timers = Timers(0.01, ended.append)

    async def start(name: str) -> None:
        timers.start(name)

    asyncio.run(start("lost"))
    asyncio.run(ends_of(timers, ended))
    assert ended == ["first", "last"]
