"""The Images API at the HTTP door, with the SDKs that applications use, unmodified."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import openai
import openrouter
import pytest
import pytest_asyncio

from imagecall.access.admission import Admission
from imagecall.access.limits import Limits
from imagecall.backends.embedded.backend import EmbeddedBackend
from imagecall.backends.responses_api.backend import HttpBackend
from imagecall.doors.http.images.door import GENERATION_PATHS
from tests.doors.test_http import door_before, post, sdk
from tests.streams import PNG, framed, happy, item, response, without
from tests.upstream import HANG, JSON, SSE, Answer, Upstream, upstream

# The tests share a door, and so the event loop.
pytestmark = pytest.mark.asyncio(loop_scope="module")

SMALL: Any = {"prompt": "a fox", "size": "64x64"}
USAGE = {"input_tokens": 3, "output_tokens": 5, "total_tokens": 8}
OF_IMAGES = {
    "input_tokens": 10,
    "input_tokens_details": {"image_tokens": 4, "text_tokens": 6},
    "output_tokens": 100,
    "total_tokens": 110,
}


def png_of(image: Any) -> bytes:
    data = base64.b64decode(image.b64_json, validate=True)
    assert data.startswith(b"\x89PNG")
    return data


def answers(api: Upstream, *bodies: Any) -> None:
    """Sets what an API answers, one after the other."""
    api.answers = [
        Answer((body if isinstance(body, bytes) else json.dumps(body).encode(),), content_type=JSON)
        for body in bodies
    ]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def door() -> AsyncIterator[str]:
    async with door_before(EmbeddedBackend()) as address:
        yield address


async def stream_of(address: str, body: Any, path: str = GENERATION_PATHS[0]) -> list[Any]:
    """The events of a stream, by the letter of its framing."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://{address}{path}", json=body | {"stream": True}) as answer,
    ):
        assert answer.status == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        *blocks, done, nothing = (await answer.text()).split("\n\n")
    assert (done, nothing) == ("data: [DONE]", "")
    found = []
    for block in blocks:
        first, second = block.split("\n")
        data = json.loads(second.removeprefix("data: "))
        assert first == f"event: {data['type']}"
        found.append(data)
    return found


@pytest.mark.parametrize("path", GENERATION_PATHS)
async def test_an_answer_has_the_image_and_its_description(path: str) -> None:
    async with door_before(EmbeddedBackend()) as address:
        answer, body = await post(address, SMALL | {"quality": "low"}, path)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    [image] = body["data"]
    assert base64.b64decode(image["b64_json"]).startswith(b"\x89PNG")
    assert (image["revised_prompt"], image["media_type"]) == ("a fox", "image/png")
    assert isinstance(body["created"], int)
    settings = {key: body[key] for key in ("size", "quality", "background", "output_format")}
    assert settings == {
        "size": "64x64",
        "quality": "low",
        "background": "opaque",
        "output_format": "png",
    }
    assert body["usage"]["total_tokens"] == 2


async def test_the_sdk_of_openai_reads_images_and_streams() -> None:
    async with door_before(EmbeddedBackend()) as address, sdk(address) as client:
        plain = await client.images.generate(model="gpt-image-1", n=2, **SMALL)
        assert plain.data is not None
        first, second = map(png_of, plain.data)
        assert first == second
        streamed = await client.images.generate(stream=True, partial_images=2, **SMALL)
        events = [event async for event in streamed]
    *partial, last = events
    assert [event.type for event in partial] == ["image_generation.partial_image"] * 2
    assert [event.partial_image_index for event in partial] == [0, 1]
    assert last.type == "image_generation.completed"
    assert (png_of(last), last.size, last.usage.total_tokens) == (first, "64x64", 2)


