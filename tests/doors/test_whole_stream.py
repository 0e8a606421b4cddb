"""The stream of the HTTP door is whole for every client, whatever an API left out."""

import json
import time
import tracemalloc
from base64 import b64encode
from collections.abc import AsyncIterator
from typing import Any, Final

import openrouter
import pytest
import pytest_asyncio

from imagecall.backends.embedded.backend import EmbeddedBackend
from imagecall.backends.responses_api.backend import HttpBackend
from imagecall.conversion.converter import event_from_json
from imagecall.doors.http.event_stream import Arrived, EventStream
from imagecall.generation.response_keys import response_keys
from imagecall.sizes import OFFLOAD, PIECE
from imagecall.v1.image_generation_service_pb2 import StreamEnd
from tests.doors.test_http import SMALL, door_before, events, post, sdk
from tests.streams import PNG, Event, framed, happy, item, numbered, response, without
from tests.upstream import JSON, Upstream, upstream

# The tests of all streams share a door and the clients, and so the event loop.
pytestmark = pytest.mark.asyncio(loop_scope="module")

LARGE: Final = PNG + bytes(PIECE)
CALL: Final = "response.image_generation_call."
ITEM: Final = "response.output_item."
OF_AN_IMAGE: Final = [
    ITEM + "added",
    CALL + "in_progress",
    CALL + "generating",
    CALL + "completed",
    ITEM + "done",
]
OF_WORDS: Final = [
    ITEM + "added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    ITEM + "done",
]


