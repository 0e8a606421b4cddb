"""Turns on the event loop."""

import asyncio
from itertools import pairwise

from imagecall.generation.fairness import fair_turn


async def test_there_is_one_turn_in_a_few_rounds_and_in_order() -> None:
    rounds = 0
    taken: list[tuple[int, int]] = []

    async def count() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await asyncio.sleep(0)

    async def large(number: int) -> None:
        for _ in range(3):
            await fair_turn()
            taken.append((rounds, number))

    counting = asyncio.create_task(count())
    await asyncio.gather(*(large(number) for number in range(5)))
    counting.cancel()
    assert [number for _, number in taken] == [0, 1, 2, 3, 4] * 3
    when = [at for at, _ in taken]
    assert min(later - sooner for sooner, later in pairwise(when)) >= 4


async def test_one_who_no_longer_waits_keeps_nobody_waiting() -> None:
    gone = [asyncio.create_task(fair_turn()) for _ in range(3)]
    stays = asyncio.create_task(fair_turn())
    await asyncio.sleep(0)
    for task in gone:
        task.cancel()
    await stays
    await fair_turn()
    assert [task.cancelled() for task in gone] == [True] * 3


def test_each_loop_has_its_own() -> None:
    stopped = asyncio.new_event_loop()
    waiting = stopped.create_task(fair_turn())
    stopped.call_soon(stopped.stop)
    stopped.run_forever()
    assert not waiting.done()
    asyncio.run(fair_turn())
    stopped.run_until_complete(waiting)
    stopped.close()
