"""The embedded backend: pictures as the request asks for them, and failures as it asks for them."""

import asyncio
import io
import json
import threading
from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from PIL import Image

import imagecall
from imagecall.backends.embedded import backend as embedded
from imagecall.backends.embedded.backend import EmbeddedBackend
from imagecall.backends.embedded.test_card.card import Card
from imagecall.errors import ConversionError, GenerationError
from imagecall.generation.assembly import reassemble
from imagecall.generation.backend import WholeAnswer
from imagecall.v1.extra_field_pb2 import ExtraField
from imagecall.v1.image_generation_service_pb2 import (
    GenerateImageRequest,
    StreamEnd,
    StreamEnding,
    StreamImageRequest,
)
from imagecall.v1.image_request_pb2 import ImageRequest, InputImage
from imagecall.v1.image_response_pb2 import ImageResponse
from tests.streams import PNG


@pytest.fixture
async def backend() -> AsyncIterator[EmbeddedBackend]:
    backend = EmbeddedBackend()
    yield backend
    await backend.close()


def a_request(
    tool: dict[str, Any] | None = None, tools: list[dict[str, Any]] | None = None, **keys: Any
) -> ImageRequest:
    """A request for a small picture, unless the tool says otherwise, or there are other tools."""
    settings = {"type": "image_generation", "size": "96x64"} | (tool or {})
    if settings["type"] != "image_generation":
        del settings["size"]
    given = [settings] if tools is None else tools
    extra = [ExtraField(name=name, json=json.dumps(value)) for name, value in keys.items()]
    return ImageRequest(
        prompt="a red fox",
        tools=[imagecall.tool_from_json(json.dumps(tool)) for tool in given],
        extra_fields=extra,
    )


async def happenings(backend: EmbeddedBackend, request: ImageRequest, **options: Any) -> list[Any]:
    parts = backend.stream_image(StreamImageRequest(request=request, **options))
    return [happening async for happening in reassemble(parts)]


async def generated(
    backend: EmbeddedBackend, request: ImageRequest, *, include_document: bool = False
) -> ImageResponse:
    """Returns the whole response to a request."""
    asked = GenerateImageRequest(request=request, include_document=include_document)
    return WholeAnswer.of(await backend.generate_image(asked)).whole().response


async def picture(backend: EmbeddedBackend, request: ImageRequest) -> Image.Image:
    [call] = (await generated(backend, request)).calls
    image = imagecall.view(call).image
    assert image is not None
    opened = Image.open(io.BytesIO(image))
    opened.load()
    return opened


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
async def test_formats_and_sizes_are_those_asked_for(
    backend: EmbeddedBackend, output_format: str
) -> None:
    found = await picture(backend, a_request({"output_format": output_format, "size": "320x240"}))
    assert (found.format, found.size) == (output_format.upper(), (320, 240))


async def test_defaults_are_a_square_png(backend: EmbeddedBackend) -> None:
    found = await picture(backend, ImageRequest(prompt="a fox"))
    assert (found.format, found.size, found.mode) == ("PNG", (1024, 1024), "RGB")
    found = await picture(backend, a_request({"size": "auto", "quality": "auto"}))
    assert found.size == (1024, 1024)


async def test_the_tool_of_openrouter_has_an_aspect_ratio(backend: EmbeddedBackend) -> None:
    parameters = {"aspect_ratio": "16:9", "output_format": "webp"}
    tool = {"type": "openrouter:image_generation", "parameters": parameters}
    found = await picture(backend, a_request(tool))
    assert (found.format, found.size) == ("WEBP", (1376, 768))


async def test_a_transparent_background_is_transparent(backend: EmbeddedBackend) -> None:
    found = await picture(
        backend, a_request({"background": "transparent", "output_format": "webp"})
    )
    assert found.convert("RGBA").getpixel((0, 0)) == (0, 0, 0, 0)


async def test_the_same_request_gives_the_same_picture_and_another_another(
    backend: EmbeddedBackend,
) -> None:
    first, other = (
        await picture(backend, a_request()),
        await picture(EmbeddedBackend(), a_request()),
    )
    assert first.tobytes() == other.tobytes()
    changed = a_request()
    changed.prompt = "a blue whale"
    assert (await picture(backend, changed)).tobytes() != first.tobytes()


