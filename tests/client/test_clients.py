"""The blocking client and the one for asyncio, at a real server: both do the same."""

import asyncio
import inspect
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

import imagecall
from imagecall.backends.responses_api.backend import HttpBackend
from imagecall.client import (
    AsyncImageClient,
    ClientTls,
    FailedGeneration,
    Image,
    ImageClient,
    ImageEvent,
)
from imagecall.errors import FileError, GenerationError
from imagecall.v1.extra_field_pb2 import ExtraField
from imagecall.v1.image_generation_service_pb2 import StreamEnd
from imagecall.v1.image_generation_tool_pb2 import ImageGenerationTool, Tool
from imagecall.v1.image_request_pb2 import ImageRequest
from tests.client.both import CLIENTS, AnyClient, called, opened
from tests.doors.test_generation import serving
from tests.doors.test_many_calls import Held
from tests.streams import PNG, framed, happy, item, response
from tests.until import until
from tests.upstream import upstream

pytestmark = pytest.mark.parametrize("kind", CLIENTS, ids=lambda kind: kind.__name__)


def fox(partial_images: int | None = None, **embedded: Any) -> ImageRequest:
    extra = [ExtraField(name="embedded", json=json.dumps(embedded))] if embedded else []
    tool = ImageGenerationTool(size="64x64", partial_images=partial_images)
    return ImageRequest(
        prompt="a fox", extra_fields=extra, tools=[Tool(image_generation_tool=tool)]
    )


def other(kind: type[AnyClient]) -> type[AnyClient]:
    return next(each for each in CLIENTS if each is not kind)


def test_both_clients_have_the_same_methods_with_the_same_parameters(kind: type[AnyClient]) -> None:
    def signatures(of: type) -> dict[str, list[str]]:
        named = inspect.getmembers(of, inspect.isfunction)
        return {n: list(inspect.signature(f).parameters) for n, f in named if not n.startswith("_")}

    assert signatures(kind) == signatures(other(kind))
    assert "generate" in signatures(kind)


async def test_images_are_bytes_with_a_format_and_saved_as_they_arrive(
    kind: type[AnyClient], address: str, tmp_path: Path
) -> None:
    path = tmp_path / "fox.png"
    async with opened(kind(address)) as client:
        generation = await called(client, "generate", "a fox", save_to=path, timeout=60)
    image = generation.image
    assert (image.format, image.is_final, image.path) == ("png", True, path)
    assert path.read_bytes() == image.data
    assert generation.images == (image,)
    assert [call.output_image_generation_call.id for call in generation.calls] == [image.id]
    assert generation.response.usage.total_tokens == 2
    assert os.listdir(tmp_path) == ["fox.png"]


async def test_the_callback_receives_each_event_with_images_that_are_saved_already(
    kind: type[AnyClient], address: str, tmp_path: Path
) -> None:
    events: list[Any] = []
    sizes: list[int] = []

    def on_event(event: ImageEvent) -> None:
        events.append(event)
        sizes.extend(image.path.stat().st_size for image in event.images if image.path)

    async with opened(kind(address)) as client:
        options = {"save_to": tmp_path / "fox.png", "on_event": on_event}
        generation = await called(client, "generate", fox(partial_images=2), **options)
    assert events[0].type == "response.output_item.added"
    assert events[-1].type == "response.completed"
    assert events[-1].end.response.status == "completed"
    partial = [image for event in events for image in event.images if not image.is_final]
    assert [image.partial_index for image in partial] == [0, 1]
    assert sizes == [len(generation.image.data)]


async def test_a_second_image_is_saved_beside_the_first(
    kind: type[AnyClient], tmp_path: Path
) -> None:
    done = {"type": "response.output_item.done", "output_index": 1}
    events = happy()
    events.insert(-1, done | {"item": item(PNG + b"2", id="ig_2")})
    async with upstream() as api, serving(HttpBackend(api.url)) as address:
        api.say(framed(events))
        async with opened(kind(address)) as client:
            generation = await called(client, "generate", "a", save_to=str(tmp_path / "a.png"))
    assert [image.data for image in generation.images] == [PNG, PNG + b"2"]
    assert (tmp_path / "a.png").read_bytes() == PNG
    assert (tmp_path / "a-2.png").read_bytes() == PNG + b"2"