async def test_the_sdk_of_openrouter_reads_images_and_streams() -> None:
    async with door_before(EmbeddedBackend()) as address:
        url = f"http://{address}/api/v1"
        async with openrouter.OpenRouter(api_key="none", server_url=url) as client:
            plain = await client.images.generate_async(model="m", n=2, **SMALL)
            streamed = await client.images.generate_async(model="m", stream=True, **SMALL)
            events = [event async for event in streamed]
    assert plain.usage is not None
    assert (len(plain.data), plain.usage.total_tokens) == (2, 4)
    assert plain.usage.prompt_tokens == 4
    assert {image.media_type for image in plain.data} == {"image/png"}
    [event] = events
    assert isinstance(event, openrouter.components.ImageGenCompletedEvent)
    assert event.b64_json == plain.data[0].b64_json


async def test_the_keys_of_the_image_tool_become_its_settings() -> None:
    async with upstream() as api, door_before(HttpBackend(api.url)) as address:
        answers(api, response(item()))
        body = {
            "prompt": "a fox",
            "model": "gpt-image-1",
            "n": 1,
            "size": "1024x1024",
            "quality": "low",
            "background": "transparent",
            "output_format": "webp",
            "output_compression": 50,
            "moderation": "low",
            "response_format": "b64_json",
            "partial_images": None,
            "user": "me",
            "seed": 7,
            "provider": {"order": ["a"]},
        }
        answer, _ = await post(address, body, GENERATION_PATHS[0])
    assert answer.status == 200
    settings = ("model", "size", "quality", "background", "output_format", "output_compression")
    tool = {"type": "image_generation"} | {key: body[key] for key in (*settings, "moderation")}
    assert api.requests[0].body == {
        "input": "a fox",
        "tools": [tool | {"seed": 7}],
        "user": "me",
        "provider": {"order": ["a"]},
    }


async def test_the_main_model_must_use_the_image_tool() -> None:
    async with upstream() as api, door_before(HttpBackend(api.url), main_model="gpt-5") as address:
        answers(api, response(item()))
        await post(address, {"prompt": "a", "model": "gpt-image-1"}, GENERATION_PATHS[0])
    assert api.requests[0].body == {
        "model": "gpt-5",
        "input": "a",
        "tools": [{"type": "image_generation", "model": "gpt-image-1"}],
        "tool_choice": {"type": "image_generation"},
    }


@pytest.mark.parametrize(
    ("keys", "reason", "pointer"),
    [
        ({"response_format": "url"}, "unsupported", "/response_format"),
        ({"response_format": 1}, "unsupported", "/response_format"),
        ({"prompt": " "}, "empty_prompt", "/prompt"),
        ({"prompt": None}, "empty_prompt", "/prompt"),
        ({"prompt": ["a"]}, "wrong_type", "/prompt"),
        ({"n": 0}, "wrong_type", "/n"),
        ({"n": 11}, "wrong_type", "/n"),
        ({"n": "2"}, "wrong_type", "/n"),
        ({"n": True}, "wrong_type", "/n"),
        ({"n": 1.0}, "wrong_type", "/n"),
        ({"stream": "true"}, "wrong_type", "/stream"),
        ({"type": "function"}, "unsupported", "/type"),
        ({"size": "5x5"}, "unsupported", "/size"),
        ({"background": "transparent", "output_format": "jpeg"}, "unsupported", "/background"),
        ({"partial_images": 9}, "unsupported", "/partial_images"),
        ({"images": [{"image_url": 5}]}, "wrong_type", "/images/0"),
        ({"input_references": [{"type": "image_url"}]}, "wrong_type", "/input_references/0"),
        ({"mask": []}, "wrong_type", "/mask"),
    ],
    ids=lambda value: str(value)[:50],
)
@pytest.mark.parametrize("streams", [False, True])
async def test_an_error_names_the_key(
    door: str, keys: Any, reason: str, pointer: str, streams: bool
) -> None:
    answer, said = await post(door, SMALL | {"stream": streams} | keys, GENERATION_PATHS[0])
    assert answer.status == 400
    assert (said["error"]["type"], said["error"]["param"]) == (reason, pointer)
    assert said["error"]["message"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b'{"prompt": "a", "prompt": "b"}', 400),
        (b'{"prompt": "\\ud800"}', 400),
        (b'{"prompt": "a", "seed": NaN}', 400),
        (b'{"prompt": ' + b"[" * 200 + b"]" * 200 + b"}", 400),
    ],
)
async def test_a_faulty_body_is_refused_in_words(body: bytes, status: int) -> None:
    async with door_before(EmbeddedBackend()) as address:
        answer, said = await post(address, body, GENERATION_PATHS[0])
    assert answer.status == status
    assert said["error"]["message"]