@pytest.mark.parametrize("count", [0, 1, 3])
async def test_partial_images_come_before_the_final_one(
    backend: EmbeddedBackend, count: int
) -> None:
    found = await happenings(backend, a_request({"partial_images": count}))
    partial = [e.image_gen_call_partial_image_event for e in found[:-1]]
    images = [e.partial_image_b64.image for e in partial if e.HasField("partial_image_b64")]
    assert [e.partial_image_index for e in partial if e.HasField("partial_image_b64")] == list(
        range(count)
    )
    final = found[-2].output_item_done_event.item.output_image_generation_call
    assert len({*images, final.result.image}) == count + 1
    assert all(Image.open(io.BytesIO(image)).size == (96, 64) for image in images)
    assert (final.size, final.output_format, final.revised_prompt) == ("96x64", "png", "a red fox")


async def test_events_come_in_the_order_of_the_apis(backend: EmbeddedBackend) -> None:
    found = await happenings(backend, a_request(), include_other_events=True)
    events = [json.loads(imagecall.event_to_json(event)) for event in found[:-1]]
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "image_generation_call.in_progress",
        "image_generation_call.generating",
        "image_generation_call.completed",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
    ]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[2]["item"]["result"] is None
    assert found[-1].ending == StreamEnding.STREAM_ENDING_COMPLETED


async def test_a_message_follows_the_image(backend: EmbeddedBackend) -> None:
    request = a_request()
    found = await happenings(backend, request, include_other_events=True, include_document=True)
    events = [json.loads(imagecall.event_to_json(event)) for event in found[:-1]]
    text = "Here is a test card of 96x64 pixels, as png."
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    image, message = json.loads(imagecall.document_to_json(found[-1].response.document))["output"]
    assert image == events[6]["item"]
    assert message == events[-1]["item"]
    assert (message["type"], message["role"], message["status"]) == (
        "message",
        "assistant",
        "completed",
    )
    assert message["content"] == [part]
    assert {event["output_index"] for event in events[2:7]} == {0}
    assert {event["output_index"] for event in events[7:]} == {1}
    assert {event["item_id"] for event in events[8:-1]} == {message["id"]}
    assert events[7]["item"] == message | {"status": "in_progress", "content": []}
    assert events[8]["part"] == part | {"text": ""}
    assert "".join(event.get("delta", "") for event in events) == text
    assert (events[-3]["text"], events[-2]["part"]) == (text, part)


async def test_no_event_of_the_message_comes_unless_other_events_are_wanted(
    backend: EmbeddedBackend,
) -> None:
    found = await happenings(backend, a_request())
    kinds = [event.WhichOneof("variant") for event in found[:-1]]
    assert kinds[0] == "output_item_added_event"
    assert kinds[-1] == "output_item_done_event"
    assert "unknown_item" not in kinds


@pytest.mark.parametrize("ending", ["failed", "incomplete"])
async def test_a_response_that_fails_has_no_message(backend: EmbeddedBackend, ending: str) -> None:
    request = a_request(embedded={"ending": ending})
    end = (await happenings(backend, request, include_document=True))[-1]
    output = json.loads(imagecall.document_to_json(end.response.document))["output"]
    assert [item["type"] for item in output] == ["image_generation_call"]


FUNCTION = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
IMAGE = {"type": "image_generation", "size": "96x64"}
OPENROUTER = {"type": "openrouter:image_generation", "parameters": {"size": "96x64"}}


@pytest.mark.parametrize(
    "tools",
    [
        [FUNCTION, IMAGE],
        [IMAGE, FUNCTION],
        [{"type": "web_search"}, FUNCTION, OPENROUTER],
        [FUNCTION, IMAGE, {"type": "image_generation", "size": "bad"}],
    ],
)
async def test_other_tools_are_let_be_wherever_the_image_tool_stands(
    backend: EmbeddedBackend, tools: list[Any]
) -> None:
    assert (await picture(backend, a_request(tools=tools))).size == (96, 64)


async def test_a_pointer_names_the_place_of_the_image_tool(backend: EmbeddedBackend) -> None:
    with pytest.raises(ConversionError) as caught:
        await picture(backend, a_request(tools=[FUNCTION, IMAGE | {"size": "big"}]))
    assert caught.value.pointer == "/tools/1/size"


