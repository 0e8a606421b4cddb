"""A gRPC backend that makes mistakes, behind both doors: each is one error, in the same words."""

import hashlib
import json
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import grpc
import pytest
from google.protobuf.message import Message

from imagecall.backends.grpc.backend import GrpcBackend
from imagecall.conversion.converter import from_json
from imagecall.observing.observer import Observer
from imagecall.rpc.addresses import ServerAddress
from imagecall.sizes import APART
from imagecall.v1 import image_generation_service_pb2 as pb
from imagecall.v1.image_generation_service_pb2_grpc import ImageGenerationServiceStub
from imagecall.v1.image_response_pb2 import ImageResponse
from imagecall.v1.image_result_pb2 import ImageResult
from imagecall.v1.stream_event_pb2 import StreamEvent
from imagecall.wire.varint import write_varint
from tests.backends.misbehaving import FIELD, Misbehaving, chunk, running, stream
from tests.doors.test_generation import A_STREAM, AN_IMAGE, details, serving
from tests.doors.test_http import door_before
from tests.streams import PNG, happy, item, numbered

Messages = Sequence[Message | bytes]
SHA256 = hashlib.sha256(PNG).digest()
CHUNK, DONE, END = 6, 7, 8
"""Places in the stream of the helper: the chunk of the image, its event, the end."""

EXTRA = "/item/seed"


def end_of(**changed: Any) -> list[Message]:
    """The stream with another end of the chunks of the image."""
    found = stream()
    for name, value in changed.items():
        setattr(found[CHUNK].chunk.end, name, value)
    return [*found]


def replaced(place: int, *messages: Message | bytes) -> list[Message | bytes]:
    found = stream()
    return [*found[:place], *messages, *found[place + 1 :]]


def changed(place: int, change: Callable[[Any], object]) -> list[Message]:
    found = stream()
    change(found[place])
    return [*found]


def call_of(message: Any) -> Any:
    return message.event.output_item_done_event.item.output_image_generation_call


def whole_end(**fields: Any) -> dict[str, Any]:
    end = {"size": len(PNG), "sha256": SHA256, "media_type": "image/png", "field": FIELD}
    return end | {"final_image": True} | fields


HALF = [chunk(0, PNG[:30]), chunk(30, PNG[30:], **whole_end())]
EARLY = "image_gen_call_partial_image_event.partial_image_b64.image"
OUTPUT_NULL = '{"output":[null]}'


def inline(message: Any) -> None:
    call_of(message).result.image = PNG


def document(json_text: str, calls: int = 0) -> Callable[[Any], None]:
    def change(message: Any) -> None:
        message.end.response.document.kind = 2
        message.end.response.document.json = json_text
        for _ in range(calls):
            message.end.response.calls.add().output_image_generation_call.id = "ig_1"

    return change


