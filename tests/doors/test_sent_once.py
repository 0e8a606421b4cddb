"""SDKs at their defaults send a request that may be billed once, as a counter at the API shows."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from itertools import product, starmap
from typing import Any

import aiohttp
import openai
import openrouter
import pytest

from imagecall.access.admission import Admission
from imagecall.access.limits import Limits
from imagecall.backends.embedded.backend import EmbeddedBackend
from imagecall.backends.responses_api.backend import HttpBackend
from imagecall.doors.http.server import HttpServer
from tests.doors.test_http import door_before, post
from tests.streams import framed, happy, item, response
from tests.until import until
from tests.upstream import HANG, JSON, RESET, Answer, Upstream, upstream

TOOL: Any = {"type": "image_generation"}
ERROR = {"message": "it failed", "code": "server_error"}
LIMITED = {"message": "slow down", "code": "rate_limit_exceeded"}
AGAIN = {"retry-after": "1"}
_BOTH = (False, True)

BEGUN: dict[str, tuple[tuple[Any, ...], dict[str, Any], tuple[bool, ...]]] = {
    "disconnected": ((), {"status": None}, _BOTH),
    "reset": ((RESET,), {"status": None}, _BOTH),
    "cut": ((json.dumps(response(item()))[:90].encode(),), {"whole": False}, _BOTH),
    "not JSON": ((b'{"id":',), {}, _BOTH),
    "too large": ((json.dumps(response(item(bytes(9000)))).encode(),), {}, _BOTH),
    "too slow": ((HANG,), {}, _BOTH),
    "silent": ((HANG,), {"status": None}, _BOTH),
    "an error": ((json.dumps({"error": ERROR}).encode(),), {}, _BOTH),
    "a limit": ((json.dumps({"error": LIMITED}).encode(),), {"headers": AGAIN}, _BOTH),
    "HTML": ((b"<html>busy</html>",), {"content_type": "text/html"}, _BOTH),
    "another JSON": ((b'{"choices":[]}',), {}, _BOTH),
    "an empty stream": ((), {"content_type": "text/event-stream"}, (True,)),
    "a cut event": ((framed(happy())[:60],), {"content_type": "text/event-stream"}, (True,)),
    "an error event": (
        (framed([{"type": "error", "error": ERROR}]),),
        {"content_type": "text/event-stream"},
        (True,),
    ),
}  # fmt: skip
"""Failures after the API began, before an event of its answer: what it sends, plain or streamed."""

FAILURES = [(name, streams) for name, (_, _, ways) in BEGUN.items() for streams in ways]


@asynccontextmanager
async def before_an_api(idle_seconds: float = 60) -> AsyncIterator[tuple[Upstream, str]]:
    """An API, and the address of a door before it that gives up after some silence."""
    async with upstream() as api:
        backend = HttpBackend(api.url, idle_seconds=idle_seconds, max_bytes=5000)
        async with door_before(backend) as address:
            yield api, address


def answer_of(failure: str) -> Answer:
    steps, options, _ = BEGUN[failure]
    return Answer(steps, **{"content_type": JSON} | options)


async def ask_openai(address: str, streams: bool, shared: Any = None) -> int:
    """The status that the SDK gives up with. `shared` is a client that calls other doors too."""
    async with AsyncExitStack() as stack:
        client = shared or await stack.enter_async_context(openai_client())
        create = client.with_options(base_url=f"http://{address}/v1").responses.create
        with pytest.raises(openai.APIStatusError) as caught:
            await create(model="m", input="a fox", tools=[TOOL], stream=streams)
    return caught.value.status_code


async def ask_openrouter(address: str, streams: bool, shared: Any = None) -> int:
    """The same."""
    async with AsyncExitStack() as stack:
        client = shared or await stack.enter_async_context(openrouter_client())
        url = f"http://{address}/api/v1"
        asked = {"model": "m", "input": "a fox", "tools": [TOOL], "stream": streams}
        with pytest.raises(openrouter.errors.OpenRouterError) as caught:
            await client.responses.send_async(**asked, server_url=url)
    return caught.value.status_code


def openai_client() -> Any:
    return openai.AsyncOpenAI(base_url="http://127.0.0.1/v1", api_key="none")


def openrouter_client() -> Any:
    return openrouter.OpenRouter(api_key="none")


CLIENTS = {ask_openai: openai_client, ask_openrouter: openrouter_client}


async def outcomes(ask: Any, cases: Iterable[tuple[Any, bool]]) -> dict[tuple[Any, bool], Any]:
    """The outcome of each case; the cases run at once, as an SDK waits before it sends again."""
    cases = list(cases)
    return dict(zip(cases, await asyncio.gather(*starmap(ask, cases)), strict=True))


def before_a_failure(
    failure: str, silence: float = 0.5
) -> AbstractAsyncContextManager[tuple[Upstream, str]]:
    return before_an_api(silence if HANG in BEGUN[failure][0] else 60)


@pytest.mark.parametrize("hangs", _BOTH)
@pytest.mark.parametrize("ask", [ask_openai, ask_openrouter])
async def test_an_sdk_sends_once_what_may_be_billed(ask: Any, hangs: bool) -> None:
    async def asked(failure: str, streams: bool) -> tuple[int, int]:
        # The cases at once keep the machine busy before the API is called.
        async with before_a_failure(failure, silence=3) as (api, address):
            api.answers = [answer_of(failure)]
            return await ask(address, streams, shared), len(api.requests)

    cases = [case for case in FAILURES if (HANG in BEGUN[case[0]][0]) is hangs]
    async with CLIENTS[ask]() as shared:
        assert await outcomes(asked, cases) == dict.fromkeys(cases, (424, 1))


async def test_the_answer_says_that_it_is_not_to_be_sent_again() -> None:
    async def asked(failure: str, streams: bool) -> tuple[Any, ...]:
        async with before_a_failure(failure, silence=2) as (api, address):
            api.answers = [answer_of(failure)]
            answer, said = await post(address, {"input": "a", "stream": streams})
        assert "retry-after" not in answer.headers
        assert said["error"]["type"].startswith("upstream_")
        return answer.status, said["error"]["code"], answer.headers["x-should-retry"]

    assert await outcomes(asked, FAILURES) == dict.fromkeys(FAILURES, (424, 424, "false"))


async def test_the_first_answer_of_an_api_keeps_its_status_and_is_sent_again() -> None:
    async def asked(status: int, streams: bool) -> tuple[int, int]:
        async with before_an_api() as (api, address):
            headers = {"retry-after": "0"} if status == 429 else {}
            api.say(b'{"error":{}}', status=status, content_type=JSON, headers=headers)
            return await ask_openai(address, streams), len(api.requests)

    cases = list(product((500, 502, 503, 504, 429, 408, 409), _BOTH))
    assert await outcomes(asked, cases) == {case: (case[0], 3) for case in cases}


@pytest.mark.parametrize("streams", _BOTH)
async def test_openrouter_for_python_sends_again_after_the_first_answer_of_an_api(
    streams: bool,
) -> None:
    async with before_an_api() as (api, address):
        api.say(b"{}", status=503, content_type=JSON)
        asking = asyncio.create_task(ask_openrouter(address, streams))
        await until(lambda: len(api.requests) == 2)
        asking.cancel()
        await asyncio.wait({asking})


async def test_an_api_that_is_not_there_may_be_asked_again() -> None:
    async with door_before(HttpBackend("http://127.0.0.1:1/v1")) as address:
        answer, _ = await post(address, {"input": "a"})
    assert (answer.status, answer.headers.get("x-should-retry")) == (503, None)


async def test_an_error_within_a_stream_keeps_a_code_that_has_a_meaning() -> None:
    async with before_an_api() as (api, address):
        for event, code in ((ERROR, "503"), (LIMITED, "429")):
            api.say(framed([*happy()[:3], {"type": "error", "error": event}]))
            async with openai.AsyncOpenAI(base_url=f"http://{address}/v1", api_key="n") as client:
                create: Any = client.responses.create
                with pytest.raises(openai.APIError) as caught:
                    async for _ in await create(model="m", input="a", tools=[TOOL], stream=True):
                        pass
            assert caught.value.code == code


@pytest.mark.parametrize("streams", _BOTH)
async def test_a_call_that_the_server_ends_is_sent_once(streams: bool) -> None:
    async with upstream() as api:
        api.say(HANG, status=None)
        limits = Limits(call_seconds=0.5)
        backend = HttpBackend(api.url)
        async with door_before(backend, admission=Admission(limits)) as address:
            assert await ask_openai(address, streams) == 424
        assert len(api.requests) == 1


@pytest.mark.parametrize("streams", _BOTH)
async def test_a_call_in_progress_when_the_server_stops_is_sent_once(streams: bool) -> None:
    async with upstream() as api:
        api.say(HANG, status=None)
        backend = HttpBackend(api.url)
        server = HttpServer("127.0.0.1:0", backend)
        asking = asyncio.create_task(ask_openai(await server.start(), streams))
        await api.arrived.wait()
        await server.stop(0)
        assert await asking == 424
        await api.left.wait()
        await backend.close()
        assert len(api.requests) == 1


async def test_a_fault_of_the_door_itself_is_sent_once() -> None:
    calls = 0

    class Broken(EmbeddedBackend):
        async def generate_image(self, request: Any) -> Any:
            nonlocal calls
            calls += 1
            raise ZeroDivisionError

    async with door_before(Broken()) as address:
        assert await ask_openai(address, False) == 424
        assert await ask_openrouter(address, False) == 424
    assert calls == 2


async def test_a_plain_answer_without_a_status_is_completed() -> None:
    said = response(item())
    del said["status"]
    async with before_an_api() as (api, address):
        api.say(json.dumps(said).encode(), content_type=JSON)
        for streams in _BOTH:
            async with openai.AsyncOpenAI(base_url=f"http://{address}/v1", api_key="n") as client:
                create: Any = client.responses.create
                answer = await create(model="m", input="a", tools=[TOOL], stream=streams)
                if streams:
                    answer = [event async for event in answer][-1].response
            assert answer.status == "completed"


async def test_an_image_past_the_limit_of_a_json_text_is_streamed_as_of_every_door() -> None:
    limits = Limits(json_bytes=1_000_000)
    body = {"input": "a", "stream": True, "embedded": {"image_bytes": 2_000_000}}
    async with (
        door_before(EmbeddedBackend(), admission=Admission(limits)) as address,
        aiohttp.ClientSession() as session,
        session.post(f"http://{address}/v1/responses", json=body) as answer,
    ):
        assert '"type":"response.completed"' in (await answer.text())