@pytest.mark.parametrize(
    "choice",
    ["none", {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function"}]}],
)
@pytest.mark.parametrize("tools", [[IMAGE], [FUNCTION], []])
async def test_a_request_that_allows_no_image_is_answered_in_words(
    backend: EmbeddedBackend, choice: Any, tools: list[Any]
) -> None:
    request = a_request(tools=tools, tool_choice=choice)
    answer = await generated(backend, request, include_document=True)
    [message] = json.loads(imagecall.document_to_json(answer.document))["output"]
    assert not answer.calls
    assert message["content"][0]["text"] == 'No image was drawn, as "tool_choice" allows none.'
    found = await happenings(backend, request, include_other_events=True, include_document=True)
    events = [json.loads(imagecall.event_to_json(event)) for event in found[:-1]]
    assert not any("image" in event["type"] for event in events)
    assert {event["output_index"] for event in events[2:]} == {0}
    assert events[-1]["item"] == message
    assert found[-1].response.document.json.count('"message"') == 1
    assert len(await happenings(backend, request)) == 1


@pytest.mark.parametrize(
    "choice",
    [
        "auto",
        "required",
        None,
        {"type": "image_generation"},
        {"type": "allowed_tools", "mode": "required", "tools": [{"type": "image_generation"}]},
    ],
)
async def test_a_request_that_allows_an_image_is_drawn(
    backend: EmbeddedBackend, choice: Any
) -> None:
    assert (await picture(backend, a_request(tool_choice=choice))).size == (96, 64)
    assert (await picture(backend, a_request(tools=[], tool_choice=choice))).size == (1024, 1024)


async def test_partial_images_are_smaller_files_than_the_final_one(
    backend: EmbeddedBackend,
) -> None:
    tool = {"partial_images": 3}
    for request in (a_request(tool), a_request(tool, embedded={"image_bytes": 100_000})):
        *events, _ = await happenings(backend, request)
        partial = [
            len(event.image_gen_call_partial_image_event.partial_image_b64.image)
            for event in events
            if event.HasField("image_gen_call_partial_image_event")
        ]
        final = events[-1].output_item_done_event.item.output_image_generation_call.result.image
        plain = imagecall.view((await generated(backend, a_request())).calls[0]).image
        assert plain is not None
        assert len(partial) == 3
        assert max(partial) < len(plain) <= len(final)


async def test_the_document_is_the_response_with_its_image(backend: EmbeddedBackend) -> None:
    request = a_request(instructions="be quick", metadata={"a": "b"}, user="me")
    answer = await generated(backend, request, include_document=True)
    response = json.loads(imagecall.document_to_json(answer.document))
    assert (response["instructions"], response["metadata"]) == ("be quick", {"a": "b"})
    assert response["output"][0]["result"].startswith("iVBOR")
    assert {"id", "object", "created_at", "tools", "usage", "temperature"} <= set(response)
    streamed = (await happenings(backend, request, include_document=True))[-1]
    assert streamed.response.document.calls[0].call == answer.calls[0]
    assert not streamed.response.calls


UNSUPPORTED = [
    ({"size": "1x1"}, "/tools/0/size"),
    ({"size": "9000x64"}, "/tools/0/size"),
    ({"size": "big"}, "/tools/0/size"),
    ({"quality": "best"}, "/tools/0/quality"),
    ({"background": "blue"}, "/tools/0/background"),
    ({"background": "transparent", "output_format": "jpeg"}, "/tools/0/background"),
    ({"output_format": "bmp"}, "/tools/0/output_format"),
    ({"output_compression": 101}, "/tools/0/output_compression"),
    ({"partial_images": 4}, "/tools/0/partial_images"),
    ({"partial_images": -1}, "/tools/0/partial_images"),
    ({"type": "web_search"}, "/tools/0"),
    ({"output_format": "gif"}, "/tools/0/output_format"),
    ({"output_format": "svg"}, "/tools/0/output_format"),
    ({"n": 2}, "/tools/0/n"),
    ({"n": 0}, "/tools/0/n"),
    ({"n": "1"}, "/tools/0/n"),
    ({"n": True}, "/tools/0/n"),
    (
        {"type": "openrouter:image_generation", "parameters": {"n": 4}},
        "/tools/0/parameters/n",
    ),
    (
        {"type": "openrouter:image_generation", "parameters": {"aspect_ratio": "wide"}},
        "/tools/0/parameters/aspect_ratio",
    ),
]


@pytest.mark.parametrize(("tool", "pointer"), UNSUPPORTED, ids=range(len(UNSUPPORTED)))
async def test_what_it_cannot_draw_is_refused_with_the_choices(
    backend: EmbeddedBackend, tool: dict[str, Any], pointer: str
) -> None:
    for refused in (picture(backend, a_request(tool)), happenings(backend, a_request(tool))):
        with pytest.raises(ConversionError) as caught:
            await refused
        assert (caught.value.reason, caught.value.pointer) == ("UNSUPPORTED", pointer)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("background", True),
        ("background", "true"),
        ("previous_response_id", "resp_1"),
        ("previous_response_id", ""),
        ("conversation", "conv_1"),
        ("conversation", {"id": "conv_1"}),
        ("tool_choice", {"type": "function", "name": "weather"}),
        ("tool_choice", {"type": "web_search_preview"}),
    ],
)
async def test_what_needs_more_than_one_request_is_refused_in_words(
    backend: EmbeddedBackend, key: str, value: Any
) -> None:
    request = a_request(**{key: value})
    for refused in (picture(backend, request), happenings(backend, request)):
        with pytest.raises(ConversionError) as caught:
            await refused
        assert (caught.value.reason, caught.value.pointer) == ("UNSUPPORTED", f"/{key}")
        assert "the embedded backend" in str(caught.value)


