"""Many calls at once: those past the limit of the client wait in its queue; all are answered."""

import asyncio
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pytest

from imagecall.access.admission import Admission
from imagecall.access.limits import Limits
from imagecall.backends.embedded.backend import EmbeddedBackend
from imagecall.client import AsyncImageClient, ImageClient
from imagecall.errors import GenerationError
from tests.client.both import CLIENTS, AnyClient
from tests.client.test_clients import fox
from tests.doors.test_generation import serving

CALLS: Final = 600
"""More than a client has in progress."""

MANY: Final = 200
"""Calls of the tests whose subject is not the number of calls."""

pytestmark = pytest.mark.parametrize("kind", CLIENTS, ids=lambda kind: kind.__name__)


async def outcomes(client: AnyClient, count: int) -> Counter[str]:
    """Makes many calls at once, each in a thread or task of its own; counts their outcomes."""
    if isinstance(client, AsyncImageClient):
        return Counter(await asyncio.gather(*(of_task(client) for _ in range(count))))
    return await asyncio.to_thread(of_threads, client, count)


def of_threads(client: ImageClient, count: int) -> Counter[str]:
    with ThreadPoolExecutor(count) as threads:
        return Counter(threads.map(lambda _: of_thread(client), range(count)))


def of_thread(client: ImageClient) -> str:
    try:
        return "answered" if client.generate_image(fox(), timeout=60).calls else "empty"
    except GenerationError as error:
        return refusal(error)


async def of_task(client: AsyncImageClient) -> str:
    try:
        answer = await client.generate_image(fox(), timeout=60)
    except GenerationError as error:
        return refusal(error)
    return "answered" if answer.calls else "empty"


def refusal(error: GenerationError) -> str:
    assert error.retry_seconds, error
    return error.reason


async def test_hundreds_of_calls_at_once_are_all_answered(kind: type[AnyClient]) -> None:
    async with serving(EmbeddedBackend()) as address:
        client = kind(address)
        assert await outcomes(client, CALLS) == {"answered": CALLS}
        await closed(client)


async def test_the_queue_keeps_within_the_limit_of_a_server(kind: type[AnyClient]) -> None:
    admission = Admission(Limits(calls=40))
    async with serving(EmbeddedBackend(), admission) as address:
        client = kind(address, max_calls=10)  # The server counts a call until its answer has left.
        assert await outcomes(client, MANY) == {"answered": MANY}
        await closed(client)


async def test_calls_past_the_limit_of_a_server_are_refused_with_a_time_to_retry(
    kind: type[AnyClient],
) -> None:
    admission = Admission(Limits(calls=1))
    async with serving(EmbeddedBackend(), admission) as address:
        client = kind(address)
        ended = await outcomes(client, MANY)
        await closed(client)
    assert ended.keys() == {"answered", "TOO_MANY_CALLS"}
    assert ended.total() == MANY


async def closed(client: AnyClient) -> None:
    if isinstance(client, AsyncImageClient):
        await client.close()
    else:
        client.close()