async def test_the_repr_of_what_a_client_yields_has_the_size_of_an_image(
    kind: type[AnyClient], address: str
) -> None:
    async with opened(kind(address)) as client:
        events = await called(client, "stream_image", fox())
        generation = await called(client, "generate", fox())
    size = len(generation.image.data)
    shown = f"Image(data=<{size:,} bytes>, format='png', id='{events[-2].images[0].id}')"
    assert repr(events[-2]) == f"ImageEvent(type='response.output_item.done', images=({shown},))"
    assert f"data=<{size:,} bytes>" in repr(generation)
    assert max(map(len, map(repr, [*events, generation]))) < 300


FAILURES = {
    "failed": (
        [*happy()[:5], {"type": "response.failed", "response": response(status="failed")}],
        "the response ended as failed",
    ),
    "incomplete": (
        [
            *happy()[:5],
            {
                "type": "response.incomplete",
                "response": response(
                    status="incomplete", incomplete_details={"reason": "content_filter"}
                ),
            },
        ],
        "the response ended as incomplete: content_filter",
    ),
    "no image": (
        [{"type": "response.completed", "response": response()}],
        "the response has no image",
    ),
}


@pytest.mark.parametrize("name", FAILURES)
async def test_a_stream_without_an_image_is_an_error_with_its_reason(
    kind: type[AnyClient], name: str, tmp_path: Path
) -> None:
    events, sentence = FAILURES[name]
    async with upstream() as api, serving(HttpBackend(api.url)) as address:
        api.say(framed(events))
        async with opened(kind(address)) as client:
            with pytest.raises(FailedGeneration) as caught:
                await called(client, "generate", "a fox", save_to=tmp_path / "fox.png")
    assert str(caught.value).startswith(sentence)
    assert caught.value.may_be_billed
    assert caught.value.generation.images == ()
    assert not os.listdir(tmp_path)


async def test_a_response_that_fails_after_an_image_has_the_image_in_the_error(
    kind: type[AnyClient],
) -> None:
    failed = {"type": "response.failed", "response": response(item(), status="failed")}
    async with upstream() as api, serving(HttpBackend(api.url)) as address:
        api.say(framed([*happy()[:-1], failed]))
        async with opened(kind(address)) as client:
            with pytest.raises(FailedGeneration) as caught:
                await called(client, "generate", "a fox")
    assert [image.data for image in caught.value.generation.images] == [PNG]


def a_missing_file(kind: type[AnyClient], address: str) -> Any:
    return kind(f"grpcs://{address}", tls=ClientTls(ca="/none"))


MISTAKES: dict[str, Callable[[type[AnyClient], str], Any]] = {
    "a faulty address": lambda kind, address: kind("grpc://nowhere"),
    "a missing file": a_missing_file,
    "no connections": lambda kind, address: kind(address, connections=0),
    "faulty metadata": lambda kind, address: kind(address, metadata=[("A b", "c")]),
    "bytes in a text": lambda kind, address: kind(address, metadata=[("a", b"c")]),
    "a text in bytes": lambda kind, address: kind(address, metadata=[("a-bin", "c")]),
    "a line break": lambda kind, address: kind(address, token="a\nb"),
    "a directory": lambda kind, address: called(
        kind(address), "generate", fox(), save_to="/none/a.png"
    ),
    "a time of none": lambda kind, address: called(kind(address), "generate", fox(), timeout=-1),
    "no server": lambda kind, address: called(kind("127.0.0.1:1"), "generate", fox()),
    "no prompt": lambda kind, address: called(kind(address), "generate", ""),
    "no prompt, plain": lambda kind, address: called(kind(address), "generate_image", ""),
    "metadata of a call": lambda kind, address: called(
        kind(address), "generate", "a", metadata=[("a", "\u00e9")]
    ),
    "an unknown variant": lambda kind, address: called(kind("127.0.0.1:1"), "parse_calls", ["{}"]),
}