async def test_another_type_of_body_is_a_415() -> None:
    async with door_before(EmbeddedBackend()) as address:
        headers = {"content-type": "text/plain"}
        answer, _ = await post(address, SMALL, GENERATION_PATHS[0], headers=headers)
    assert answer.status == 415


async def test_the_usage_has_the_tokens_of_the_image_model_of_all_calls() -> None:
    tool_usage = {"image_gen": OF_IMAGES}
    whole = response(item(), usage=USAGE | {"cost": 0.25}, tool_usage=tool_usage)
    async with upstream() as api, door_before(HttpBackend(api.url)) as address:
        answers(api, whole)
        _, one = await post(address, {"prompt": "a"}, GENERATION_PATHS[0])
        _, two = await post(address, {"prompt": "a", "n": 2}, GENERATION_PATHS[0])
    extra = {"cost": 0.25, "response_usage": USAGE | {"cost": 0.25}}
    assert one["usage"] == OF_IMAGES | extra
    assert two["usage"]["output_tokens"] == 200
    assert two["usage"]["input_tokens_details"] == {"image_tokens": 8, "text_tokens": 12}
    assert two["usage"]["cost"] == 0.5


async def test_tokens_of_no_known_kind_count_as_text() -> None:
    async with upstream() as api, door_before(HttpBackend(api.url)) as address:
        answers(api, response(item(), usage=USAGE))
        _, body = await post(address, {"prompt": "a"}, GENERATION_PATHS[0])
    details = {"image_tokens": 0, "text_tokens": 3}
    assert body["usage"] == USAGE | {"input_tokens_details": details}


async def test_every_image_of_a_response_is_in_the_answer_and_an_url_stays_one() -> None:
    url = "https://images.example/fox.png"
    data_url = "data:image/png;base64," + base64.b64encode(PNG).decode()
    items = [item(), item(url, id="ig_2"), item(data_url, id="ig_3")]
    async with upstream() as api, door_before(HttpBackend(api.url)) as address:
        answers(api, response(*items))
        _, body = await post(address, {"prompt": "a"}, GENERATION_PATHS[0])
    first, second, third = body["data"]
    assert second == {"url": url}
    assert first == third == {"b64_json": base64.b64encode(PNG).decode(), "media_type": "image/png"}


@pytest.mark.parametrize(
    ("keys", "key"),
    [({}, "url"), ({"response_format": "b64_json"}, "b64_json"), ({"stream": True}, "b64_json")],
)
async def test_a_model_whose_api_sent_urls_gets_data_urls_unless_base64_is_requested(
    keys: Any, key: str
) -> None:
    body = SMALL | {"model": "dall-e-3"} | keys
    async with door_before(EmbeddedBackend()) as address:
        if body.get("stream"):
            [image] = await stream_of(address, body)
        else:
            _, answer = await post(address, body, GENERATION_PATHS[0])
            [image] = answer["data"]
    [text] = [image[name] for name in ("url", "b64_json") if name in image]
    assert key in image
    start = "data:image/png;base64," if key == "url" else ""
    assert text.startswith(start)
    assert base64.b64decode(text.removeprefix(start), validate=True).startswith(b"\x89PNG")


async def test_several_images_of_a_stream_are_told_apart() -> None:
    async with door_before(EmbeddedBackend()) as address:
        found = await stream_of(address, SMALL | {"n": 3, "partial_images": 1})
    assert sorted((event["image_index"], event["type"][17:]) for event in found) == [
        (index, kind) for index in range(3) for kind in ("completed", "partial_image")
    ]
    for index in range(3):
        of_image = [event["type"] for event in found if event["image_index"] == index]
        assert of_image[-1] == "image_generation.completed"
    assert sum("usage" in event for event in found) == 3