@pytest.mark.parametrize("n", [1, None])
async def test_keys_that_ask_for_nothing_more_are_taken(backend: EmbeddedBackend, n: Any) -> None:
    keys: Any = {"background": False, "previous_response_id": None, "conversation": None}
    assert (await picture(backend, a_request({"n": n}, store=True, **keys))).size == (96, 64)


async def test_a_setting_of_the_wrong_type_is_refused(backend: EmbeddedBackend) -> None:
    with pytest.raises(ConversionError) as caught:
        await picture(backend, a_request({"quality": 5}))
    assert (caught.value.reason, caught.value.pointer) == ("WRONG_TYPE", "/tools/0/quality")
    assert (await picture(backend, a_request({"quality": None}))).size == (96, 64)


@pytest.mark.parametrize("midway", [False, True])
@pytest.mark.parametrize(
    ("status", "reason"), [(429, "UPSTREAM_RATE_LIMITED"), (599, "UPSTREAM_UNAVAILABLE")]
)
async def test_it_fails_as_an_api_when_asked_to(
    backend: EmbeddedBackend, status: int, reason: str, midway: bool
) -> None:
    asked = {"http_status": status, "retry_after_seconds": 2.5, "midway": midway}
    request = a_request(embedded=asked)
    for failing in (picture(backend, request), happenings(backend, request)):
        with pytest.raises(GenerationError) as caught:
            await failing
        assert (caught.value.reason, caught.value.retry_seconds) == (reason, 2.5)
        assert caught.value.may_be_billed == midway


@pytest.mark.parametrize("ending", ["failed", "incomplete", "none", "completed"])
async def test_it_ends_as_asked(backend: EmbeddedBackend, ending: str) -> None:
    request = a_request(embedded={"ending": ending})
    end = (await happenings(backend, request))[-1]
    assert isinstance(end, StreamEnd)
    name = "UNANNOUNCED" if ending == "none" else ending.upper()
    assert StreamEnding.Name(end.ending) == f"STREAM_ENDING_{name}"
    answer = await generated(backend, request)
    drawn = ending in ("none", "completed")
    assert answer.status == ("completed" if drawn else ending)
    assert answer.HasField("error") == (ending == "failed")
    assert (imagecall.view(answer.calls[0]).image is not None) == drawn


async def test_it_breaks_off_when_asked_to(backend: EmbeddedBackend) -> None:
    request = a_request(embedded={"ending": "cut"})
    for failing in (picture(backend, request), happenings(backend, request)):
        with pytest.raises(GenerationError) as caught:
            await failing
        assert (caught.value.reason, caught.value.code) == ("UPSTREAM_DAMAGED", "DATA_LOSS")


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
async def test_a_file_is_as_large_as_asked_and_still_the_picture(
    backend: EmbeddedBackend, output_format: str
) -> None:
    tool = {"output_format": output_format}
    answer = await generated(backend, a_request(tool, embedded={"image_bytes": 5_000_000}))
    image = imagecall.view(answer.calls[0]).image
    assert image is not None
    assert len(image) == 5_000_000
    plain = await picture(backend, a_request(tool))
    assert Image.open(io.BytesIO(image)).tobytes() == plain.tobytes()


@pytest.mark.parametrize(
    "asked",
    [
        {"nope": 1},
        {"http_status": 200},
        {"delay_seconds": -1},
        {"ending": "well"},
        {"image_bytes": 10},
        {"image_bytes": 10**12},
        [],
    ],
)
async def test_what_it_cannot_do_is_refused(backend: EmbeddedBackend, asked: Any) -> None:
    with pytest.raises(ConversionError) as caught:
        await picture(backend, a_request(embedded=asked))
    assert caught.value.reason == "UNSUPPORTED"
    assert caught.value.pointer.startswith("/embedded")


