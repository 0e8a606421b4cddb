"""The answers of a service, through our gRPC door and through plain servers of grpcio."""

import asyncio
import json
from typing import Any

import aiohttp
import grpc
import pytest

import imagecall
from imagecall.access.budget import MEMORY, Budget
from imagecall.client import AsyncImageClient
from imagecall.errors import GenerationError, ImagecallError
from imagecall.service import ImageRequest, ImageService
from imagecall.v1.image_generation_service_pb2 import (
    StreamEnding,
    StreamImageRequest,
)
from imagecall.v1.image_generation_service_pb2_grpc import ImageGenerationServiceStub
from imagecall.v1.image_generation_tool_pb2 import ImageGenerationTool, Tool
from imagecall.v1.image_request_pb2 import InputImage
from tests.doors.test_http import door_before
from tests.service.services import (
    DRAFT,
    FIRST,
    SECOND,
    SERVERS,
    Failing,
    PlainFailing,
    PlainTwoImages,
    PlainWaiting,
    Refusing,
    Saying,
    Silent,
    TwoImages,
    Waiting,
)
from tests.until import until

ADDED, DONE = "output_item_added_event", "output_item_done_event"
PARTIAL = "image_gen_call_partial_image_event"
IN_PROGRESS, GENERATING = "image_gen_call_in_progress_event", "image_gen_call_generating_event"
COMPLETED = "image_gen_call_completed_event"

server = pytest.mark.parametrize("kind", SERVERS)


def request_of(partial_images: int = 1, prompt: str = "a fox") -> ImageRequest:
    tool = ImageGenerationTool(partial_images=partial_images)
    return ImageRequest(prompt=prompt, tools=[Tool(image_generation_tool=tool)], model="m")


async def stream(address: str, request: ImageRequest, **options: Any) -> list[Any]:
    async with AsyncImageClient(address) as client:
        return [event.message async for event in client.stream_image(request, **options)]


def variant(event: Any) -> Any:
    return getattr(event, event.WhichOneof("variant"))


@server
@pytest.mark.parametrize("service", [TwoImages, PlainTwoImages])
async def test_the_events_of_a_generator_become_the_stream_of_the_schema(
    kind: str, service: type[ImageService]
) -> None:
    async with SERVERS[kind](service()) as address:
        *events, end = await stream(address, request_of(partial_images=1))
    a_call = [ADDED, IN_PROGRESS, GENERATING, PARTIAL, COMPLETED, DONE]
    assert [event.WhichOneof("variant") for event in events] == a_call * 2
    numbers = [variant(event).sequence_number for event in events]
    assert numbers == list(range(12))
    assert [variant(event).output_index for event in events] == [0] * 6 + [1] * 6
    first, second = (events[place].output_item_done_event.item for place in (5, 11))
    assert (imagecall.view(first).image, imagecall.view(second).image) == (FIRST, SECOND)
    ids = [imagecall.view(item).id for item in (first, second)]
    assert ids[0] != ids[1]
    begun = [event.output_item_added_event.item for event in events if event.HasField(ADDED)]
    assert [imagecall.view(item).id for item in begun] == ids
    assert events[3].image_gen_call_partial_image_event.partial_image_b64.image == DRAFT
    call = first.output_image_generation_call
    assert (call.revised_prompt, call.size, call.quality) == ("a red fox", "2x2", "high")
    assert (call.output_format, imagecall.view(first).status) == ("png", "completed")
    response = end.response
    assert (end.ending, response.status) == (StreamEnding.STREAM_ENDING_COMPLETED, "completed")
    assert response.id.startswith("resp_")
    assert (response.model, response.output_text, response.usage.cost) == ("m", "Two foxes.", 0.25)
    assert not response.calls


@server
async def test_other_events_have_the_message_where_they_are_requested(kind: str) -> None:
    async with SERVERS[kind](TwoImages()) as address:
        *events, _ = await stream(address, request_of(), include_other_events=True)
    added, part, *_, done = events[12:]
    assert added.output_item_added_event.output_index == 2
    assert part.unknown_item.type == "response.content_part.added"
    assert "Two foxes." in done.output_item_done_event.item.unknown_item.json


