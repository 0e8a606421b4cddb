"""The backend that calls an Images API: answers of engines in, items, events and errors out."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Any

import pytest

import imagecall
from imagecall.access.budget import MEMORY, Budget
from imagecall.backends.images_api import fetch
from imagecall.backends.images_api.answers import ImagesJson, ImagesStream
from imagecall.backends.images_api.backend import ImagesBackend
from imagecall.errors import ConversionError, GenerationError, ImagecallError
from imagecall.generation.assembly import StreamItem, reassemble
from imagecall.generation.image_events import FinalImage
from imagecall.generation.request import request_from_json
from imagecall.generation.response import response_to_json
from imagecall.v1.image_generation_service_pb2 import (
    GenerateImageRequest,
    StreamEnd,
    StreamEnding,
    StreamImageRequest,
)
from imagecall.v1.image_request_pb2 import ImageRequest
from tests.images_api import (
    B64,
    ENGINES,
    JPEG,
    PARTIALS,
    SVG,
    USAGE,
    Engine,
    ImagesApi,
    b64,
    images_api,
    openai_events,
)
from tests.images_api import STREAMS as ENGINE_STREAMS
from tests.streams import PNG
from tests.upstream import HANG, JSON, RESET, Answer

KEY = "sk-test-0123456789abcdef"
MIB = 1024 * 1024
TOOL: Mapping[str, Any] = {"type": "image_generation"}
DATA_URL = f"data:image/png;base64,{B64}"
CALL: Mapping[str, Any] = {
    "type": "image_generation_call",
    "id": "ig_1",
    "status": "completed",
    "result": B64,
}


@pytest.fixture
async def api() -> AsyncIterator[ImagesApi]:
    async with images_api() as server:
        yield server


@pytest.fixture
async def backend(api: ImagesApi) -> AsyncIterator[ImagesBackend]:
    backend = ImagesBackend(api.url, KEY)
    yield backend
    await backend.close()


def request(text: Any = "a fox", **keys: Any) -> ImageRequest:
    """The request of a body of POST /responses."""
    return request_from_json(json.dumps({"input": text, **keys})).request


def user(*images: str, text: str = "make it blue") -> dict[str, Any]:
    """A message with a prompt and images."""
    parts = [{"type": "input_image", "image_url": image} for image in images]
    content = [{"type": "input_text", "text": text}, *parts]
    return {"type": "message", "role": "user", "content": content}


async def generate(backend: ImagesBackend, asked: ImageRequest | None = None) -> Any:
    answer = await backend.generate_image(GenerateImageRequest(request=asked or request()))
    return answer.response


async def stream(backend: ImagesBackend, asked: ImageRequest | None = None) -> list[StreamItem]:
    parts = backend.stream_image(StreamImageRequest(request=asked or request()))
    async with aclosing(parts):
        return [event async for event in reassemble(parts)]


def types(events: list[StreamItem]) -> list[str]:
    return [
        StreamEnding.Name(event.ending)
        if isinstance(event, StreamEnd)
        else json.loads(imagecall.event_to_json(event))["type"].removeprefix("response.")
        for event in events
    ]


def answer_json(*data: Any, **keys: Any) -> bytes:
    return json.dumps({"created": 1, "data": [*data], **keys}).encode()


def event(value: Any, name: str = "") -> bytes:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(value)}\n\n".encode()


def partly(**tool: Any) -> ImageRequest:
    """A request for partial images."""
    return request(tools=[{**TOOL, "partial_images": 3, **tool}])


def item_of(call: Any) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(imagecall.to_json(call))
    return value


def usage_of(response: Any) -> Any:
    return json.loads(response_to_json(response)).get("usage", {})


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Engine:
    return ENGINES[request.param]


@pytest.mark.parametrize("indent", [None, 2])
async def test_the_answer_of_each_engine_becomes_a_call(
    api: ImagesApi, engine: Engine, indent: int | None
) -> None:
    api.say(json.dumps(engine.answer, indent=indent).encode(), content_type=JSON)
    backend = ImagesBackend(api.url + engine.path, KEY)
    response = await generate(backend)
    await backend.close()
    [call] = response.calls
    item = item_of(call)
    assert item.pop("id").startswith("ig_")
    assert item == {
        "type": "image_generation_call",
        "status": "completed",
        "result": b64(engine.image),
        **engine.item,
    }
    assert response.status == "completed"
    assert usage_of(response) == engine.usage


async def test_a_caller_that_streams_gets_the_events_of_a_call(
    api: ImagesApi, engine: Engine
) -> None:
    api.say(json.dumps(engine.answer).encode(), content_type=JSON)
    backend = ImagesBackend(api.url + engine.path, KEY)
    events = await stream(backend)
    await backend.close()
    assert types(events) == [
        "output_item.added",
        "image_generation_call.in_progress",
        "image_generation_call.generating",
        "image_generation_call.completed",
        "output_item.done",
        "STREAM_ENDING_COMPLETED",
    ]
    done: Any = events[-2]
    assert item_of(done.output_item_done_event.item)["result"] == b64(engine.image)


@pytest.mark.parametrize("size", [1, 15_000, 17_000, 300_000, 3 * MIB, 8 * MIB])
@pytest.mark.parametrize("cut", [1000, 65_536])
async def test_an_image_of_any_size_is_decoded_while_it_arrives(
    api: ImagesApi, backend: ImagesBackend, size: int, cut: int
) -> None:
    if size // cut > 2000:
        cut = size // 2000
    image = PNG + bytes(index % 251 for index in range(size))
    body = answer_json({"b64_json": b64(image), "revised_prompt": "a b64_json"}, usage=USAGE)
    api.say(*(body[at : at + cut] for at in range(0, len(body), cut)), content_type=JSON)
    response = await generate(backend)
    assert item_of(response.calls[0])["result"] == b64(image)
    assert item_of(response.calls[0])["revised_prompt"] == "a b64_json"
    assert usage_of(response) == USAGE


def test_a_stream_cut_off_at_any_byte_has_its_image_or_fails() -> None:
    for name, whole in ENGINE_STREAMS.items():
        final = whole.rfind(B64.encode())
        for end in range(len(whole)):
            stream = ImagesStream(1, 3, (), MIB, MIB)
            try:
                events = [*stream.feed(whole[:end]), *stream.finish()]
            except GenerationError as error:
                assert error.may_be_billed
                assert end < whole.find(b"\n\n", final), f"{name} after {end} bytes"
            else:
                assert end > final, name
                assert sum(isinstance(each, FinalImage) for each in events) == 1


def test_an_answer_with_any_byte_changed_is_read_or_refused() -> None:
    for engine in ENGINES.values():
        whole = json.dumps(engine.answer).encode()
        for at in range(0, len(whole), 3):
            for other in (b'"', b"}", b"\\", b"\n", b"0", b"\xff"):
                answer = ImagesJson((), MIB, MIB)
                try:
                    answer.reader.feed(whole[:at] + other + whole[at + 1 :])
                    list(answer.finish({}))
                except GenerationError as error:
                    assert error.may_be_billed


async def test_a_partial_image_without_data_costs_no_image(
    api: ImagesApi, backend: ImagesBackend
) -> None:
    first, second, final = openai_events("image_generation")
    api.say(event({**first, "b64_json": ""}), event({**second, "b64_json": "#"}), event(final))
    assert "image_generation_call.partial_image" not in types(await stream(backend, partly()))


async def test_several_images_become_several_calls_with_ids_of_their_own(
    api: ImagesApi, backend: ImagesBackend
) -> None:
    api.say(answer_json({"b64_json": B64}, {"b64_json": b64(JPEG)}), content_type=JSON)
    asked = request(tools=[{**TOOL, "n": 2}])
    first = await generate(backend, asked)
    assert [item_of(call)["result"] for call in first.calls] == [B64, b64(JPEG)]
    assert api.requests[0].body == {"prompt": "a fox", "n": 2}
    ids = [item_of(call)["id"] for call in first.calls]
    assert len({*ids}) == 2
    assert ids == [item_of(call)["id"] for call in (await generate(backend, asked)).calls]
    other = await generate(backend, request("another fox", tools=[{**TOOL, "n": 2}]))
    assert not {*ids} & {item_of(call)["id"] for call in other.calls}


@pytest.mark.parametrize("name", ENGINE_STREAMS)
@pytest.mark.parametrize("cut", [1, 1000])
async def test_the_stream_of_each_engine_becomes_the_events_of_a_call(
    api: ImagesApi, backend: ImagesBackend, name: str, cut: int
) -> None:
    body = ENGINE_STREAMS[name]
    api.say(*(body[at : at + cut] for at in range(0, len(body), cut)))
    events = await stream(backend, partly())
    assert api.requests[0].body["stream"] is True
    assert types(events) == [
        "output_item.added",
        "image_generation_call.in_progress",
        "image_generation_call.generating",
        *["image_generation_call.partial_image"] * PARTIALS[name],
        "image_generation_call.completed",
        "output_item.done",
        "STREAM_ENDING_COMPLETED",
    ]
    done: Any = events[-2]
    assert item_of(done.output_item_done_event.item)["result"] == B64


@pytest.mark.parametrize("size", [1, 300_000, 3 * MIB, 8 * MIB])
async def test_large_images_of_a_stream_come_whole(
    api: ImagesApi, backend: ImagesBackend, size: int
) -> None:
    image = PNG + bytes(index % 251 for index in range(size))
    api.say(*map(event, openai_events("image_generation", image)))
    events: list[Any] = await stream(backend, partly())
    assert events[3].image_gen_call_partial_image_event.partial_image_b64.image == image
    assert item_of(events[-2].output_item_done_event.item)["result"] == b64(image)


async def test_a_stream_is_requested_only_for_partial_images_of_a_caller_that_streams(
    api: ImagesApi, backend: ImagesBackend
) -> None:
    api.say(answer_json({"b64_json": B64}), content_type=JSON)
    await stream(backend)
    await stream(backend, request(tools=[{**TOOL, "partial_images": 0}]))
    await generate(backend, partly())
    await stream(backend, partly())
    sent = [("stream" in each.body, each.body.get("partial_images")) for each in api.requests]
    assert sent == [(False, None), (False, None), (False, None), (True, 3)]


async def test_no_more_partial_images_are_passed_on_than_were_requested(
    api: ImagesApi, backend: ImagesBackend
) -> None:
    api.say(*map(event, openai_events("image_generation", partials=5)))
    events = await stream(backend, partly(partial_images=1))
    assert types(events).count("image_generation_call.partial_image") == 1


async def test_a_stream_that_was_not_requested_is_read(
    api: ImagesApi, backend: ImagesBackend
) -> None:
    api.say(*map(event, openai_events("image_generation")))
    response = await generate(backend)
    assert [item_of(call)["result"] for call in response.calls] == [B64]
    assert usage_of(response) == USAGE


async def test_settings_go_to_the_api_as_they_are(api: ImagesApi, backend: ImagesBackend) -> None:
    api.say(answer_json({"b64_json": B64}), content_type=JSON)
    settings = {
        "size": "1024x1536",
        "quality": "high",
        "background": "transparent",
        "output_format": "webp",
        "output_compression": 80,
        "moderation": "low",
        "seed": 18446744073709551615,
        "guidance_scale": 7.50,
        "negative_prompt": "grün",
        "response_format": "b64_json",
    }
    tool = {**TOOL, "model": "gpt-image-1", "action": "auto", "style": None, **settings}
    await generate(backend, request(tools=[tool], model="gpt-5", user="u1", store=False))
    [sent] = api.requests
    assert sent.path == "/v1/images/generations"
    assert sent.headers["authorization"] == f"Bearer {KEY}"
    assert sent.headers["content-type"] == "application/json"
    assert sent.body == {"prompt": "a fox", "model": "gpt-image-1", **settings, "user": "u1"}


@pytest.mark.parametrize("parameters", [{}, {"parameters": None}, {"parameters": {}}])
async def test_the_tool_of_openrouter_may_have_no_parameters(
    api: ImagesApi, backend: ImagesBackend, parameters: Any
) -> None:
    api.say(answer_json({"b64_json": B64}), content_type=JSON)
    tool = {"type": "openrouter:image_generation", "seed": 1, **parameters}
    await generate(backend, request(tools=[tool]))
    assert api.requests[0].body == {"prompt": "a fox", "seed": 1}


async def test_the_model_of_the_request_is_sent_if_the_tool_has_none(
    api: ImagesApi, backend: ImagesBackend
) -> None:
    api.say(answer_json({"b64_json": B64}), content_type=JSON)
    response = await generate(backend, request(model="Qwen/Qwen-Image"))
    assert api.requests[0].body == {"prompt": "a fox", "model": "Qwen/Qwen-Image"}
    assert response.model == "Qwen/Qwen-Image"


EDITS: Mapping[str, tuple[Any, list[tuple[str, bytes]]]] = {
    "an input image": ([user(DATA_URL)], [("image", PNG)]),
    "two input images": (
        [user(DATA_URL, f"data:image/jpeg;base64,{b64(JPEG)}")],
        [("image[]", PNG), ("image[]", JPEG)],
    ),
    "an earlier call": ([CALL, user()], [("image", PNG)]),
    "an earlier call and an image": (
        [{**CALL, "result": b64(JPEG)}, user(DATA_URL)],
        [("image[]", JPEG), ("image[]", PNG)],
    ),
}


@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize("masked", [False, True])
async def test_a_prompt_with_images_is_an_edit(
    api: ImagesApi, backend: ImagesBackend, name: str, masked: bool
) -> None:
    api.say(answer_json({"b64_json": B64}), content_type=JSON)
    asked, images = EDITS[name]
    mask = {"input_image_mask": {"image_url": DATA_URL}} if masked else {}
    tool = {**TOOL, "size": "auto", "n": 1, "input_fidelity": "high", "svg": {"model": "m"}}
    await generate(backend, request(asked, tools=[{**tool, **mask}], user="u1"))
    [sent] = api.requests
    assert sent.path == "/v1/images/edits"
    texts = [(each.name, each.data) for each in sent.body if each.filename is None]
    assert texts == [
        ("prompt", b"make it blue"),
        ("size", b"auto"),
        ("input_fidelity", b"high"),
        ("svg[model]", b"m"),
        ("n", b"1"),
        ("user", b"u1"),
    ]
    files = [(each.name, each.data) for each in sent.body if each.filename is not None]
    assert files == [*images, *([("mask", PNG)] if masked else [])]
    kinds = {each.content_type for each in sent.body if each.filename is not None}
    assert kinds <= {"image/png", "image/jpeg"}


async def test_a_large_image_is_uploaded_whole(api: ImagesApi, backend: ImagesBackend) -> None:
    image = PNG + bytes(index % 251 for index in range(5 * MIB))
    api.say(answer_json({"b64_json": B64}), content_type=JSON)
    asked = ImageRequest(prompt="a fox")
    asked.input_images.add(image=image)
    await generate(backend, asked)
    assert api.requests[0].body[-1].data == image


async def test_an_edit_that_streams_asks_so_in_the_form(
    api: ImagesApi, backend: ImagesBackend
) -> None:
    api.say(*map(event, openai_events("image_edit")))
    tools = [{**TOOL, "partial_images": 2}]
    events = await stream(backend, request([user(DATA_URL)], tools=tools))
    assert "image_generation_call.partial_image" in types(events)
    texts = {each.name: each.data for each in api.requests[0].body}
    assert (texts["stream"], texts["partial_images"]) == (b"true", b"2")


async def test_an_edit_of_a_url_or_a_file_is_json(api: ImagesApi, backend: ImagesBackend) -> None:
    api.say(answer_json({"b64_json": B64}), content_type=JSON)
    message = user("https://example.com/fox.png", DATA_URL)
    message["content"].append({"type": "input_image", "file_id": "file-1"})
    tool = {**TOOL, "input_image_mask": {"file_id": "file-2"}}
    await generate(backend, request([message], tools=[tool]))
    [sent] = api.requests
    assert sent.path == "/v1/images/edits"
    assert sent.body == {
        "prompt": "make it blue",
        "images": [
            {"image_url": "https://example.com/fox.png"},
            {"image_url": DATA_URL},
            {"file_id": "file-1"},
        ],
        "mask": {"file_id": "file-2"},
    }


async def test_openrouter_has_one_method_for_both(api: ImagesApi) -> None:
    api.say(answer_json({"b64_json": B64}), content_type=JSON)
    backend = ImagesBackend(f"{api.url}/images", KEY)
    tool = {"type": "openrouter:image_generation", "parameters": {"aspect_ratio": "16:9"}}
    await generate(backend, request([CALL, user("https://example.com/a.png")], tools=[tool]))
    await stream(backend, partly())
    with pytest.raises(ConversionError) as refused:
        mask = {"input_image_mask": {"image_url": DATA_URL}}
        await generate(backend, request([user(DATA_URL)], tools=[{**TOOL, **mask}]))
    await backend.close()
    edit, generation = api.requests
    assert edit.path == generation.path == "/v1/images"
    assert edit.body == {
        "prompt": "make it blue",
        "aspect_ratio": "16:9",
        "input_references": [
            {"type": "image_url", "image_url": {"url": DATA_URL}},
            {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        ],
    }
    assert generation.body == {"prompt": "a fox", "stream": True}
    assert refused.value.pointer == "/tools/0/input_image_mask/image_url"


MESSAGE = {"type": "message", "role": "assistant", "content": "hello"}
REFUSED: Mapping[str, tuple[dict[str, Any], str, str | None]] = {
    "a message": ({"input": [MESSAGE, user()]}, "UNSUPPORTED", "/input/0"),
    "an item of another type": (
        {"input": [CALL, {"type": "item_reference", "id": "ig_1"}, user()]},
        "UNSUPPORTED",
        "/input/1",
    ),
    "an earlier call without its image": (
        {"input": [{**CALL, "result": None}, user()]},
        "UNSUPPORTED",
        "/input/0",
    ),
    "no prompt": ({"input": [CALL]}, "EMPTY_PROMPT", "/input"),
    "a stored response": ({"previous_response_id": "resp_1"}, "UNSUPPORTED", None),
    "a conversation": ({"conversation": "conv_1"}, "UNSUPPORTED", None),
    "a stored prompt": ({"prompt": {"id": "pmpt_1"}}, "UNSUPPORTED", None),
    "instructions": ({"instructions": "Draw well."}, "UNSUPPORTED", None),
    "an answer in the background": ({"background": True}, "UNSUPPORTED", None),
    "no image": ({"tool_choice": "none"}, "UNSUPPORTED", None),
    "another tool chosen": ({"tool_choice": {"type": "web_search"}}, "UNSUPPORTED", None),
    "an unknown key": ({"wishes": 1}, "UNSUPPORTED", None),
    "a fault for the embedded backend": ({"embedded": {}}, "UNSUPPORTED", None),
    "another tool": ({"tools": [TOOL, {"type": "web_search"}]}, "UNSUPPORTED", "/tools/1"),
    "several image tools": ({"tools": [TOOL, TOOL]}, "UNSUPPORTED", "/tools/1"),
    "a mask without an image": (
        {"tools": [{**TOOL, "input_image_mask": {"image_url": DATA_URL}}]},
        "UNSUPPORTED",
        "/tools/0/input_image_mask",
    ),
    "an empty mask": (
        {"input": [user(DATA_URL)], "tools": [{**TOOL, "input_image_mask": {}}]},
        "UNSUPPORTED",
        "/tools/0/input_image_mask",
    ),
    "an edit without an image": (
        {"tools": [{**TOOL, "action": "edit"}]},
        "UNSUPPORTED",
        "/tools/0/action",
    ),
    "a generation with an image": (
        {"input": [user(DATA_URL)], "tools": [{**TOOL, "action": "generate"}]},
        "UNSUPPORTED",
        "/tools/0/action",
    ),
    "an image that is no image": (
        {"input": [user("data:image/png;base64,#")]},
        "UNSUPPORTED",
        "/input/0",
    ),
    "a file of the server": ({"input": [user("file:///etc/passwd")]}, "UNSUPPORTED", "/input/0"),
    "a key of the body as a setting": (
        {"tools": [{**TOOL, "stream": True}]},
        "UNSUPPORTED",
        "/tools/0/stream",
    ),
    "a setting that breaks the form": (
        {"input": [user(DATA_URL)], "tools": [{**TOOL, 'a"\r\nb': 1}]},
        "UNSUPPORTED",
        '/tools/0/a"\r\nb',
    ),
    "a key that breaks the form": (
        {"provider": {"a\r\nb": 1}, "input": [user(DATA_URL)]},
        "UNSUPPORTED",
        "/provider",
    ),
    "a model that is no text": (
        {"tools": [{**TOOL, "model": 5}]},
        "WRONG_TYPE",
        "/tools/0/model",
    ),
    "parameters that are no object": (
        {"tools": [{"type": "openrouter:image_generation", "parameters": 5}]},
        "WRONG_TYPE",
        "/tools/0/parameters",
    ),
    "a number that is none": (
        {"tools": [{**TOOL, "n": "two"}]},
        "WRONG_TYPE",
        "/tools/0/n",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("ask", [generate, stream])
async def test_a_request_that_cannot_be_mapped_is_refused_and_not_sent(
    api: ImagesApi, backend: ImagesBackend, name: str, ask: Callable[..., Any]
) -> None:
    keys, reason, pointer = REFUSED[name]
    with pytest.raises(ConversionError) as refused:
        await ask(backend, request_from_json(json.dumps({"input": "a fox", **keys})).request)
    assert refused.value.reason == reason
    assert refused.value.pointer == (f"/{next(iter(keys))}" if pointer is None else pointer)
    assert not api.requests


HARMLESS = {
    "store": True,
    "service_tier": "auto",
    "temperature": 0.5,
    "metadata": {"a": "b"},
    "parallel_tool_calls": True,
    "background": False,
    "instructions": None,
    "previous_response_id": None,
    "tool_choice": {"type": "image_generation"},
    "reasoning": {"effort": "low"},
    "include": [],
}


async def test_keys_that_concern_a_model_of_text_are_left_out(
    api: ImagesApi, backend: ImagesBackend
) -> None:
    api.say(answer_json({"b64_json": B64}), content_type=JSON)
    await generate(backend, request_from_json(json.dumps({"input": "a fox", **HARMLESS})).request)
    assert api.requests[0].body == {"prompt": "a fox"}


async def test_a_refusal_of_each_engine_is_the_answer(api: ImagesApi, engine: Engine) -> None:
    status, body = engine.error
    api.say(json.dumps(body).encode(), status=status, content_type=JSON)
    backend = ImagesBackend(api.url + engine.path, KEY)
    with pytest.raises(GenerationError) as failed:
        await generate(backend)
    await backend.close()
    assert engine.sentence in str(failed.value)
    assert failed.value.metadata["http_status"] == str(status)
    assert not failed.value.may_be_billed
    assert len(api.requests) == 1


BILLED: Mapping[str, tuple[Answer, str]] = {
    "nothing": (Answer(status=None, steps=[RESET]), "UPSTREAM_DISCONNECTED"),
    "silence": (Answer(status=None, steps=[HANG]), "UPSTREAM_TIMEOUT"),
    "half an answer": (
        Answer([answer_json({"b64_json": B64})[:40]], content_type=JSON, whole=False),
        "UPSTREAM_DAMAGED",
    ),
    "half a large image": (
        Answer([answer_json({"b64_json": "A" * MIB})[:90_000]], content_type=JSON),
        "UPSTREAM_DAMAGED",
    ),
    "no images": (Answer([answer_json()], content_type=JSON), "UPSTREAM_DAMAGED"),
    "an empty image": (
        Answer([answer_json({"b64_json": ""})], content_type=JSON),
        "UPSTREAM_DAMAGED",
    ),
    "an image without data": (Answer([answer_json({})], content_type=JSON), "UPSTREAM_DAMAGED"),
    "no base64": (Answer([answer_json({"b64_json": "#"})], content_type=JSON), "UPSTREAM_DAMAGED"),
    "large text that is no base64": (
        Answer([answer_json({"b64_json": "A" * 50_000 + "#" * 50_000})], content_type=JSON),
        "UPSTREAM_DAMAGED",
    ),
    "a url with two hosts": (
        Answer([answer_json({"url": "http://8.8.8.8\\@127.0.0.1/a"})], content_type=JSON),
        "UPSTREAM_DAMAGED",
    ),
    "a url of no host": (
        Answer([answer_json({"url": "file:///etc/passwd"})], content_type=JSON),
        "UPSTREAM_DAMAGED",
    ),
    "HTML": (Answer([b"<html>"], content_type="text/html"), "UPSTREAM_NOT_UNDERSTOOD"),
    "other JSON": (Answer([b'{"a":1}'], content_type=JSON), "UPSTREAM_NOT_UNDERSTOOD"),
    "a list": (Answer([b"[]"], content_type=JSON), "UPSTREAM_NOT_UNDERSTOOD"),
    "an empty body": (Answer([], content_type=JSON), "UPSTREAM_NOT_UNDERSTOOD"),
    "a foreign stream": (Answer([event({"a": 1})]), "UPSTREAM_NOT_UNDERSTOOD"),
    "an error with the status 200": (
        Answer([b'{"error":{"message":"no","code":429}}'], content_type=JSON),
        "UPSTREAM_RATE_LIMITED",
    ),
    "an error of text with the status 200": (
        Answer([b'{"error":"server_error","message":"out of memory"}'], content_type=JSON),
        "UPSTREAM_UNAVAILABLE",
    ),
    "an error as an event": (
        Answer(
            [
                event(openai_events("image_generation")[0]),
                event({"type": "error", "error": {"message": "no", "code": "moderation_blocked"}}),
            ]
        ),
        "UPSTREAM_INVALID_REQUEST",
    ),
    "the error of vLLM-Omni": (
        Answer([event({"object": "error", "error": {"message": "no", "code": 500}})]),
        "UPSTREAM_UNAVAILABLE",
    ),
    "an error by its name": (Answer([b"event: error\ndata: no\n\n"]), "UPSTREAM_UNAVAILABLE"),
    "a stream that ends before its image": (
        Answer([event(openai_events("image_generation")[0]), b"data: [DONE]\n\n"]),
        "UPSTREAM_DAMAGED",
    ),
    "a stream that is cut off": (
        Answer([event(openai_events("image_generation")[2])[:-60]], whole=False),
        "UPSTREAM_DAMAGED",
    ),
    "a second image that is cut off": (
        Answer(
            [
                event(openai_events("image_generation")[2]),
                event(openai_events("image_generation")[0]),
            ]
        ),
        "UPSTREAM_DAMAGED",
    ),
    "an event that is not JSON": (Answer([b"data: {\n\n"]), "UPSTREAM_DAMAGED"),
}


@pytest.mark.parametrize("name", BILLED)
@pytest.mark.parametrize("ask", [generate, stream])
async def test_a_failure_after_the_request_may_be_billed_and_is_not_sent_again(
    api: ImagesApi, name: str, ask: Callable[..., Any]
) -> None:
    answer, reason = BILLED[name]
    api.answers = [answer]
    backend = ImagesBackend(api.url, KEY, idle_seconds=0.5 if name == "silence" else 60)
    with pytest.raises(GenerationError) as failed:
        await ask(backend, partly(n=2))
    await backend.close()
    assert (failed.value.reason, failed.value.may_be_billed) == (reason, True)
    assert len(api.requests) == 1


@pytest.mark.parametrize("status", [200, 500])
async def test_the_sentence_of_an_error_beside_its_code_is_the_message(
    api: ImagesApi, backend: ImagesBackend, status: int
) -> None:
    body = b'{"error":"server_error","message":"out of memory"}'
    api.say(body, status=status, content_type=JSON)
    with pytest.raises(GenerationError) as failed:
        await generate(backend)
    assert str(failed.value).endswith(": out of memory")
    assert failed.value.metadata["upstream_code"] == "server_error"


@pytest.mark.parametrize(
    ("param", "pointer"),
    [
        ("prompt", "/input"),
        ("size", "/tools/0/parameters/size"),
        ("seed", "/tools/0/parameters/seed"),
        ("mask", "/tools/0/parameters/input_image_mask"),
        ("images[0].image_url", "/input/0"),
        ("images[1].image_url", "/input/1"),
        ("image", "/input/0"),
        ("user", "/user"),
        ("model", "/model"),
        ("/size", "/tools/0/parameters/size"),
        ("", ""),
        (None, ""),
    ],
)
@pytest.mark.parametrize("ask", [generate, stream])
async def test_an_error_of_the_api_names_the_place_in_the_request(
    api: ImagesApi, backend: ImagesBackend, ask: Callable[..., Any], param: Any, pointer: str
) -> None:
    body = {"error": {"message": "no", "code": "c", "param": param}}
    api.say(json.dumps(body).encode(), status=400, content_type=JSON)
    settings = {"size": "1x1", "seed": 1, "input_image_mask": {"image_url": DATA_URL}}
    tool = {"type": "openrouter:image_generation", "parameters": settings}
    keys = {"input": [CALL, user(DATA_URL)], "tools": [tool], "user": "u", "model": "m"}
    with pytest.raises(GenerationError) as failed:
        await ask(backend, request_from_json(json.dumps(keys)).request)
    assert failed.value.pointer == pointer


async def test_an_error_after_the_image_ends_the_stream_as_failed(
    api: ImagesApi, backend: ImagesBackend
) -> None:
    final = openai_events("image_generation")[2]
    api.say(event(final), event({"type": "error", "error": {"message": "no", "code": 500}}))
    *_, done, end = await stream(backend, partly(n=2))
    assert isinstance(end, StreamEnd)
    assert end.ending == StreamEnding.STREAM_ENDING_FAILED
    assert (end.response.error.message, end.response.status) == ("no", "failed")
    assert types([done]) == ["output_item.done"]


@pytest.mark.parametrize("last", [RESET, HANG, b"data: {broken\n\n"])
async def test_what_follows_the_last_image_does_not_matter(
    api: ImagesApi, backend: ImagesBackend, last: Any
) -> None:
    api.say(*map(event, openai_events("image_generation")), last)
    assert types(await stream(backend, partly()))[-1] == "STREAM_ENDING_COMPLETED"


async def test_a_whole_answer_is_read_though_the_transfer_does_not_end(
    api: ImagesApi, backend: ImagesBackend
) -> None:
    api.say(answer_json({"b64_json": b64(PNG + b"x" * 100_000)}), HANG, content_type=JSON)
    assert len((await generate(backend)).calls) == 1


async def test_heartbeats_are_no_events(api: ImagesApi, backend: ImagesBackend) -> None:
    beats = [b": beat\n\n", b"data:\n\n", b'data: {"type":"keepalive"}\n\n']
    beats.append(b"event: heartbeat\ndata: beat\n\n")
    api.say(*beats, *map(event, openai_events("image_generation")))
    assert len(types(await stream(backend, partly()))) == 8


@pytest.mark.parametrize("ask", [generate, stream])
@pytest.mark.parametrize("framed", [False, True])
async def test_an_image_above_the_limit_is_refused(
    api: ImagesApi, ask: Callable[..., Any], framed: bool
) -> None:
    image = b64(PNG + b"x" * MIB)
    if framed:
        api.say(event({"type": "image_generation.completed", "b64_json": image}))
    else:
        api.say(answer_json({"b64_json": image}), content_type=JSON)
    backend = ImagesBackend(api.url, KEY, max_image_bytes=500_000)
    with pytest.raises(GenerationError) as failed:
        await ask(backend)
    await backend.close()
    assert failed.value.reason == "UPSTREAM_ANSWER_TOO_LARGE"


async def test_the_memory_of_a_call_is_returned(api: ImagesApi, backend: ImagesBackend) -> None:
    budget = Budget(None)
    MEMORY.set(budget.memory())
    image = b64(PNG + b"x" * 3 * MIB)
    api.say(answer_json({"b64_json": image}), content_type=JSON)
    await generate(backend)
    await stream(backend, request([user(DATA_URL)]))
    api.say(*map(event, openai_events("image_generation", PNG + b"x" * 3 * MIB)))
    await stream(backend, partly())
    assert budget.held == 0


async def test_a_client_that_leaves_ends_the_call(api: ImagesApi, backend: ImagesBackend) -> None:
    api.say(HANG, status=None)
    call = asyncio.create_task(generate(backend))
    await api.arrived.wait()
    call.cancel()
    await api.left.wait()


async def test_secrets_are_masked(api: ImagesApi, backend: ImagesBackend) -> None:
    api.say(
        answer_json({"b64_json": B64, "revised_prompt": f"a {KEY}"}, size=KEY), content_type=JSON
    )
    response = await generate(backend)
    assert KEY not in str(response)
    api.say(json.dumps({"error": f"bad {KEY}"}).encode(), status=401, content_type=JSON)
    with pytest.raises(GenerationError) as failed:
        await generate(backend)
    assert KEY not in str(failed.value)
    api.say(event({"type": "error", "error": {"message": f"bad {KEY}"}}))
    with pytest.raises(GenerationError) as failed:
        await generate(backend)
    assert KEY not in str(failed.value)


# The URL of an image in place of the image.


async def test_an_image_of_the_api_itself_is_fetched_with_its_key(
    api: ImagesApi, backend: ImagesBackend
) -> None:
    own = api.url.removesuffix("/v1")
    for url in (
        f"{own}/generated-images/b64.png",
        own.replace("http", "HTTP") + "/a.png?sig=a%2Bb%3D",
        "/v1/images/0a1b/content?variant=0",
    ):
        api.requests.clear()
        api.answers = [
            Answer([answer_json({"url": url, "revised_prompt": "a fox"})], content_type=JSON),
            Answer([JPEG], content_type="image/jpeg"),
        ]
        [call] = (await generate(backend)).calls
        item = item_of(call)
        assert (item["result"], item["output_format"]) == (b64(JPEG), "jpeg")
        assert item["revised_prompt"] == "a fox"
        assert api.requests[1].path == url[len(own) if "://" in url else 0 :]
        assert api.requests[1].headers["authorization"] == f"Bearer {KEY}"


@pytest.fixture
async def elsewhere() -> AsyncIterator[ImagesApi]:
    async with images_api() as server:
        yield server


@pytest.mark.parametrize("leave", [False, True])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0x7f.1"])
async def test_an_image_at_a_private_address_is_never_fetched(
    api: ImagesApi, elsewhere: ImagesApi, leave: bool, host: str
) -> None:
    url = elsewhere.url.replace("127.0.0.1", host) + "/a.png"
    api.say(answer_json({"url": url}), content_type=JSON)
    backend = ImagesBackend(api.url, KEY, fetch_images=leave)
    [call] = (await generate(backend)).calls
    events: list[Any] = await stream(backend)
    await backend.close()
    assert item_of(call)["result"] == url
    assert item_of(events[-2].output_item_done_event.item)["result"] == url
    assert not elsewhere.requests


@pytest.mark.parametrize("leave", [False, True])
async def test_an_image_of_another_host_is_fetched_by_leave_and_without_the_key(
    api: ImagesApi, elsewhere: ImagesApi, leave: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "is_public", lambda address: True)
    url = elsewhere.url + "/a.png"
    api.say(answer_json({"url": url}), content_type=JSON)
    elsewhere.say(SVG, content_type="image/svg+xml")
    backend = ImagesBackend(api.url, KEY, fetch_images=leave)
    [call] = (await generate(backend)).calls
    await backend.close()
    assert item_of(call)["result"] == (b64(SVG) if leave else url)
    assert len(elsewhere.requests) == leave
    assert not any("authorization" in sent.headers for sent in elsewhere.requests)


FETCHES = {
    "a redirect": Answer(status=302, headers={"location": "http://169.254.169.254/"}),
    "an error": Answer([b"no"], status=404),
    "a page": Answer([b"<html></html>"], content_type="text/html"),
    "nothing": Answer([]),
    "half an image": Answer([PNG], whole=False),
    "too much": Answer([PNG + b"x" * 600_000]),
    "silence": Answer([HANG]),
    "a broken connection": Answer([RESET], status=None),
}


@pytest.mark.parametrize("name", FETCHES)
@pytest.mark.parametrize("own", [True, False])
async def test_an_image_that_cannot_be_fetched_may_be_billed(
    api: ImagesApi,
    elsewhere: ImagesApi,
    name: str,
    own: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fetch, "is_public", lambda address: True)
    host = api if own else elsewhere
    answered = Answer([answer_json({"url": f"{host.url}/a.png"})], content_type=JSON)
    api.answers = [answered, FETCHES[name]]
    elsewhere.answers = [FETCHES[name]]
    backend = ImagesBackend(
        api.url, KEY, fetch_images=True, idle_seconds=0.5, max_image_bytes=500_000
    )
    monkeypatch.setattr(backend._fetcher, "_seconds", 0.5)
    with pytest.raises(ImagecallError) as failed:
        await generate(backend)
    await backend.close()
    assert isinstance(failed.value, GenerationError)
    assert failed.value.may_be_billed
    posted = [each for each in api.requests + elsewhere.requests if each.body is not None]
    assert len(posted) == 1


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::808:808", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.0.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("ff02::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:a00:1", False),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
        ("::7f00:1", False),
    ],
)
def test_only_addresses_of_the_internet_are_public(address: str, public: bool) -> None:
    assert fetch.is_public(address) is public