async def test_pictures_to_start_from_are_shown(backend: EmbeddedBackend) -> None:
    plain = a_request({"size": "256x256"})
    first = (await generated(backend, plain)).calls[0]
    url = "data:image/png;base64," + b64encode(PNG).decode()

    async def shown(*images: InputImage, items: Sequence[Any] = ()) -> bytes:
        request = a_request({"size": "256x256"})
        request.input_images.extend(images)
        request.input_items.extend(items)
        return (await picture(backend, request)).tobytes()

    nothing, image = await shown(), await shown(InputImage(image=PNG))
    item, unknown = await shown(items=[first]), await shown(InputImage(image=b"nothing"))
    assert len({nothing, image, item, unknown}) == 4
    assert await shown(InputImage(url=url)) == image
    for other in (InputImage(url="https://example.com/a.png"), InputImage(file_id="file_1")):
        assert await shown(other) == unknown


async def test_pictures_are_kept_up_to_a_limit(
    backend: EmbeddedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []

    def draw(card: Card, sharpness: float) -> bytes:
        drawn.append(card.prompt)
        return PNG + bytes(1000)

    monkeypatch.setattr(embedded, "draw", draw)
    monkeypatch.setattr(embedded, "_MAX_CACHE_BYTES", 3000)
    for prompt in ("a", "b", "a", "b", "c", "a", "b"):
        request = a_request()
        request.prompt = prompt
        await backend.generate_image(GenerateImageRequest(request=request))
    assert drawn == ["a", "b", "c", "a", "b"]


async def test_a_picture_that_many_want_at_once_is_drawn_once(
    backend: EmbeddedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    begun, released = threading.Event(), threading.Event()

    def draw(card: Card, sharpness: float) -> bytes:
        drawn.append(card.prompt)
        begun.set()
        released.wait(10)
        return PNG

    monkeypatch.setattr(embedded, "draw", draw)
    leaving, *staying = [asyncio.create_task(generated(backend, a_request())) for _ in range(5)]
    await asyncio.to_thread(begun.wait, 10)
    leaving.cancel()  # The one that began it.
    await asyncio.wait({leaving})
    released.set()
    answers = await asyncio.gather(*staying)
    assert [imagecall.view(answer.calls[0]).image for answer in answers] == [PNG] * 4
    assert (drawn, leaving.cancelled()) == (["a red fox"], True)


def a_message(role: str, *texts: str) -> dict[str, Any]:
    parts = [{"type": "input_text", "text": text} for text in texts]
    return {"type": "message", "role": role, "content": parts}


async def answered(backend: EmbeddedBackend, *items: Any, prompt: str = "") -> Any:
    """The final item for a request with these items before its prompt."""
    request = a_request({"size": "256x256"})
    request.prompt = prompt
    request.input_items.extend(imagecall.from_json(json.dumps(item)) for item in items)
    answer = await generated(backend, request)
    return answer.calls[0].output_image_generation_call


@pytest.mark.parametrize(
    "items",
    [
        [a_message("user", "a b")],
        [a_message("user", "a", "b")],
        [a_message("user", "no"), a_message("user", "a b")],
        [a_message("system", "be quick"), a_message("user", "a b"), a_message("assistant", "no")],
        [a_message("user", "a b"), {"type": "function_call_output", "output": "no"}],
        [a_message("system", "no"), a_message("developer", "a b")],
        [{"type": "message", "role": "user", "content": "a b"}],
    ],
)
async def test_the_last_message_of_the_user_is_the_prompt_where_there_is_none(
    backend: EmbeddedBackend, items: list[Any]
) -> None:
    assert (await answered(backend, *items)).revised_prompt.split() == ["a", "b"]


async def test_a_second_turn_starts_from_the_image_of_the_first(backend: EmbeddedBackend) -> None:
    first = a_message("user", "a fox")
    image = {"type": "image_generation_call", "id": "ig_1", "status": "completed"}
    whole = image | {"result": b64encode(PNG).decode()}
    said = {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": "Here.", "annotations": []}],
    }
    others = [
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "function_call", "call_id": "c", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "sunny"},
        {"type": "item_reference", "id": "msg_0"},
    ]
    alone = await answered(backend, first, said, prompt="make it blue")
    again = await answered(backend, first, *others, whole, said, prompt="make it blue")
    by_id = await answered(
        backend, first, {"type": "image_generation_call", "id": "ig_1"}, said, prompt="make it blue"
    )
    assert {item.revised_prompt for item in (alone, again, by_id)} == {"make it blue"}
    assert len({item.result.image for item in (alone, again, by_id)}) == 3


async def test_images_of_earlier_messages_are_shown(backend: EmbeddedBackend) -> None:
    url = "data:image/png;base64," + b64encode(PNG).decode()
    message = a_message("user", "a fox")
    message["content"].append({"type": "input_image", "image_url": url})
    shown = await answered(backend, message, prompt="make it blue")
    alone = await answered(backend, a_message("user", "a fox"), prompt="make it blue")
    assert shown.result.image != alone.result.image