MISTAKES: dict[str, tuple[Messages, list[str]]] = {
    "field": (end_of(field=EARLY), [FIELD, EARLY, "event 7 (output_item_done_event)"]),
    "no field": (end_of(field=""), [FIELD, '""', "expected"]),
    "other field": (end_of(field="x" * 300), ["x" * 300]),
    "media type": (end_of(media_type="image/gif"), [FIELD, "image/gif", "image/png", "media_type"]),
    "no media type": (end_of(media_type=""), [FIELD, '""', "image/png"]),
    "not final": (end_of(final_image=False), [FIELD, "final_image", "false", "true"]),
    "size": (end_of(size=5), [FIELD, "70", "5"]),
    "digest": (end_of(sha256=bytes(32)), [FIELD, SHA256.hex(), "00" * 32]),
    "no digest": (end_of(sha256=b""), [FIELD, SHA256.hex(), "none"]),
    "inline": (replaced(CHUNK), ["no chunks", FIELD]),
    "inline image": (changed(DONE, inline)[:CHUNK] + changed(DONE, inline)[CHUNK + 1 :], [FIELD]),
    "inline and chunks": (changed(DONE, inline), [FIELD, "70 bytes in the message"]),
    "gap": (replaced(CHUNK, HALF[0], chunk(31, PNG[31:], **whole_end())), ["31", "30"]),
    "order": (replaced(CHUNK, HALF[1], HALF[0]), ["byte 30 instead of 0", "event 7"]),
    "twice": (replaced(CHUNK, HALF[0], HALF[0], HALF[1]), ["byte 0 instead of 30"]),
    "value twice": (replaced(CHUNK, *HALF, *HALF), [FIELD, "twice"]),
    "no chunk end": (replaced(CHUNK, HALF[0], chunk(30, PNG[30:])), ["before the last chunk"]),
    "event between": (replaced(CHUNK, HALF[0], stream()[5], HALF[1]), ["event 7", "last chunk"]),
    "empty chunk": (replaced(CHUNK, HALF[0], chunk(30, b""), HALF[1]), ["byte 30 is empty"]),
    "no done event": (replaced(DONE), [FIELD, "StreamEnd"]),
    "no result": (changed(DONE, lambda m: call_of(m).ClearField("result")), [FIELD, "event 7"]),
    "no item": (
        changed(DONE, lambda m: m.event.output_item_done_event.ClearField("item")),
        [FIELD],
    ),
    "empty item": (changed(DONE, lambda m: call_of(m).Clear()), [FIELD, "event 7"]),
    "empty event": (replaced(5, pb.StreamImageResponse(event=StreamEvent())), ["event 6", "empty"]),
    "empty part": (replaced(5, pb.StreamImageResponse()), ["neither a chunk nor an event"]),
    "two ends": ([*stream(), stream()[END]], ["after its end"]),
    "event after the end": ([*stream(), stream()[0]], ["after its end"]),
    "no end": (stream()[:END], ["7 events", "StreamEnd"]),
    "nothing": ([], ["no event", "StreamEnd"]),
    "an empty end": (
        [pb.StreamImageResponse(end=pb.StreamEnd(ending=pb.STREAM_ENDING_COMPLETED))],
        ["StreamEnd.response is not set"],
    ),
    "junk": ([b"\xff\xff"], ["StreamImageResponse"]),
    "large message": (
        replaced(CHUNK, chunk(0, bytes(5_000_000), size=5_000_000)),
        ["4,194,304 bytes"],
    ),
    "large text": (
        changed(DONE, lambda m: call_of(m).extra_fields.add(name="a", json=f'"{"a" * 5_000_000}"')),
        ["4,194,304 bytes"],
    ),
    "bad extra": (
        changed(DONE, lambda m: call_of(m).extra_fields.add(name="seed", json="{bad")),
        [EXTRA, "event 7 (output_item_done_event)", "not JSON"],
    ),
    "empty extra": (
        changed(DONE, lambda m: call_of(m).extra_fields.add(name="seed", json="")),
        ["extra_fields[0].json"],
    ),
    "both statuses": (
        changed(DONE, lambda m: setattr(call_of(m), "unknown_status", "x")),
        ["/item/status", "event 7"],
    ),
    "bad other": (
        changed(0, lambda m: setattr(m.event.unknown_item, "json", "{")),
        ["event 1 (unknown_item)", "not JSON"],
    ),
    "document": (changed(END, document("[")), ["StreamEnd", "not JSON"]),
    "document without calls": (
        changed(END, document(OUTPUT_NULL, 1))[:DONE]
        + changed(END, document(OUTPUT_NULL, 1))[END:],
        [],
    ),
}


@asynccontextmanager
async def served(backend: Misbehaving, **options: Any) -> AsyncIterator[str]:
    """The address of a gRPC door before the backend."""
    async with running(backend):
        address = ServerAddress(backend.address)
        async with serving(GrpcBackend(address, **options)) as near:
            yield near


@asynccontextmanager
async def doors(backend: Misbehaving, **options: Any) -> AsyncIterator[tuple[str, str]]:
    """The addresses of both doors before the backend."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        await enter(running(backend))
        address = ServerAddress(backend.address)
        grpc_door = await enter(serving(GrpcBackend(address, **options)))
        yield grpc_door, await enter(door_before(GrpcBackend(address, **options)))


async def of_grpc(address: str, streaming: bool) -> grpc.aio.AioRpcError:
    """The failure that a client with default options gets at the gRPC door."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = ImageGenerationServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            if streaming:
                [part async for part in stub.StreamImage(A_STREAM)]
            else:
                await stub.GenerateImage(AN_IMAGE)
    return caught.value