@pytest.mark.parametrize(
    "answer",
    [
        response(),
        response(item(None, status="failed")),
        response(status="failed", error={"code": "server_error", "message": "it failed"}),
        response(status="incomplete", incomplete_details={"reason": "max_output_tokens"}),
    ],
)
@pytest.mark.parametrize("streams", [False, True])
async def test_an_answer_without_an_image_is_not_to_be_sent_again(
    answer: Any, streams: bool
) -> None:
    async with upstream() as api, door_before(HttpBackend(api.url)) as address:
        answers(api, answer)
        got, said = await post(address, {"prompt": "a", "stream": streams}, GENERATION_PATHS[0])
    assert (got.status, got.headers["x-should-retry"]) == (424, "false")
    assert said["error"]["message"]


@pytest.mark.parametrize("streams", [False, True])
async def test_a_prompt_that_moderation_blocks_is_a_400_in_the_words_of_the_api(
    streams: bool,
) -> None:
    error = {"code": "moderation_blocked", "message": "the prompt was rejected"}
    async with upstream() as api, door_before(HttpBackend(api.url)) as address:
        answers(api, response(item(None, status="failed", error=error), status="failed"))
        got, said = await post(address, {"prompt": "a", "stream": streams}, GENERATION_PATHS[0])
    assert got.status == 400
    assert "the prompt was rejected" in said["error"]["message"]
    assert said["error"]["type"] == "moderation_blocked"


async def test_the_words_of_a_model_that_makes_no_image_are_in_the_error() -> None:
    message = {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": "which fox?", "annotations": []}],
    }
    async with upstream() as api, door_before(HttpBackend(api.url)) as address:
        answers(api, response(message))
        _, said = await post(address, {"prompt": "a"}, GENERATION_PATHS[0])
    assert "the model wrote: which fox?" in said["error"]["message"]


@pytest.mark.parametrize("streams", [False, True])
async def test_the_failure_of_one_call_is_the_answer_and_may_be_billed(streams: bool) -> None:
    async with upstream() as api, door_before(HttpBackend(api.url)) as address:
        failing = Answer((b'{"error":{"message":"busy"}}',), status=503, content_type=JSON)
        api.answers = [Answer((HANG,), content_type=SSE if streams else JSON), failing]
        body = {"prompt": "a", "n": 2, "stream": streams}
        got, said = await post(address, body, GENERATION_PATHS[0])
        await api.left.wait()
    assert (got.status, got.headers["x-should-retry"]) == (424, "false")
    assert "busy" in said["error"]["message"]


@pytest.mark.parametrize("streams", [False, True])
async def test_a_refusal_of_all_calls_stays_a_400(streams: bool) -> None:
    async with door_before(EmbeddedBackend()) as address:
        body = SMALL | {"size": "5x5", "n": 4, "stream": streams}
        got, _ = await post(address, body, GENERATION_PATHS[0])
    assert got.status == 400


async def test_a_failure_in_the_middle_of_a_stream_is_an_error_that_both_sdks_raise() -> None:
    body: Any = SMALL | {"partial_images": 1}
    fault: Any = {"embedded": {"http_status": 500, "midway": True}}
    async with door_before(EmbeddedBackend()) as address, sdk(address) as client:
        stream = await client.images.generate(stream=True, extra_body=fault, **body)
        with pytest.raises(openai.APIError, match="asked for a failure"):
            [event async for event in stream]
        *_, last = await stream_of(address, body | fault, GENERATION_PATHS[1])
    assert openrouter.components.ImageGenStreamErrorEvent.model_validate(last)


async def test_each_image_counts_as_a_call_in_progress() -> None:
    admission = Admission(Limits(calls=2))
    async with door_before(EmbeddedBackend(), admission=admission) as address:
        for streams in (False, True):
            body = SMALL | {"n": 3, "stream": streams}
            got, said = await post(address, body, GENERATION_PATHS[0])
            assert (got.status, said["error"]["type"]) == (429, "too_many_calls")
            assert "retry-after" in got.headers
        got, _ = await post(address, SMALL | {"n": 2}, GENERATION_PATHS[0])
        assert got.status == 200
    assert admission.in_progress == 0
    assert admission.budget.held == 0