@pytest.mark.parametrize("name", MISTAKES)
async def test_every_failure_is_an_imagecall_error(
    kind: type[AnyClient], name: str, address: str
) -> None:
    with pytest.raises(imagecall.ImagecallError) as caught:
        await MISTAKES[name](kind, address)
    assert str(caught.value)
    assert caught.value.code


async def test_a_file_that_is_missing_or_cannot_be_written_is_an_os_error_too(
    kind: type[AnyClient], address: str
) -> None:
    for name in ("a missing file", "a directory"):
        with pytest.raises(FileError) as caught:
            await MISTAKES[name](kind, address)
        assert isinstance(caught.value, OSError)
        assert "/none" in str(caught.value)


async def test_a_closed_client_refuses_calls_and_cancels_those_in_progress(
    kind: type[AnyClient],
) -> None:
    held = Held()
    async with serving(held) as address:
        client = kind(address, max_calls=2)
        tasks = [asyncio.ensure_future(called(client, "generate", fox()))]
        tasks.append(asyncio.ensure_future(called(client, "generate_image", fox())))
        await until(lambda: held.begun == 2)
        tasks.append(asyncio.ensure_future(called(client, "generate", fox())))  # It queues.
        await asyncio.sleep(0)
        await called(client, "close")
        tasks.append(asyncio.ensure_future(called(client, "generate", fox())))
        failures = await asyncio.gather(*tasks, return_exceptions=True)
    assert [getattr(failure, "code", failure) for failure in failures] == ["CANCELLED"] * 4
    assert {str(failure) for failure in failures} == {"the client is closed"}
    billed = [getattr(failure, "may_be_billed", None) for failure in failures]
    assert billed == [True, True, False, False]


async def test_the_time_in_the_queue_is_part_of_the_deadline(kind: type[AnyClient]) -> None:
    held = Held()
    async with serving(held) as address, opened(kind(address, max_calls=1)) as client:
        first = asyncio.ensure_future(called(client, "generate", fox()))
        await held.reached.wait()
        with pytest.raises(GenerationError) as caught:
            await called(client, "generate", fox(), timeout=0.1)
        assert (caught.value.code, caught.value.may_be_billed) == ("DEADLINE_EXCEEDED", False)
        assert "in the queue" in str(caught.value)
        held.released.set()
        assert (await first).images


async def test_metadata_and_interceptors_of_a_call_reach_the_server(
    kind: type[AnyClient], address: str
) -> None:
    seen: list[Any] = []

    class Plain(grpc.UnaryStreamClientInterceptor):
        def intercept_unary_stream(self, proceed: Any, details: Any, request: Any) -> Any:
            seen.append(dict(details.metadata))
            return proceed(details, request)

    class Aio(grpc.aio.UnaryStreamClientInterceptor):
        async def intercept_unary_stream(self, proceed: Any, details: Any, request: Any) -> Any:
            seen.append(dict(details.metadata))
            return await proceed(details, request)

    interceptors: Any = [Plain() if kind is ImageClient else Aio()]
    settings: dict[str, Any] = {"interceptors": interceptors, "metadata": [("a", "1"), ("b", "1")]}
    async with opened(kind(address, token="secret", **settings)) as client:
        metadata = [("b", "2"), ("c-bin", b"\xff")]
        assert (await called(client, "generate", fox(), metadata=metadata)).images
        override = [("authorization", "Bearer other")]
        assert (await called(client, "generate", fox(), metadata=override)).images
    assert seen == [
        {"authorization": "Bearer secret", "a": "1", "b": "2", "c-bin": b"\xff"},
        {"authorization": "Bearer other", "a": "1", "b": "1"},
    ]


async def test_the_end_of_a_stream_is_the_last_event(kind: type[AnyClient], address: str) -> None:
    async with opened(kind(address)) as client:
        *events, last = await called(client, "stream_image", fox())
    assert [event.end for event in events] == [None] * len(events)
    assert isinstance(last.end, StreamEnd)
    assert last.images == ()
    [image] = [image for event in events for image in event.images]
    assert isinstance(image, Image)


def test_a_client_can_be_made_before_there_is_an_event_loop(kind: type[AnyClient]) -> None:
    assert isinstance(kind("127.0.0.1:1"), (ImageClient, AsyncImageClient))