@server
@pytest.mark.parametrize("text", ["a fox", "\n  a fox,\n\n  drawn\n", "fox " * 50_000])
async def test_the_text_of_a_message_comes_whole_in_one_delta(kind: str, text: str) -> None:
    async with SERVERS[kind](Saying()) as address:
        *events, _ = await stream(address, request_of(prompt=text), include_other_events=True)
    others = [json.loads(event.unknown_item.json) for event in events[6:-1]]
    added, delta, done, part = others
    assert (added["part"]["text"], delta["delta"], done["text"]) == ("", text, text)
    assert part["part"]["text"] == text


@server
@pytest.mark.parametrize("service", [TwoImages, PlainTwoImages])
async def test_the_response_has_all_images_in_their_order(
    kind: str, service: type[ImageService]
) -> None:
    async with SERVERS[kind](service()) as address, AsyncImageClient(address) as client:
        response = await client.generate_image(request_of(), include_document=True)
    assert [imagecall.view(call).image for call in response.calls] == [FIRST, SECOND]
    assert (response.status, response.output_text) == ("completed", "Two foxes.")
    assert response.usage.total_tokens == 8
    assert [call.pointer for call in response.document.calls] == ["/output/0", "/output/1"]
    assert '"text":"Two foxes."' in response.document.json


@server
@pytest.mark.parametrize("most", [0, 2])
async def test_partial_images_beyond_those_requested_are_left_out(kind: str, most: int) -> None:
    async with SERVERS[kind](TwoImages()) as address:
        *events, _ = await stream(address, request_of(partial_images=most))
    indices = [
        event.image_gen_call_partial_image_event.partial_image_index
        for event in events
        if event.HasField(PARTIAL)
    ]
    assert indices == ([0, 1, 0] if most else [])


@server
@pytest.mark.parametrize("method", ["generate", "stream"])
@pytest.mark.parametrize(
    ("prompt", "code", "reason", "message"),
    [
        ("unsupported", "INVALID_ARGUMENT", "UNSUPPORTED", "only foxes"),
        ("busy", "RESOURCE_EXHAUSTED", "TOO_MANY_CALLS", "all brushes are in use"),
        ("own code", "NOT_FOUND", "NO_SUCH_ANIMAL", "no such animal"),
        ("midway", "UNAVAILABLE", "UPSTREAM_UNAVAILABLE", "the paint is gone"),
        ("no event", "DATA_LOSS", "UPSTREAM_DAMAGED", "ended before its FinalImage"),
        ("no final image", "DATA_LOSS", "UPSTREAM_DAMAGED", "ended before its FinalImage"),
        ("a fault", "INTERNAL", "", "internal error"),
        ("a wrong event", "INTERNAL", "", "internal error"),
        ("empty data", "INTERNAL", "", "internal error"),
        (" ", "INVALID_ARGUMENT", "EMPTY_PROMPT", "describe the image"),
    ],
    ids=lambda value: value.strip().replace(" ", "-") or "blank",
)
async def test_a_failure_is_a_status_with_its_reason(
    kind: str, method: str, prompt: str, code: str, reason: str, message: str
) -> None:
    async with SERVERS[kind](Failing()) as address, AsyncImageClient(address) as client:
        with pytest.raises(ImagecallError) as caught:
            if method == "generate":
                await client.generate_image(ImageRequest(prompt=prompt), timeout=60)
            else:
                [_ async for _ in client.stream_image(ImageRequest(prompt=prompt), timeout=60)]
    error = caught.value
    assert (error.code, error.reason) == (code, reason)
    assert message in str(error)
    assert "secret" not in str(error)
    assert error.pointer == ("/input" if prompt in ("unsupported", " ") else "")
    if prompt == "busy":
        assert isinstance(error, GenerationError)
        assert error.retry_seconds == 2
    if code == "INTERNAL":
        assert isinstance(error, GenerationError)
        assert error.may_be_billed


@server
async def test_a_plain_generator_fails_alike(kind: str) -> None:
    async with SERVERS[kind](PlainFailing()) as address, AsyncImageClient(address) as client:
        for prompt, code in (("a fault", "INTERNAL"), ("a cat", "INVALID_ARGUMENT")):
            with pytest.raises(ImagecallError) as caught:
                await client.generate_image(ImageRequest(prompt=prompt))
            assert caught.value.code == code
            assert "secret" not in str(caught.value)