async def of_http(address: str, streaming: bool) -> tuple[int, Any, Any]:
    """The status, the headers and the error of the HTTP door, also out of a stream."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"http://{address}/v1/responses", json={"input": "a", "stream": streaming}
        ) as answer,
    ):
        text = await answer.text()
    if answer.status == 200 and streaming:
        [error] = [json.loads(d[6:]) for d in text.splitlines() if d.startswith('data: {"code')]
        return answer.status, answer.headers, error["error"]
    return answer.status, answer.headers, json.loads(text)["error"]


async def check(backend: Misbehaving, needles: Sequence[str], *, streaming: bool) -> None:
    """Both doors name the same mistake, as one that may be billed."""
    async with doors(backend) as (grpc_door, http_door):
        failed = await of_grpc(grpc_door, streaming)
        status, headers, error = await of_http(http_door, streaming)
    info, _, trailers = details(failed)
    said = failed.details() or ""
    assert failed.code() == grpc.StatusCode.DATA_LOSS
    assert (info.reason, info.metadata["may_be_billed"]) == ("UPSTREAM_DAMAGED", "true")
    assert trailers["grpc-retry-pushback-ms"] == "-1"
    assert said.startswith("the gRPC backend's answer is damaged: ")
    assert not [needle for needle in needles if needle not in said], said
    assert error["message"] == said
    if status == 200:
        assert error["code"] == 502
    else:
        assert (status, headers["x-should-retry"]) == (424, "false")
        assert "retry-after" not in headers


@pytest.mark.parametrize("mistake", MISTAKES)
async def test_a_mistake_of_a_stream_is_named_alike_at_both_doors(mistake: str) -> None:
    messages, needles = MISTAKES[mistake]
    await check(Misbehaving(messages), needles, streaming=True)


def plain(**fields: Any) -> pb.GenerateImageResponse:
    return pb.GenerateImageResponse(response=ImageResponse(**fields))


def an_image(**fields: Any) -> dict[str, Any]:
    return {"output_image_generation_call": {"id": "ig_1", "result": {"image": PNG}} | fields}


BAD = {"name": "seed", "json": "{bad"}
PLAIN: dict[str, tuple[Messages, list[str]]] = {
    "no message": ([], ["GenerateImageResponse"]),
    "no response": ([pb.GenerateImageResponse()], ["GenerateImageResponse.response is not set"]),
    "no status and no image": ([plain(id="r")], ["ImageResponse.status is not set"]),
    "junk": ([b"\xff"], ["GenerateImageResponse"]),
    "bad extra": (
        [plain(status="completed", calls=[an_image(extra_fields=[BAD])])],
        ["calls[0]", "/seed", "not JSON"],
    ),
    "empty call": ([plain(status="completed", calls=[{}])], ["calls[0]", "empty"]),
    "bad usage": (
        [plain(status="completed", usage={"extra_fields": [BAD]})],
        ["/usage/seed", "not JSON"],
    ),
    "document": (
        [plain(status="completed", document={"kind": 2, "json": "{"})],
        ["document", "not JSON"],
    ),
    "document without calls": (
        [plain(calls=[an_image()], document={"kind": 2, "json": OUTPUT_NULL})],
        ["0 calls", "1"],
    ),
}


@pytest.mark.parametrize("mistake", PLAIN)
async def test_a_mistake_of_a_plain_answer_is_named_alike_at_both_doors(mistake: str) -> None:
    messages, needles = PLAIN[mistake]
    await check(Misbehaving(messages), needles, streaming=False)


def unset(messages: Messages) -> Messages:
    """The stream without an ending and a status."""
    end: Any = messages[-1]
    end.end.ClearField("ending")
    end.end.response.ClearField("status")
    return messages


async def test_an_end_that_is_not_set_and_no_image_are_damage() -> None:
    messages = unset(stream(events=happy()[:2]))
    await check(Misbehaving(messages), ["StreamEnd.ending is not set"], streaming=True)


@pytest.mark.parametrize("streaming", [False, True])
async def test_an_answer_with_an_image_and_no_status_is_completed_at_both_doors(
    streaming: bool,
) -> None:
    messages = unset(stream()) if streaming else [plain(calls=[an_image()])]
    async with doors(Misbehaving(messages)) as (grpc_door, http_door):
        async with grpc.aio.insecure_channel(grpc_door) as channel:
            stub: Any = ImageGenerationServiceStub(channel)
            if streaming:
                [*_, last] = [part async for part in stub.StreamImage(A_STREAM)]
                assert last.end.ending == pb.STREAM_ENDING_COMPLETED
                assert last.end.response.status == "completed"
            else:
                assert (await stub.GenerateImage(AN_IMAGE)).response.status == "completed"
        async with (
            aiohttp.ClientSession() as session,
            session.post(
                f"http://{http_door}/v1/responses", json={"input": "a", "stream": streaming}
            ) as answer,
        ):
            text = await answer.text()
    if streaming:
        text = next(line[6:] for line in text.splitlines() if '"type":"response.completed"' in line)
    said = json.loads(text)
    assert (said["response"] if streaming else said)["status"] == "completed"


@pytest.mark.parametrize("size", [APART - 1, APART, 3_000_000])
@pytest.mark.parametrize("calls_once", [False, True])
async def test_images_of_a_plain_answer_go_through_both_doors(size: int, calls_once: bool) -> None:
    """Images of any size, in each place of an answer, and fields of a newer schema between them."""
    images = [PNG + bytes(size - len(PNG)), PNG, PNG + b"2" * size]
    sent = plain(
        id="resp_1",
        status="completed",
        calls=[
            {"output_image_generation_call": {"id": f"ig_{n}", "result": {"image": image}}}
            for n, image in enumerate(images)
        ],
        document={"kind": 2, "json": '{"id":"resp_1","output":[null,null,null]}'},
    )
    for n, call in enumerate(sent.response.calls):
        place = sent.response.document.calls.add(pointer=f"/output/{n}")
        if calls_once and n != 1:
            place.call_index = n
        else:
            place.call.CopyFrom(call)
    newer = sent.SerializeToString() + b"\xf8\x3f\x01"
    async with doors(Misbehaving([newer])) as (grpc_door, http_door):
        async with grpc.aio.insecure_channel(
            grpc_door, [("grpc.max_receive_message_length", -1)]
        ) as channel:
            method: Any = channel.unary_unary("/imagecall.v1.ImageGenerationService/GenerateImage")
            asked = pb.GenerateImageRequest(include_document=True, calls_once=calls_once)
            asked.request.prompt = "a fox"
            found = await method(asked.SerializeToString())
        async with aiohttp.ClientSession(f"http://{http_door}") as session:
            async with session.post("/v1/responses", json={"input": "a"}) as answer:
                output = json.loads(await answer.read())["output"]
            results = [[b64decode(item["result"]) for item in output]]
            if not calls_once:  # The Images API does not ask for it.
                async with session.post("/v1/images/generations", json={"prompt": "a"}) as drawn:
                    data = json.loads(await drawn.read())["data"]
                results.append([b64decode(picture["b64_json"]) for picture in data])
    assert pb.GenerateImageResponse.FromString(found) == pb.GenerateImageResponse.FromString(newer)
    assert all(found == images for found in results)


LARGE = PNG + bytes(APART)
URL = "https://example.com/a.png"


async def drawn(http_door: str, streaming: bool = False) -> Any:
    """The image of the Images API."""
    async with (
        aiohttp.ClientSession(f"http://{http_door}") as session,
        session.post("/v1/images/generations", json={"prompt": "a", "stream": streaming}) as answer,
    ):
        text = await answer.text()
    if streaming:
        [found] = [json.loads(d[6:]) for d in text.splitlines() if d.startswith('data: {"type')]
        return found
    [found] = json.loads(text)["data"]
    return found


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,", None])
async def test_the_images_api_has_the_result_of_a_call_before_its_other_image(
    prefix: str | None, streaming: bool
) -> None:
    small, large = b64encode(PNG).decode(), b64encode(LARGE).decode()
    call = item(None if prefix is None else prefix + small, imageB64=large)
    call["type"] = "openrouter:image_generation"
    whole = [plain(status="completed", calls=[from_json(json.dumps(call))])]
    messages = stream(events=happy(done=call)[:-1]) if streaming else whole
    async with doors(Misbehaving(messages)) as (_, http_door):
        found = await drawn(http_door, streaming)
    assert found["b64_json"] == (large if prefix is None else small)


def nested(descriptor: Any, path: str, value: bytes) -> bytes:
    """A serialized message with a serialized value in the field at a path."""
    name, _, rest = path.partition(".")
    field = descriptor.fields_by_name[name]
    inner = nested(field.message_type, rest, value) if rest else value
    return bytes((field.number << 3 | 2,)) + write_varint(len(inner)) + inner


async def test_an_image_that_the_bytes_replace_by_a_text_is_in_no_answer() -> None:
    """Of a oneof that is there twice, protobuf takes the second member."""
    twice = b"".join(
        part.SerializeToString() for part in (ImageResult(image=LARGE), ImageResult(text=URL))
    )
    path = "response.calls.output_image_generation_call.result"
    sent = nested(pb.GenerateImageResponse.DESCRIPTOR, path, twice)
    async with doors(Misbehaving([sent])) as (_, http_door):
        assert await drawn(http_door) == {"url": URL}


async def test_what_is_right_goes_through_as_the_bytes_that_came() -> None:
    events = numbered([*happy(PNG, [PNG])[:-2], {"type": "a.newer.event", "x": 1}])
    sent = [*stream(events=events)[:-1], *stream(PNG + bytes(3_000_000))[6:]]
    unknown = pb.StreamImageResponse.FromString(sent[0].SerializeToString() + b"\xf8\x3f\x01")
    sent[0] = unknown
    newer = b"\xfa\x3f\x01a"  # A part that only a newer schema names.
    messages: Messages = [*sent[:3], newer, *sent[3:]]
    async with (
        served(Misbehaving(messages)) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        method: Any = channel.unary_stream("/imagecall.v1.ImageGenerationService/StreamImage")
        found = [part async for part in method(A_STREAM.SerializeToString())]
    assert found == [m if isinstance(m, bytes) else m.SerializeToString() for m in messages]


async def test_an_answer_past_the_limits_is_refused_at_both_doors() -> None:
    big = PNG + bytes(3000)
    cases: list[tuple[Messages, bool]] = [
        ([plain(status="completed", calls=[an_image(result={"image": big})])], False),
        (stream(big), True),
    ]
    for messages, streaming in cases:
        options = {"max_bytes": 2000, "max_image_bytes": 2000}
        async with doors(Misbehaving(messages), **options) as (grpc_door, http_door):
            failed = await of_grpc(grpc_door, streaming)
            assert failed.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert details(failed)[0].reason == "UPSTREAM_ANSWER_TOO_LARGE"
            status, _, error = await of_http(http_door, streaming)
        assert (status, "2,000 bytes" in error["message"]) == (200 if streaming else 424, True)


@pytest.mark.parametrize("streaming", [False, True])
async def test_the_log_of_a_call_has_the_sentence_about_a_damaged_answer(
    streaming: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "imagecall.calls")
    async with running(Misbehaving()) as backend:
        calling = GrpcBackend(ServerAddress(backend.address))
        async with door_before(calling, observer=Observer(log_calls=True)) as door:
            _, _, error = await of_http(door, streaming)
    [line] = caplog.records
    assert line.__dict__["fields"]["error"] == error["message"]


async def test_texts_in_chunks_are_checked_and_bounded_as_those_in_messages() -> None:
    def with_extra(text: str, count: int = 1) -> Messages:
        event = happy()[6] | {f"extra{n}": text for n in range(count)}
        return stream(events=numbered([*happy()[:6], event, *happy()[7:8]]))

    large = "x" * 1_500_000
    good = with_extra(large)
    assert [m for m in good if isinstance(m, pb.StreamImageResponse) and m.HasField("chunk")]
    async with (
        served(Misbehaving(good)) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        stub: Any = ImageGenerationServiceStub(channel)
        assert [part async for part in stub.StreamImage(A_STREAM)] == good
    broken: Any = with_extra(large)
    texts = [m for m in broken if m.chunk.end.field.endswith(".json")]
    bad = pb.StreamImageResponse.FromString(texts[0].SerializeToString())
    bad.chunk.data = bad.chunk.data[:-1] + b"x"  # Not the quote at the end.
    whole = f'"{large}"'.encode()[:-1] + b"x"
    bad.chunk.end.sha256 = hashlib.sha256(whole).digest()
    broken[broken.index(texts[0])] = bad
    await check(Misbehaving(broken), ["/extra0", "not JSON"], streaming=True)
    async with served(Misbehaving(with_extra(large, 3)), max_bytes=4_000_000) as grpc_door:
        failed = await of_grpc(grpc_door, True)
    assert details(failed)[0].reason == "UPSTREAM_ANSWER_TOO_LARGE"