async def test_the_calls_of_several_images_have_idempotency_keys_of_their_own() -> None:
    async with upstream() as api, door_before(HttpBackend(api.url)) as address:
        answers(api, response(item()))
        headers = {"content-type": "application/json", "idempotency-key": "k"}
        body = {"prompt": "a", "n": 3}
        await post(address, body, GENERATION_PATHS[0], headers=headers)
    keys = [request.headers["idempotency-key"] for request in api.requests]
    assert sorted(keys) == ["k", "k-1", "k-2"]


async def test_an_image_of_megabytes_comes_whole_plain_and_streamed() -> None:
    size = 3_000_001
    body: Any = SMALL | {"extra_body": {"embedded": {"image_bytes": size}}}
    async with door_before(EmbeddedBackend()) as address, sdk(address) as client:
        plain = await client.images.generate(**body)
        [last] = [event async for event in await client.images.generate(stream=True, **body)]
    assert plain.data is not None
    assert len(png_of(plain.data[0])) == size
    assert last.b64_json == plain.data[0].b64_json


async def test_a_silent_stream_gets_comments() -> None:
    body = SMALL | {"stream": True, "embedded": {"delay_seconds": 0.5}}
    async with (
        door_before(EmbeddedBackend(), keepalive_seconds=0.1) as address,
        aiohttp.ClientSession() as session,
        session.post(f"http://{address}{GENERATION_PATHS[0]}", json=body) as answer,
    ):
        text = await answer.text()
    assert text.startswith(": keepalive\n\n")
    assert "image_generation.completed" in text


@pytest.mark.parametrize("streams", [False, True])
async def test_the_work_ends_when_the_client_leaves(streams: bool) -> None:
    async with upstream() as api, door_before(HttpBackend(api.url)) as address:
        api.say(HANG)
        body = {"prompt": "a", "stream": streams, "n": 2}
        asking = asyncio.create_task(post(address, body, GENERATION_PATHS[0]))
        await api.arrived.wait()
        asking.cancel()
        await api.left.wait()


LARGE = PNG + bytes(range(256)) * 1000


@pytest.mark.parametrize("image", [PNG, LARGE], ids=["small", "large"])
@pytest.mark.parametrize(
    "frame",
    [
        lambda image: framed(happy(image)),
        lambda image: framed(happy(image), named=True),
        lambda image: framed(without(happy(image), "output_item.done")),
        lambda image: framed(
            [
                event | {"item": item(None)} if event["type"].endswith("item.done") else event
                for event in happy(image)
            ]
        ),
        lambda image: framed(without(happy(image), "response.completed"), done=False),
        lambda image: framed(without(happy(image), "created", "in_progress", "generating")),
    ],
    ids=["usual", "named", "only at the end", "null before the end", "no end", "no beginning"],
)
async def test_a_stream_of_an_api_ends_with_the_image_wherever_it_came(
    frame: Any, image: bytes
) -> None:
    async with upstream() as api, door_before(HttpBackend(api.url)) as address:
        api.say(frame(image))
        [event] = await stream_of(address, {"prompt": "a"})
    assert event["type"] == "image_generation.completed"
    assert base64.b64decode(event["b64_json"]) == image


@pytest.mark.parametrize("streams", [False, True])
async def test_an_api_that_answers_the_other_way_is_read_too(streams: bool) -> None:
    async with upstream() as api, door_before(HttpBackend(api.url)) as address:
        if streams:
            answers(api, response(item(LARGE)))
            [image] = await stream_of(address, {"prompt": "a"})
        else:
            api.say(framed(happy(LARGE)))
            _, body = await post(address, {"prompt": "a"}, GENERATION_PATHS[0])
            [image] = body["data"]
    assert base64.b64decode(image["b64_json"]) == LARGE
