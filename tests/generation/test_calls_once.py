"""Answers with each call once: the document refers to the calls that are elsewhere."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import pytest

import imagecall
from imagecall.backends.embedded.backend import EmbeddedBackend
from imagecall.backends.grpc.backend import GrpcBackend
from imagecall.backends.responses_api.backend import HttpBackend
from imagecall.conversion.converter import EVENTS
from imagecall.conversion.document import PlacedCall, whole_document
from imagecall.errors import ConversionError, GenerationError
from imagecall.generation.assembly import reassemble
from imagecall.generation.backend import Backend
from imagecall.generation.calls_once import elsewhere
from imagecall.generation.parts import in_parts
from imagecall.rpc.addresses import ServerAddress
from imagecall.v1.document_kind_pb2 import DocumentKind
from imagecall.v1.image_generation_service_pb2 import (
    GenerateImageRequest,
    GenerateImageResponse,
    StreamEnd,
    StreamImageRequest,
    StreamImageResponse,
)
from imagecall.v1.image_generation_service_pb2_grpc import ImageGenerationServiceStub
from imagecall.v1.image_request_pb2 import ImageRequest
from imagecall.v1.image_response_pb2 import ImageResponse
from tests.doors.test_generation import serving
from tests.streams import PNG, framed, happy, item, response
from tests.upstream import JSON, upstream

IMAGE = PNG + bytes(500_000)


@asynccontextmanager
async def embedded() -> AsyncIterator[Backend]:
    yield EmbeddedBackend()


@asynccontextmanager
async def hop() -> AsyncIterator[Backend]:
    async with serving(EmbeddedBackend()) as address:
        yield GrpcBackend(ServerAddress(address))


@asynccontextmanager
async def api() -> AsyncIterator[Backend]:
    """An API that answers with a stream, also where none was asked for."""
    async with upstream() as server:
        server.say(framed(happy(IMAGE)))
        yield HttpBackend(server.url)


@asynccontextmanager
async def plain_api() -> AsyncIterator[Backend]:
    async with upstream() as server:
        server.say(json.dumps(response(item(IMAGE))).encode(), content_type=JSON)
        yield HttpBackend(server.url)


BACKENDS: Any = [embedded, hop, api, plain_api]


def request(kind: Any, **flags: bool) -> Any:
    return kind(request=ImageRequest(prompt="a fox"), include_document=True, **flags)


@asynccontextmanager
async def stub_of(backend: Callable[[], Any]) -> AsyncIterator[Any]:
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(
            serving(await stack.enter_async_context(backend()))
        )
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
        yield ImageGenerationServiceStub(channel)


async def plain(backend: Any, **flags: bool) -> ImageResponse:
    async with stub_of(backend) as stub:
        answer: ImageResponse = (
            await stub.GenerateImage(request(GenerateImageRequest, **flags))
        ).response
    return answer


async def streamed(backend: Any, **flags: bool) -> tuple[int, dict[int, Any], ImageResponse]:
    """Returns the bytes on the wire, the final items by output_index, and the response."""
    async with stub_of(backend) as stub:
        parts = [part async for part in stub.StreamImage(request(StreamImageRequest, **flags))]

    async def again() -> AsyncIterator[StreamImageResponse]:
        for part in parts:
            yield part

    *events, end = [happening async for happening in reassemble(again())]
    assert isinstance(end, StreamEnd)
    done = [e.output_item_done_event for e in events if EVENTS.chosen(e).name == DONE]  # type: ignore[union-attr]
    return (
        sum(part.ByteSize() for part in parts),
        {event.output_index: event.item for event in done},
        end.response,
    )


DONE = "output_item_done_event"


def restored(answer: ImageResponse, sent: dict[int, Any] | None = None) -> Any:
    """Returns the JSON of the document with its calls, without the keys of one answer."""
    items: dict[int, PlacedCall] = {index: (call, {}) for index, call in (sent or {}).items()}
    value = json.loads(whole_document(answer.document, elsewhere(answer, sent=items)))
    for key in ("created_at", "completed_at", "id"):
        value.pop(key, None)
    return value


@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_plain_answer_has_its_calls_once(backend: Any) -> None:
    whole, once = await plain(backend), await plain(backend, calls_once=True)
    assert restored(once) == restored(whole)
    assert restored(once)["output"][0]["result"]
    [place] = once.document.calls
    assert not place.HasField("call")
    assert place.call_index == 0
    assert once.calls == whole.calls
    with pytest.raises(ConversionError, match="elsewhere"):
        imagecall.document_to_json(once.document)


@pytest.mark.parametrize("backend", [embedded, hop, api])
async def test_a_stream_has_its_calls_once(backend: Any) -> None:
    size, _, whole = await streamed(backend)
    small, done, once = await streamed(backend, calls_once=True)
    assert restored(once, done) == restored(whole)
    assert restored(once, done)["output"][0]["result"]
    [place] = once.document.calls
    assert not place.HasField("call")
    assert place.output_index == 0
    assert not once.calls
    [call] = done.values()
    assert size - small >= len(call.output_image_generation_call.result.image)


async def test_a_stream_without_final_items_has_them_in_the_response() -> None:
    @asynccontextmanager
    async def bare() -> AsyncIterator[Backend]:
        async with upstream() as server:
            server.say(framed(happy(IMAGE)[-1:]))
            yield HttpBackend(server.url)

    _, done, once = await streamed(bare, calls_once=True)
    assert not done
    assert once.document.calls[0].HasField("call_index")
    assert restored(once)["output"][0]["result"]


@pytest.mark.parametrize("change", [{"status": "incomplete"}, {"result": "aGk="}, {"id": "other"}])
async def test_a_call_that_differs_at_the_end_is_there_too(change: dict[str, str]) -> None:
    @asynccontextmanager
    async def changing() -> AsyncIterator[Backend]:
        events = json.loads(json.dumps(happy(IMAGE)))
        events[-1]["response"]["output"][0].update(change)
        async with upstream() as server:
            server.say(framed(events))
            yield HttpBackend(server.url)

    _, done, once = await streamed(changing, calls_once=True)
    assert once.document.calls[0].HasField("call")
    found = restored(once, done)["output"][0]
    assert found.items() >= change.items()


def answer_with(*places: dict[str, Any]) -> GenerateImageResponse:
    """An answer of a gRPC backend with one call, and a document with these places for calls."""
    answer = GenerateImageResponse()
    answer.response.id, answer.response.status = "resp_1", "completed"
    answer.response.calls.append(imagecall.from_json(json.dumps(item(PNG))))
    answer.response.document.kind = DocumentKind.DOCUMENT_KIND_RESPONSE
    answer.response.document.json = json.dumps({"output": [None] * len(places)})
    for index, place in enumerate(places):
        answer.response.document.calls.add(pointer=f"/output/{index}", **place)
    return answer


WRONG: Any = {
    "no such call": ([{"call_index": 1}], "calls[1]"),
    "no such event": ([{"output_index": 0}], "no event"),
    "here and elsewhere": (
        [{"call": imagecall.from_json(json.dumps(item(PNG))), "call_index": 0}],
        "has call and call_index, of which only one may be set",
    ),
    "two references": (
        [{"call_index": 0, "output_index": 0}],
        "has call_index and output_index, of which only one may be set",
    ),
    "one call twice": (
        [{"call_index": 0}, {"call_index": 0}],
        'the call of "/output/1" has call_index 0, as another place has',
    ),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("kind", [GenerateImageRequest, StreamImageRequest])
async def test_a_backend_that_does_not_refer_to_one_call_is_damaged(name: str, kind: Any) -> None:
    places, sentence = WRONG[name]
    error = await refused(answer_with(*places), request(kind, calls_once=True))
    assert error.reason == "UPSTREAM_DAMAGED"
    assert sentence in str(error)


@pytest.mark.parametrize("kind", [GenerateImageRequest, StreamImageRequest])
async def test_a_backend_that_was_not_asked_for_calls_once_is_damaged(kind: Any) -> None:
    error = await refused(answer_with({"call_index": 0}), request(kind))
    assert error.reason == "UPSTREAM_DAMAGED"
    assert "elsewhere" in str(error)


async def refused(answer: GenerateImageResponse, asked: Any) -> GenerationError:
    """Returns the error of a gRPC backend whose server sends an answer."""

    class Fixed(EmbeddedBackend):
        async def generate_image(self, request: Any) -> GenerateImageResponse:
            return answer

        async def stream_image(self, request: Any) -> Any:
            end = StreamEnd(ending=1, response=answer.response)  # type: ignore[arg-type]
            del end.response.calls[1:]
            for part in in_parts(end):
                yield part

    async with serving(Fixed()) as address:
        backend = GrpcBackend(ServerAddress(address))
        with pytest.raises(GenerationError) as caught:
            if isinstance(asked, GenerateImageRequest):
                await backend.generate_image(asked)
            else:
                async for _ in backend.stream_image(asked):
                    pass
        await backend.close()
    return caught.value


def test_a_call_of_an_event_is_referred_to_once() -> None:
    sent: dict[int, PlacedCall] = {0: (imagecall.from_json(json.dumps(item(PNG))), {})}
    response = answer_with({"output_index": 0}).response
    assert elsewhere(response, sent=sent) == {"/output/0": sent[0]}
    response = answer_with({"output_index": 0}, {"output_index": 0}).response
    with pytest.raises(ConversionError, match='"/output/1" has output_index 0, as another place'):
        elsewhere(response, sent=sent)
