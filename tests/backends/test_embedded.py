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
from imagecall.v1.extra_field_pb2 import ExtraField
from imagecall.v1.image_generation_service_pb2 import (
    GenerateImageRequest,
    StreamEnd,
    StreamEnding,
    StreamImageRequest,
)
from imagecall.v1.image_request_pb2 import ImageRequest, InputImage
from tests.streams import PNG


@pytest.fixture
async def backend() -> AsyncIterator[EmbeddedBackend]:
    backend = EmbeddedBackend()
    yield backend
    await backend.close()


def a_request(tool: dict[str, Any] | None = None, **keys: Any) -> ImageRequest:
    """A small picture, unless the tool says otherwise."""
    settings = {"type": "image_generation", "size": "96x64"} | (tool or {})
    if settings["type"] != "image_generation":
        del settings["size"]
    extra = [ExtraField(name=name, json=json.dumps(value)) for name, value in keys.items()]
    return ImageRequest(
        prompt="a red fox",
        tools=[imagecall.tool_from_json(json.dumps(settings))],
        extra_fields=extra,
    )


async def happenings(backend: EmbeddedBackend, request: ImageRequest, **options: Any) -> list[Any]:
    parts = backend.stream_image(StreamImageRequest(request=request, **options))
    return [happening async for happening in reassemble(parts)]


async def picture(backend: EmbeddedBackend, request: ImageRequest) -> Image.Image:
    answer = await backend.generate_image(GenerateImageRequest(request=request))
    [call] = answer.response.calls
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
    ]
    assert [event["sequence_number"] for event in events] == list(range(7))
    assert events[2]["item"]["result"] is None
    assert found[-1].ending == StreamEnding.STREAM_ENDING_COMPLETED


async def test_the_document_is_the_response_with_its_image(backend: EmbeddedBackend) -> None:
    request = a_request(instructions="be quick", metadata={"a": "b"}, user="me")
    answer = await backend.generate_image(
        GenerateImageRequest(request=request, include_document=True)
    )
    response = json.loads(imagecall.document_to_json(answer.response.document))
    assert (response["instructions"], response["metadata"]) == ("be quick", {"a": "b"})
    assert response["output"][0]["result"].startswith("iVBOR")
    assert {"id", "object", "created_at", "tools", "usage", "temperature"} <= set(response)
    streamed = (await happenings(backend, request, include_document=True))[-1]
    assert streamed.response.document.calls[0].call == answer.response.calls[0]
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
    answer = await backend.generate_image(GenerateImageRequest(request=request))
    drawn = ending in ("none", "completed")
    assert answer.response.status == ("completed" if drawn else ending)
    assert answer.response.HasField("error") == (ending == "failed")
    assert (imagecall.view(answer.response.calls[0]).image is not None) == drawn


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
    answer = await backend.generate_image(
        GenerateImageRequest(request=a_request(tool, embedded={"image_bytes": 5_000_000}))
    )
    image = imagecall.view(answer.response.calls[0]).image
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
    first = (await backend.generate_image(GenerateImageRequest(request=plain))).response.calls[0]
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
    monkeypatch.setattr(embedded, "_KEPT_BYTES", 3000)
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
    wanted = GenerateImageRequest(request=a_request())
    leaving, *staying = [asyncio.create_task(backend.generate_image(wanted)) for _ in range(5)]
    await asyncio.to_thread(begun.wait, 10)
    leaving.cancel()  # The one that began it.
    await asyncio.wait({leaving})
    released.set()
    answers = await asyncio.gather(*staying)
    assert [imagecall.view(answer.response.calls[0]).image for answer in answers] == [PNG] * 4
    assert (drawn, leaving.cancelled()) == (["a red fox"], True)


async def test_the_last_message_is_the_prompt_where_there_is_none(
    backend: EmbeddedBackend,
) -> None:
    message = {
        "type": "message",
        "role": "user",
        "content": [{"type": "input_text", "text": "a b"}],
    }
    request = a_request()
    request.prompt = ""
    request.input_items.append(imagecall.from_json(json.dumps(message)))
    answer = await backend.generate_image(GenerateImageRequest(request=request))
    assert answer.response.calls[0].output_image_generation_call.revised_prompt == "a b"