@server
async def test_a_message_in_place_of_an_image_is_an_answer(kind: str) -> None:
    async with SERVERS[kind](Refusing()) as address, AsyncImageClient(address) as client:
        response = await client.generate_image(ImageRequest(prompt="a cat"))
        assert (list(response.calls), response.output_text) == ([], "I draw no cats.")
        failed = await client.generate_image(ImageRequest(prompt="after a draft"))
        [call] = failed.calls
        assert (imagecall.view(call).status, imagecall.view(call).image) == ("failed", None)


@server
@pytest.mark.parametrize("way", ["cancellation", "deadline"])
async def test_the_end_of_a_call_reaches_an_async_generator(kind: str, way: str) -> None:
    service = Waiting()
    async with SERVERS[kind](service) as address, grpc.aio.insecure_channel(address) as channel:
        stub: Any = ImageGenerationServiceStub(channel)
        timeout = 2 if way == "deadline" else None
        call = stub.StreamImage(StreamImageRequest(request=request_of()), timeout=timeout)
        assert (await call.read()).HasField("event")
        if way == "cancellation":
            await until(lambda: service.begun)
            call.cancel()
        await until(lambda: service.ended == ["cancelled", "finally"])


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_client_that_leaves_the_http_door_ends_the_generator(streamed: bool) -> None:
    service = Waiting()
    body = {"input": "a fox", "stream": streamed}
    async with door_before(service) as address, aiohttp.ClientSession() as session:
        work = session.post(f"http://{address}/v1/responses", json=body)
        call = asyncio.ensure_future(_whole(work))
        await until(lambda: service.begun)
        call.cancel()
        await until(lambda: service.ended == ["cancelled", "finally"])


async def _whole(work: Any) -> bytes:
    async with work as answer:
        data: bytes = await answer.read()
        return data


@server
@pytest.mark.parametrize("method", ["GenerateImage", "StreamImage"])
async def test_the_end_of_a_call_closes_a_plain_generator(kind: str, method: str) -> None:
    service = PlainWaiting()
    async with SERVERS[kind](service) as address, AsyncImageClient(address) as client:
        work = (
            client.generate_image(request_of())
            if method == "GenerateImage"
            else stream(address, request_of())
        )
        call = asyncio.ensure_future(work)
        await until(lambda: service.begun)
        call.cancel()
        await until(lambda: service.ended == ["finally"])
        with pytest.raises(asyncio.CancelledError):
            await call


@server
async def test_a_stream_begins_before_a_generator_that_takes_long_yields(kind: str) -> None:
    service = Silent()
    async with SERVERS[kind](service) as address, AsyncImageClient(address) as client:
        events: list[Any] = []
        async for event in client.stream_image(request_of()):
            events.append(event.message)
            service.may_yield |= len(events) == 3
    kinds = [event.WhichOneof("variant") for event in events[:-1]]
    assert kinds == [ADDED, IN_PROGRESS, GENERATING, COMPLETED, DONE]


@server
async def test_a_request_with_an_image_of_20_mb_is_taken(kind: str) -> None:
    request = request_of()
    request.input_images.append(InputImage(image=DRAFT + bytes(20_000_000)))
    async with SERVERS[kind](TwoImages()) as address, AsyncImageClient(address) as client:
        assert len((await client.generate_image(request)).calls) == 2


@server
async def test_more_calls_at_once_than_threads_are_answered(kind: str) -> None:
    async with SERVERS[kind](PlainTwoImages()) as address, AsyncImageClient(address) as client:
        calls = [client.generate_image(request_of()) for _ in range(40)]
        answers = await asyncio.gather(*calls)
    assert {len(answer.calls) for answer in answers} == {2}


async def test_the_images_of_an_answer_count_in_the_memory_of_its_call() -> None:
    budget, sizes = Budget(64 * 1024 * 1024), []
    token = MEMORY.set(budget.memory())
    try:
        async for _ in TwoImages().stream_image(StreamImageRequest(request=request_of())):
            sizes.append(budget.held)
        assert (max(sizes), budget.held) == (len(SECOND), 0)
    finally:
        MEMORY.reset(token)