def message(text: str = "Here it is.", **keys: Any) -> Event:
    part = {"type": "output_text", "text": text, "annotations": []}
    found = {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant"}
    return found | {"content": [part]} | keys


def of_words(index: int, **keys: Any) -> list[Event]:
    """The events of a message."""
    found = {"output_index": index, "item_id": "msg_1", "content_index": 0} | keys
    part = {"type": "output_text", "text": "", "annotations": []}
    begun = message(status="in_progress", content=[], id=found["item_id"])
    return [
        {"type": ITEM + "added", "output_index": index, "item": begun},
        {"type": "response.content_part.added", "part": part, **found},
        {"type": "response.output_text.delta", "delta": "Here it is.", "logprobs": [], **found},
        {"type": "response.output_text.done", "text": "Here it is.", "logprobs": [], **found},
        {
            "type": "response.content_part.done",
            "part": part | {"text": "Here it is."},
            **found,
        },
        {"type": ITEM + "done", "output_index": index, "item": message(id=found["item_id"])},
    ]


def ended(*output: Any, events: list[Event] | None = None, **keys: Any) -> list[Event]:
    """A stream whose response at the end has these items."""
    begun = happy()[:2] if events is None else events
    last = {"type": "response.completed", "response": response(*output, **keys)}
    return numbered([*begun, last])


IMAGE: Final = happy()[:-1]
OTHER: Final = item(LARGE, id="ig_2")
FUNCTION: Final = {
    "type": "function_call",
    "id": "fc_1",
    "call_id": "c",
    "name": "f",
    "arguments": '{"a":1}',
    "status": "completed",
}
STREAMS: Final[dict[str, list[Event]]] = {
    "all there": happy(),
    "the end alone": ended(item()),
    "the end alone, large": ended(item(LARGE)),
    "two images": ended(item(), OTHER),
    "an image and words": ended(item(LARGE), message()),
    "words and an image": ended(message(), item()),
    "words alone": ended(message()),
    "reasoning and an image": ended({"type": "reasoning", "id": "rs_1", "summary": []}, item()),
    "a function call": ended(item(), FUNCTION),
    "a refusal": ended(message(content=[{"type": "refusal", "refusal": "No."}])),
    "no added": without(happy(), ".added"),
    "no events of items": without(happy(), "output_item.added", "output_item.done"),
    "no done": without(happy(), ".done"),
    "one of two": ended(item(), OTHER, events=IMAGE),
    "the second of two": ended(OTHER, item(), events=IMAGE),
    "another id at the end": ended(item(id="ig_9"), events=IMAGE),
    "another index at the end": ended(message(), item(), events=IMAGE),
    "another id and index": ended(message(), item(id="ig_9"), events=IMAGE),
    "another id, begun only": ended(item(id="ig_9"), events=IMAGE[:5]),
    "no image in done": ended(item(LARGE), events=happy(done=item(None))[:-1]),
    "an empty image in done": ended(item(LARGE), events=happy(done=item(""))[:-1]),
    "no ids": ended({key: value for key, value in item().items() if key != "id"}),
    "an empty output": ended(events=IMAGE),
    "an empty output after words": ended(events=[*IMAGE, *of_words(1)]),
    "words before the image": ended(message(), item(), events=[*happy()[:2], *of_words(0)]),
    "words without their done": ended(item(), message(), events=[*IMAGE, *of_words(1)[:-1]]),
    "words begun, an empty output": ended(events=[*IMAGE, *of_words(1)[:3]]),
    "a delta alone": ended(item(), message(), events=[*IMAGE, of_words(1)[2]]),
    "a delta alone, an empty output": ended(events=[*IMAGE, of_words(1)[2]]),
    "words with another id at the end": ended(
        item(), message(id="msg_9"), events=[*IMAGE, *of_words(1)]
    ),
    "no beginning": happy()[2:],
    "no id in the beginning": [
        {"type": "response.created", "response": {"status": "in_progress"}},
        *happy()[2:],
    ],
}


def check(found: list[tuple[str, Any]]) -> dict[int, Any]:
    """Checks that a stream is whole: the items that are done, by their index."""
    begun: dict[int, Any] = {}
    done: dict[int, Any] = {}
    parts: dict[tuple[int, int], str] = {}
    for tag, event in found:
        index = event.get("output_index")
        if tag == ITEM + "added":
            assert index not in begun
            begun[index] = event["item"]
        elif tag == ITEM + "done":
            assert index in begun
            assert index not in done
            assert event["item"].get("id") == begun[index].get("id")
            done[index] = event["item"]
        elif index is not None:
            assert index in begun
            assert index not in done
            assert event["item_id"] == begun[index].get("id", "")
        if tag == "response.content_part.added":
            parts[index, event["content_index"]] = ""
        elif tag == "response.output_text.delta":
            parts[index, event["content_index"]] += event["delta"]
    assert begun.keys() == done.keys()
    for (index, number), text in parts.items():
        part = done[index]["content"][number]
        assert text == part.get("text", "")
    types = [tag for tag, _ in found]
    assert types[0] == "response.created"
    assert types[-1] == "response.completed"
    assert len({event["response"]["id"] for _, event in found if "response" in event}) == 1
    return done


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api() -> AsyncIterator[Upstream]:
    async with upstream() as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def door(api: Upstream) -> AsyncIterator[str]:
    """The address of a door before the API."""
    async with door_before(HttpBackend(api.url)) as address:
        yield address


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def of_openai(door: str) -> AsyncIterator[Any]:
    async with sdk(door) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def of_openrouter(door: str) -> AsyncIterator[Any]:
    url = f"http://{door}/api/v1"
    async with openrouter.OpenRouter(api_key="none", server_url=url) as client:
        yield client


def say(api: Upstream, stream: list[Event]) -> list[Event]:
    """Has an API answer with a stream; returns the output of the response at its end."""
    api.say(framed(stream))
    output: list[Event] = stream[-1]["response"]["output"]
    return output


@pytest.mark.parametrize("what", STREAMS)
async def test_each_item_is_added_and_done_once(what: str, api: Upstream, door: str) -> None:
    output = say(api, STREAMS[what])
    found = await events(door, {"input": "a fox"})
    done = check(found)
    final = found[-1][1]["response"]["output"]
    assert len(done) == len(final)
    assert sorted(one.get("result") or "" for one in done.values()) == sorted(
        one.get("result") or "" for one in final
    )
    if output:
        assert final == output


@pytest.mark.parametrize("what", STREAMS)
async def test_openai_reads_it_with_its_accumulator(
    what: str, api: Upstream, of_openai: Any
) -> None:
    say(api, STREAMS[what])
    stream_of = of_openai.responses.stream
    async with stream_of(model="m", input="a fox", tools=[SMALL]) as stream:
        seen = [event async for event in stream]
        final = await stream.get_final_response()
    items = [event.item for event in seen if event.type == ITEM + "done"]
    results = [one.result for one in items if one.type == "image_generation_call"]
    assert sorted(map(str, results)) == sorted(
        str(one.result) for one in final.output if one.type == "image_generation_call"
    )


@pytest.mark.parametrize("what", STREAMS)
async def test_openrouter_knows_every_event(what: str, api: Upstream, of_openrouter: Any) -> None:
    say(api, STREAMS[what])
    send = of_openrouter.responses.send_async
    async with await send(model="m", input="a fox", tools=[SMALL], stream=True) as stream:
        seen = [event async for event in stream]
    unknown = [event for event in seen if "nknown" in type(event).__name__]
    assert unknown == []


async def test_a_json_answer_becomes_the_stream_that_openai_would_send() -> None:
    async with upstream() as api, door_before(HttpBackend(api.url)) as address:
        answer = response(item(LARGE), message())
        api.say(json.dumps(answer).encode(), content_type=JSON)
        found = await events(address, {"input": "a fox"})
    assert [tag for tag, _ in found] == [
        "response.created",
        "response.in_progress",
        *OF_AN_IMAGE,
        *OF_WORDS,
        "response.completed",
    ]
    done = check(found)
    assert [done[0], done[1]] == answer["output"] == found[-1][1]["response"]["output"]
    assert found[2][1]["item"] == item(None, status="in_progress")


async def test_what_came_is_not_said_again() -> None:
    async with upstream() as api, door_before(HttpBackend(api.url)) as address:
        stream = ended(item(), message(), events=[*IMAGE, *of_words(1)])
        output = say(api, stream)
        found = await events(address, {"input": "a fox"})
    assert [tag for tag, _ in found] == [event["type"] for event in stream]
    for (_, event), sent in zip(found[:-1], stream[:-1], strict=True):
        if "response" not in sent:
            assert event | {"item": 0} == sent | {"item": 0}
    assert found[-1][1]["response"]["output"] == output


async def test_an_image_that_failed_is_done_at_once() -> None:
    async with upstream() as api, door_before(HttpBackend(api.url)) as address:
        failed = item(None, status="failed")
        say(api, happy(done=failed))
        found = await events(address, {"input": "a fox"})
    assert [event["item"] for tag, event in found if tag == ITEM + "done"] == [failed]
    assert CALL + "completed" in [tag for tag, _ in found]


@pytest.mark.parametrize("ending", ["failed", "incomplete"])
async def test_an_item_that_was_begun_is_done_also_where_the_response_failed(ending: str) -> None:
    async with upstream() as api, door_before(HttpBackend(api.url)) as address:
        last = {"type": f"response.{ending}", "response": response(status=ending)}
        api.say(framed(numbered([*happy()[:5], *of_words(1)[:3], last])))
        found = await events(address, {"input": "a fox"})
    done = {event["output_index"]: event["item"] for tag, event in found if tag == ITEM + "done"}
    assert (done[0]["status"], done[0]["result"]) == ("failed", None)
    assert (done[1]["status"], done[1]["content"][0]["text"]) == ("incomplete", "Here it is.")


async def test_a_service_without_events_of_items_gives_them_too() -> None:
    class Silent(HttpBackend):
        def stream_image(self, request: Any) -> Any:
            request.include_document = request.include_other_events = False
            return super().stream_image(request)

    async with upstream() as api, door_before(Silent(api.url)) as address:
        answer = response(item(LARGE), item(PNG, id="ig_2"))
        api.say(json.dumps(answer).encode(), content_type=JSON)
        request = {"input": "a fox", "model": "m"}
        found = await events(address, request)
    done = check(found)
    assert list(done.values()) == found[-1][1]["response"]["output"] == answer["output"]


REQUIRED: Final = {
    "background", "completed_at", "created_at", "error", "frequency_penalty", "id",
    "incomplete_details", "instructions", "max_output_tokens", "max_tool_calls", "metadata",
    "model", "object", "output", "parallel_tool_calls", "presence_penalty",
    "previous_response_id", "prompt_cache_key", "reasoning", "safety_identifier", "service_tier",
    "status", "store", "temperature", "text", "tool_choice", "tools", "top_logprobs", "top_p",
    "truncation", "usage", "user",
}  # fmt: skip
"""The required keys of ResponseResource in the Open Responses specification."""

NOT_NULL: Final = REQUIRED - {
    "completed_at", "error", "incomplete_details", "instructions", "max_output_tokens",
    "max_tool_calls", "previous_response_id", "prompt_cache_key", "reasoning",
    "safety_identifier", "usage", "user",
}  # fmt: skip
"""Those which the specification does not allow to be null."""

ASKED: Final = {
    "metadata": {"a": "b"},
    "parallel_tool_calls": False,
    "temperature": 0.5,
    "top_p": 0.25,
    "top_logprobs": 2,
    "truncation": "auto",
    "max_output_tokens": 100,
    "max_tool_calls": 3,
    "prompt_cache_key": "k",
    "safety_identifier": "s",
    "reasoning": {"effort": "low", "summary": None},
    "text": {"format": {"type": "text"}, "verbosity": "low"},
    "service_tier": "flex",
    "instructions": "be quick",
    "user": "me",
}


@pytest.mark.parametrize("backend", ["embedded", "API"])
async def test_a_response_has_the_keys_that_the_specification_requires(backend: str) -> None:
    async with upstream() as api:
        made = EmbeddedBackend() if backend == "embedded" else HttpBackend(api.url)
        async with door_before(made) as address:
            for asked in ({}, ASKED, dict.fromkeys(ASKED, None)):
                body = {"input": "a fox", "tools": [SMALL], "model": "m"} | asked
                api.say(json.dumps({"output": [item()]}).encode(), content_type=JSON)
                _, answer = await post(address, body)
                found = await events(address, body)
                for one in (answer, *(e["response"] for _, e in found if "response" in e)):
                    assert one.keys() >= REQUIRED
                    assert not [key for key in NOT_NULL if one[key] is None]
                    kept = {key: value for key, value in asked.items() if value is not None}
                    assert {key: one[key] for key in kept} == kept


async def test_no_key_that_an_api_sent_is_changed() -> None:
    odd = dict.fromkeys(REQUIRED - {"output", "status", "id", "model", "object"})
    answer = response(item()) | odd | {"created_at": 1, "further": [1]}
    async with upstream() as api, door_before(HttpBackend(api.url)) as address:
        api.say(json.dumps(answer).encode(), content_type=JSON)
        assert (await post(address, {"input": "a", "temperature": 2}))[1] == answer


async def test_images_are_sent_as_they_came_in_every_event() -> None:
    parts = [PNG + bytes(PIECE + n) for n in range(3)]
    async with upstream() as api, door_before(HttpBackend(api.url)) as address:
        api.say(framed(happy(LARGE, parts)))
        found = await events(address, {"input": "a fox"})
    sent = [e["partial_image_b64"] for tag, e in found if tag == CALL + "partial_image"]
    assert sent == [b64encode(part).decode() for part in parts]
    assert check(found)[0] == item(LARGE)


async def test_a_stream_keeps_the_text_of_an_item_once() -> None:
    """The text in the message, which tracemalloc does not count."""
    lines = EventStream(response_keys({}, "resp_1"))
    tracemalloc.start()
    for number in range(20):
        done = {"type": ITEM + "done", "output_index": number}
        words = message("x" * 100_000, id=f"msg_{number}")
        arrived = Arrived(event_from_json(json.dumps(done | {"item": words})))
        assert list(lines.lines(arrived))
        del arrived
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 1_000_000


async def test_an_end_counts_the_items_before_to_which_it_may_refer() -> None:
    """Else an end of some kilobytes would be formatted inline with megabytes of items."""
    lines = EventStream(response_keys({}, "resp_1"))
    for index in range(20):
        words = item(PNG, id=f"ig_{index}", note="x" * 4000)
        done = {"type": ITEM + "done", "output_index": index, "item": words}
        assert list(lines.lines(Arrived(event_from_json(json.dumps(done)))))
    end = StreamEnd()
    for index in range(20):
        end.response.document.calls.add(pointer=f"/output/{index}", output_index=index)
    assert end.ByteSize() < OFFLOAD < 20 * 4000 < lines.size_of(Arrived(end))


@pytest.mark.timing
async def test_many_deltas_of_one_text_take_no_longer_than_those_of_many_texts() -> None:
    def seconds(indexes: range) -> float:
        stream = EventStream(response_keys({}, "resp_1"))
        fields = {"type": OF_WORDS[2], "item_id": "msg_1", "output_index": 0, "delta": "a" * 1000}
        deltas = [event_from_json(json.dumps(fields | {"content_index": i})) for i in indexes]
        begun = time.process_time()
        for delta in deltas * (10_000 // len(deltas)):
            assert list(stream.lines(Arrived(delta)))
        return time.process_time() - begun

    assert seconds(range(1)) < 10 * seconds(range(1000))
