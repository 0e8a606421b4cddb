"""Comments on a stream of the HTTP door while no event comes."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import openrouter
import pytest

from imagecall.backends.embedded.backend import EmbeddedBackend
from imagecall.backends.grpc.backend import GrpcBackend
from imagecall.backends.responses_api.backend import HttpBackend
from imagecall.doors.http.keepalive import COMMENT
from imagecall.generation.backend import Backend
from imagecall.rpc.addresses import ServerAddress
from tests.doors.test_generation import serving
from tests.doors.test_http import SMALL, door_before, sdk
from tests.streams import PNG, framed, happy
from tests.upstream import HANG, JSON, RESET, Upstream, upstream

INTERVAL = 0.05
SILENCE = 10 * INTERVAL
ASKED: Any = {"input": "a fox", "tools": [SMALL], "stream": True}
DONE = "data: [DONE]"
MIB = 1024 * 1024


@pytest.fixture
async def api() -> AsyncIterator[Upstream]:
    async with upstream() as server:
        yield server


@pytest.fixture
async def door(api: Upstream) -> AsyncIterator[str]:
    async with door_before(HttpBackend(api.url), keepalive_seconds=INTERVAL) as address:
        yield address


@asynccontextmanager
async def streamed(address: str, body: Any = ASKED) -> AsyncIterator[aiohttp.ClientResponse]:
    async with (
        aiohttp.ClientSession(read_bufsize=2**26) as session,
        session.post(f"http://{address}/v1/responses", json=body) as answer,
    ):
        yield answer


async def blocks(address: str, body: Any = ASKED) -> list[str]:
    """The events and comments of a whole stream."""
    async with streamed(address, body) as answer:
        assert answer.status == 200
        *found, nothing = (await answer.text()).split("\n\n")
    assert nothing == ""
    return found


def split(found: list[str]) -> tuple[list[str], list[str]]:
    """The comments, and the events."""
    comments = [block for block in found if block.startswith(":")]
    return comments, [block for block in found if not block.startswith(":")]


async def test_a_silent_api_does_not_make_the_stream_silent(api: Upstream, door: str) -> None:
    api.say(SILENCE, framed(happy()[:3], done=False), SILENCE, framed(happy()[3:]))
    found = await blocks(door)
    comments, events = split(found)
    assert found[0].encode() + b"\n\n" == COMMENT
    assert set(comments) == {found[0]}
    begun = next(n for n, block in enumerate(found) if "response.created" in block)
    ended = next(n for n, block in enumerate(found) if "response.completed" in block)
    assert begun >= 1
    assert any(block.startswith(":") for block in found[begun:ended])
    assert len(events) == len(happy()) + 1


@pytest.mark.timing
async def test_comments_of_the_api_are_its_life_and_not_that_of_the_stream() -> None:
    """The API is given up after less time than it takes, but for its comments."""
    comments = [step for _ in range(12) for step in (b": drawing\n\n", 0.1)]
    async with (
        upstream() as api,
        door_before(
            HttpBackend(api.url, idle_seconds=1), keepalive_seconds=2 * INTERVAL
        ) as address,
    ):
        api.say(*comments, framed(happy()))
        found = await blocks(address)
    assert len(split(found)[0]) >= 2
    assert found[-1] == DONE


async def hop(stack: AsyncExitStack) -> Backend:
    address = await stack.enter_async_context(serving(EmbeddedBackend()))
    return GrpcBackend(ServerAddress(address))


async def embedded(stack: AsyncExitStack) -> Backend:
    return EmbeddedBackend()


@pytest.mark.parametrize("backend_of", [embedded, hop])
async def test_it_does_so_before_every_backend(backend_of: Callable[..., Any]) -> None:
    async with AsyncExitStack() as stack:
        backend = await backend_of(stack)
        door = door_before(backend, keepalive_seconds=INTERVAL)
        address = await stack.enter_async_context(door)
        found = await blocks(address, ASKED | {"embedded": {"delay_seconds": SILENCE}})
    comments, events = split(found)
    assert comments
    assert "response.completed" in events[-2]


FAILURES: list[tuple[Any, ...]] = [(RESET,), (b'data: {"type":"error","message":"no"}\n\n',)]


@pytest.mark.parametrize("steps", FAILURES)
async def test_a_failure_before_the_first_byte_has_a_status(api: Upstream, steps: Any) -> None:
    api.say(*steps)
    async with door_before(HttpBackend(api.url)) as address, streamed(address) as answer:
        assert answer.status >= 400
        assert json.loads(await answer.text())["error"]["message"]


@pytest.mark.parametrize("steps", FAILURES)
async def test_a_failure_after_the_first_byte_is_an_event(
    api: Upstream, door: str, steps: Any
) -> None:
    api.say(SILENCE, *steps)
    *_, event, done = await blocks(door)
    name, data = event.split("\n")
    assert (name, done) == ("event: error", DONE)
    assert json.loads(data.removeprefix("data: "))["type"] == "error"


async def test_no_event_is_kept_back_while_the_next_is_awaited(api: Upstream) -> None:
    api.say(framed(happy()[:3], done=False), HANG)
    async with (
        door_before(HttpBackend(api.url), keepalive_seconds=3600) as door,
        streamed(door) as answer,
        asyncio.timeout(60),
    ):
        for event in happy()[:3]:
            text = (await answer.content.readuntil(b"\n\n")).decode()
            assert text.startswith(f"event: {event['type']}\n")


async def test_events_before_a_failure_are_not_lost(api: Upstream, door: str) -> None:
    api.say(framed(happy()[:3], done=False), *FAILURES[1])
    found = await blocks(door)
    names = [block.split("\n")[0].removeprefix("event: ") for block in found]
    assert names == [*(event["type"] for event in happy()[:3]), "error", DONE]


async def test_what_nobody_foresaw_is_an_event_after_the_first_byte() -> None:
    class Broken(EmbeddedBackend):
        async def stream_image(self, request: Any) -> Any:
            await asyncio.sleep(SILENCE)
            raise ZeroDivisionError("secret")
            yield

    async with door_before(Broken(), keepalive_seconds=INTERVAL) as address:
        found = await blocks(address)
    assert found[0].startswith(":")
    assert "internal error" in found[-2]
    assert "secret" not in found[-2]


async def test_no_comment_stands_within_an_event(api: Upstream, door: str) -> None:
    """The image arrives in pieces with silences between them, and its reader is slow."""
    sent = framed(happy(PNG + bytes(12 * MIB)))
    half = len(sent) // 2
    api.say(sent[:half], SILENCE, sent[half:])
    async with streamed(door) as answer:
        received = bytearray()
        while piece := await answer.content.readany():
            received += piece
            await asyncio.sleep(0.001)
    *found, _ = received.decode().split("\n\n")
    comments, events = split(found)
    assert comments
    assert len(events) == len(happy()) + 1
    assert all(re.fullmatch(r"event: [\w.]+\ndata: \{[^\n]*\}", event) for event in events[:-1])
    assert "keepalive" not in "".join(events)


async def test_a_client_that_does_not_read_is_not_flooded(api: Upstream, door: str) -> None:
    """The stream stands still in the middle of an image, and so do the comments."""
    api.say(framed(happy(PNG + bytes(8 * MIB))))
    host, _, port = door.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
    body = json.dumps(ASKED).encode()
    head = "POST /v1/responses HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await asyncio.sleep(20 * INTERVAL)
    received = await reader.read(-1)
    writer.close()
    _, image, rest = received.partition(b"event: response.output_item.done")
    assert image
    assert rest.count(COMMENT.strip()) < 10
    assert b"response.completed" in rest


@pytest.mark.parametrize("begun", [False, True])
async def test_a_client_that_leaves_ends_the_call_of_the_api(api: Upstream, begun: bool) -> None:
    """It leaves after a comment, or before the answer has begun."""
    api.say(HANG)
    async with (
        door_before(HttpBackend(api.url), keepalive_seconds=INTERVAL if begun else 60) as door,
        asyncio.timeout(60),
    ):
        if begun:
            async with streamed(door) as answer:
                await answer.content.readline()
        else:
            async with aiohttp.ClientSession() as session:
                post = session.post(f"http://{door}/v1/responses", json=ASKED)
                asked = asyncio.ensure_future(post)
                await api.arrived.wait()
                asked.cancel()
        await api.left.wait()


async def test_a_plain_request_stays_silent(api: Upstream, door: str) -> None:
    api.say(SILENCE, b'{"object":"response","output":[]}', content_type=JSON)
    async with streamed(door, ASKED | {"stream": False}) as answer:
        assert (await answer.read()).startswith(b"{")


async def test_sdks_pass_over_the_comments(api: Upstream, door: str) -> None:
    api.say(SILENCE, framed(happy()[:3], done=False), SILENCE, framed(happy()[3:]))
    async with sdk(door) as client:
        stream = await client.responses.create(model="m", stream=True, input="a", tools=[SMALL])
        kinds = [event.type async for event in stream]
    assert kinds == [event["type"] for event in happy()]
    async with openrouter.OpenRouter(api_key="none", server_url=f"http://{door}/api/v1") as client:
        events = await client.beta.responses.send_async(
            model="m", stream=True, input="a", tools=[SMALL]
        )
        async with events:
            found = [event async for event in events]
    assert len(found) == len(happy())
