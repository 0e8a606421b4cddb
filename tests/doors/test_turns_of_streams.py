"""Streams of conversions take turns, so that small calls need not wait for a step of each."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from imagecall.access.limits import Limits
from imagecall.conversion.batch import batches
from imagecall.doors.grpc.services import ConversionServicer
from imagecall.errors import ConversionError
from imagecall.sizes import OFFLOAD
from imagecall.v1.conversion_service_pb2 import (
    Conversion,
    ConvertCallsRequest,
    ConvertCallsResponse,
)

ITEM = '{"type":"image_generation_call","id":"ig_1","result":null,"status":"failed"}'
ITEMS, STREAMS, MESSAGES = 20, 10, 3
HALF = ITEM[:-1] + ',"note":"' + "x" * (OFFLOAD // 2) + '"}'
"""An item of which no two are a batch."""


# The steps that one message takes.
@pytest.mark.parametrize(("item", "steps"), [(ITEM, 1), (HALF, ITEMS)])
async def test_one_iteration_of_the_loop_converts_one_batch_of_one_message(
    item: str, steps: int
) -> None:
    iteration = 0
    converted: Counter[int] = Counter()

    async def tick() -> None:
        nonlocal iteration
        while True:
            iteration += 1
            await asyncio.sleep(0)

    async def requests() -> AsyncIterator[ConvertCallsRequest]:
        for _ in range(MESSAGES):
            yield ConvertCallsRequest(conversions=[Conversion(json=item)] * ITEMS)

    servicer = ConversionServicer(Limits(), lambda *_: converted.update([iteration]))

    async def stream() -> int:
        context: Any = None
        answers = [answer async for answer in servicer.ConvertCalls(requests(), context)]
        return len(ConvertCallsResponse.FromString(b"".join(answers)).results)

    ticking = asyncio.create_task(tick())
    answers = await asyncio.gather(*(stream() for _ in range(STREAMS)))
    ticking.cancel()
    assert answers == [MESSAGES * ITEMS] * STREAMS
    assert list(converted.values()) == [ITEMS // steps] * steps * STREAMS * MESSAGES


def test_the_items_of_a_message_are_converted_in_small_batches() -> None:
    small = Conversion(json=ITEM)
    large = Conversion(json='{"note":"' + "x" * OFFLOAD + '"}')
    tiny = Conversion(json="{}")
    found = [*batches([small] * 1000 + [large] * 2 + [small] + [tiny] * 1000)]
    assert [item for batch, _ in found for item in batch] == (
        [small] * 1000 + [large] * 2 + [small] + [tiny] * 1000
    )
    assert [len(batch) for batch, size in found if size >= OFFLOAD] == [1, 1]
    assert all(sum(item.ByteSize() for item in batch) <= size for batch, size in found)
    assert max(len(batch) for batch, _ in found) == 63
    assert len(found) < 40
    assert not [*batches([])]


@pytest.mark.parametrize("most", [1000, 900])
async def test_the_batches_of_a_message_are_answered_together(most: int) -> None:
    async def requests() -> AsyncIterator[ConvertCallsRequest]:
        yield ConvertCallsRequest(conversions=[Conversion(json=ITEM)] * 1000)

    servicer = ConversionServicer(Limits(stream_items=most))
    context: Any = None
    found: list[bytes] = []
    try:
        async for answer in servicer.ConvertCalls(requests(), context):
            found.append(answer)
    except ConversionError as error:
        assert error.reason == "TOO_MANY_ITEMS"
        assert most < 1000
    [answer] = found
    assert len(ConvertCallsResponse.FromString(answer).results) == most


async def test_a_message_of_large_results_is_answered_in_several() -> None:
    """So that little is held while the stream waits for its turn."""

    async def requests() -> AsyncIterator[ConvertCallsRequest]:
        yield ConvertCallsRequest(conversions=[Conversion(json=HALF)] * 100)

    context: Any = None
    servicer = ConversionServicer(Limits())
    found = [answer async for answer in servicer.ConvertCalls(requests(), context)]
    results = ConvertCallsResponse.FromString(b"".join(found)).results
    assert [result.index for result in results] == [*range(100)]
    assert all(result.HasField("call") for result in results)
    assert max(map(len, found)) <= 256 * 1024
