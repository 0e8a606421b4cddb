"""Offloaded work: it goes piece by piece, and ends with its call."""

import asyncio
import threading
import time
from collections.abc import Callable

import pytest

from imagecall.errors import ConversionError
from imagecall.generation import offload
from imagecall.generation.offload import offloaded, run_offloaded
from imagecall.json.diagnosis import diagnose
from imagecall.json.text import parse
from imagecall.sizes import OFFLOAD
from imagecall.turns import take_turn

WAIT = 30


def endless(started: Callable[[], object]) -> None:
    started()
    while True:
        take_turn()


async def test_small_work_runs_inline_and_large_work_in_a_thread() -> None:
    here = threading.get_ident()
    assert await run_offloaded(OFFLOAD - 1, threading.get_ident) == here
    assert await run_offloaded(OFFLOAD, threading.get_ident) != here


async def test_an_error_of_the_work_reaches_its_caller() -> None:
    with pytest.raises(ConversionError, match="not JSON"):
        await offloaded(parse, b"[")


async def test_the_loop_runs_between_the_pieces_of_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offload, "_PIECE_SECONDS", 0.0)
    loop = asyncio.get_running_loop()
    ran = threading.Semaphore(0)

    def work() -> None:
        for _ in range(20):
            take_turn()
            loop.call_soon_threadsafe(ran.release)
            assert ran.acquire(timeout=WAIT)

    await asyncio.gather(*(offloaded(work) for _ in range(3)))


async def test_one_piece_of_all_work_runs_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offload, "_PIECE_SECONDS", 0.0)
    running, most = 0, 0

    def work() -> None:
        nonlocal running, most
        take_turn()
        for _ in range(20):
            running += 1
            most = max(most, running)
            time.sleep(0.001)
            running -= 1
            take_turn()

    await asyncio.gather(*(offloaded(work) for _ in range(3)))
    assert most == 1


async def test_work_ends_when_its_call_has_ended_and_the_threads_are_free_again() -> None:
    started = threading.Semaphore(0)
    calls = [asyncio.ensure_future(offloaded(endless, started.release)) for _ in range(100)]
    await asyncio.to_thread(started.acquire, timeout=WAIT)
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    async with asyncio.timeout(WAIT):
        assert await asyncio.gather(*(offloaded(int) for _ in range(8))) == [0] * 8


async def test_work_that_leaves_the_queue_for_its_turn_does_not_keep_it_from_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(offload, "_PIECE_SECONDS", 0.0)
    monkeypatch.setattr(offload, "_WAIT_SECONDS", 0.01)
    holds, release, waits = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        take_turn()
        holds.set()
        release.wait(WAIT)

    def second() -> None:
        waits.set()
        take_turn()

    working = asyncio.ensure_future(offloaded(first))
    await asyncio.to_thread(holds.wait, WAIT)
    waiting = asyncio.ensure_future(offloaded(second))
    await asyncio.to_thread(waits.wait, WAIT)
    await asyncio.sleep(0.05)
    waiting.cancel()
    await asyncio.sleep(0.05)  # The second has left.
    release.set()
    await working
    async with asyncio.timeout(WAIT):
        await asyncio.gather(*(offloaded(take_turn) for _ in range(8)))


async def test_a_diagnosis_ends_when_its_call_has_ended() -> None:
    text = b"[" + b"1," * 40_000 + b"x]"
    started = threading.Event()

    def work() -> None:
        started.set()
        while True:
            diagnose(text)

    call = asyncio.ensure_future(offloaded(work))
    await asyncio.to_thread(started.wait, WAIT)
    call.cancel()
    async with asyncio.timeout(WAIT):
        assert await asyncio.gather(*(offloaded(int) for _ in range(8))) == [0] * 8


def test_without_an_event_loop_a_turn_does_nothing() -> None:
    take_turn()
