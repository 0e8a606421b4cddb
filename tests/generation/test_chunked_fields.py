"""Fields that go in chunks beside their message, and their reassembly by a client."""

import hashlib
import random
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

import imagecall
from imagecall.errors import ConversionError
from imagecall.generation.assembly import MAX_IMAGE_BYTES, StreamItem, reassemble
from imagecall.generation.backend import Part
from imagecall.generation.chunked_fields import image_fields, text_fields
from imagecall.generation.parts import in_parts
from imagecall.generation.whole_image import WholeImage
from imagecall.sizes import APART, CHUNK
from imagecall.v1.document_pb2 import Document
from imagecall.v1.image_generation_service_pb2 import StreamEnd, StreamImageResponse
from imagecall.v1.image_response_pb2 import ImageResponse
from imagecall.v1.stream_event_pb2 import StreamEvent
from tests.cases import CASES
from tests.streams import PNG, messages_of

MIB = 1024 * 1024


def messages(parts: Any) -> list[StreamImageResponse]:
    return [message for part in parts for message in messages_of(part)]


async def whole(parts: list[Part], limit: int = MAX_IMAGE_BYTES) -> list[StreamItem]:
    async def one_by_one() -> AsyncIterator[Part]:
        for part in parts:
            yield part

    return [happening async for happening in reassemble(one_by_one(), limit)]


def an_event(image: bytes) -> StreamEvent:
    event = imagecall.event_from_json(
        '{"type":"response.output_item.done","item":{"type":"image_generation_call","id":"ig_1"}}'
    )
    event.output_item_done_event.item.output_image_generation_call.result.image = image
    return event


def an_end(*sizes: int) -> StreamEnd:
    """An end with images, a long text in an extra field, and a document with them again."""
    end = StreamEnd(response=ImageResponse(id="resp_1"))
    for index, size in enumerate(sizes):
        call = imagecall.from_json('{"type":"image_generation_call"}')
        call.output_image_generation_call.result.image = PNG + bytes([index]) * size
        long = call.output_image_generation_call.extra_fields.add(name="note")
        long.json = '"' + "é" * size + '"'
        end.response.calls.append(call)
    end.response.document.json = '{"output":[' + " " * (APART + 1) + "]}"
    end.response.document.calls.add(pointer="/output/0", call=end.response.calls[0])
    return end


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 5 * MIB])
async def test_an_image_leaves_its_event_and_comes_back(size: int) -> None:
    image = random.Random(size).randbytes(size)
    parts = messages(in_parts(an_event(image)))
    assert b"".join(part.chunk.data for part in parts) == image
    assert [part.HasField("chunk") for part in parts[-2:]] == [True, False]
    last = parts[-2].chunk.end
    path = "output_item_done_event.item.output_image_generation_call.result.image"
    assert (last.size, last.field, last.media_type) == (size, path, "")
    assert parts[-1].event == an_event(b"")
    end = [StreamImageResponse(end=StreamEnd())]
    assert await whole([*parts, *end]) == [an_event(image), StreamEnd()]


async def test_an_end_with_several_values_comes_back() -> None:
    end = an_end(3 * MIB, 10, 2 * MIB)
    parts = messages(in_parts(an_end(3 * MIB, 10, 2 * MIB)))
    assert max(part.ByteSize() for part in parts) < CHUNK + 1024
    fields = [part.chunk.end.field for part in parts if part.chunk.HasField("end")]
    assert fields == [
        *(f"response.calls[{n}].output_image_generation_call.result.image" for n in range(3)),
        "response.document.calls[0].call.output_image_generation_call.result.image",
        "response.calls[0].output_image_generation_call.extra_fields[0].json",
        "response.calls[2].output_image_generation_call.extra_fields[0].json",
        "response.document.json",
        "response.document.calls[0].call.output_image_generation_call.extra_fields[0].json",
    ]
    assert parts[1].chunk.offset == CHUNK
    media = {part.chunk.end.media_type for part in parts if part.chunk.HasField("end")}
    assert media == {"image/png", ""}
    assert await whole(list(parts)) == [end]


async def test_every_case_of_an_event_comes_back() -> None:
    for case in (param.values[0] for param in CASES):
        if case.message_class is StreamEvent:
            event = case.read(case.text)
            parts = list(in_parts(case.read(case.text)))
            found = await whole([*parts, StreamImageResponse(end=StreamEnd())])
            assert found[0] == event


def test_what_goes_in_chunks_are_the_values_that_can_be_megabytes() -> None:
    document = Document(json="{}")
    document.calls.add().call.CopyFrom(
        imagecall.from_json('{"type":"image_generation_call","x":1}')
    )
    document.calls.add().call.CopyFrom(imagecall.from_json('{"type":"other"}'))
    result = b64encode(PNG).decode()
    document.calls.add().call.CopyFrom(
        imagecall.from_json(
            f'{{"type":"openrouter:image_generation","imageB64":"{result}","result":"https://x"}}'
        )
    )
    call = "calls[2].call.output_image_generation_server_tool_item"
    assert [place.path for place in image_fields(document)] == [f"{call}.image_b64.image"]
    assert [place.path for place in text_fields(document)] == [
        "json",
        "calls[0].call.output_image_generation_call.extra_fields[0].json",
        "calls[1].call.unknown_item.json",
        f"{call}.result.text",
    ]


Damage = Callable[[list[StreamImageResponse]], list[StreamImageResponse]]


def changed(index: int, change: Callable[[Any], object]) -> Damage:
    """A damage that changes one part."""

    def damage(parts: list[StreamImageResponse]) -> list[StreamImageResponse]:
        copy = StreamImageResponse.FromString(parts[index].SerializeToString())
        change(copy)
        return [*parts[:index], copy, *parts[index + 1 :]]

    return damage


DAMAGES: dict[str, Damage] = {
    "the first chunk is lost": lambda parts: parts[1:],
    "a chunk is lost": lambda parts: [parts[0], *parts[2:]],
    "the last chunk is lost": lambda parts: [*parts[:3], *parts[4:]],
    "every chunk is lost": lambda parts: parts[4:],
    "a chunk is repeated": lambda parts: [*parts[:2], *parts[1:]],
    "the last chunk is repeated": lambda parts: [*parts[:4], *parts[3:]],
    "the image is repeated": lambda parts: [*parts[:4], *parts],
    "two chunks are exchanged": lambda parts: [parts[0], parts[2], parts[1], *parts[3:]],
    "the stream is cut in the image": lambda parts: parts[:2],
    "the stream is cut after the image": lambda parts: parts[:4],
    "the stream is cut before its end": lambda parts: parts[:5],
    "the event is lost": lambda parts: [*parts[:4], parts[5]],
    "bytes are changed": changed(1, lambda p: setattr(p.chunk, "data", bytes(len(p.chunk.data)))),
    "a chunk is shorter": changed(1, lambda p: setattr(p.chunk, "data", p.chunk.data[:-1])),
    "a chunk is empty": changed(1, lambda p: setattr(p.chunk, "data", b"")),
    "the size is wrong": changed(3, lambda p: setattr(p.chunk.end, "size", 5)),
    "the digest is wrong": changed(3, lambda p: setattr(p.chunk.end, "sha256", bytes(32))),
    "the field is wrong": changed(3, lambda p: setattr(p.chunk.end, "field", "x")),
    "the end is missing": changed(3, lambda p: p.chunk.ClearField("end")),
    "the image is there already": changed(
        4,
        lambda p: setattr(
            p.event.output_item_done_event.item.output_image_generation_call.result, "image", b"x"
        ),
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_damaged_chunks_are_never_a_shorter_image(damage: str) -> None:
    image = random.Random(1).randbytes(3 * MIB + 5)
    parts = [*messages(in_parts(an_event(image))), StreamImageResponse(end=StreamEnd())]
    assert len(parts) == 6
    with pytest.raises(ConversionError) as caught:
        await whole(list(DAMAGES[damage](parts)))
    assert (caught.value.reason, caught.value.code) == ("CHUNKS_DAMAGED", "DATA_LOSS")


IMAGE_PATH = "output_item_done_event.item.output_image_generation_call.result.image"


@pytest.mark.parametrize("size", [0, 1, 3 * MIB])
async def test_a_whole_image_becomes_the_chunks_of_its_bytes(size: int) -> None:
    data = PNG + random.Random(size).randbytes(size)
    image = WholeImage(IMAGE_PATH, data)
    known = WholeImage.with_digest(IMAGE_PATH, data, hashlib.sha256(data).digest())
    assert next(in_parts(an_event(data))) == image
    assert messages([known]) == messages([image])
    for parts in ([image], [known], messages([image])):
        [_, rest] = in_parts(an_event(data))
        happenings = await whole([*parts, rest, StreamImageResponse(end=StreamEnd())])
        assert happenings[0] == an_event(data)


WRONG: dict[str, tuple[Callable[[WholeImage], list[Part]], str]] = {
    "twice": (lambda image: [image, image], "came twice"),
    "beside its chunks": (lambda image: [image, *image.chunks()], "came twice"),
    "within its chunks": (lambda image: [next(image.chunks()), image], "before the last chunk"),
    "of another field": (lambda image: [replace(image, field="x")], "no|expected"),
    "none": (lambda image: [], "no chunks came"),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_whole_image_is_no_more_and_no_less_than_its_chunks(wrong: str) -> None:
    [image, rest] = in_parts(an_event(bytes(2 * MIB)))
    assert isinstance(image, WholeImage)
    parts, message = WRONG[wrong]
    with pytest.raises(ConversionError, match=message) as caught:
        await whole([*parts(image), rest, StreamImageResponse(end=StreamEnd())])
    assert caught.value.reason == "CHUNKS_DAMAGED"


async def test_a_whole_image_has_the_limit_of_chunks() -> None:
    parts = [*in_parts(an_event(bytes(1001))), StreamImageResponse(end=StreamEnd())]
    assert len(await whole(parts, 1001)) == 2
    with pytest.raises(ConversionError, match="1,001 bytes; the limit is 1,000"):
        await whole(parts, 1000)


async def test_two_images_of_one_message_are_not_exchanged() -> None:
    parts = messages(in_parts(an_end(10, 20)))
    assert parts[0].chunk.HasField("end")
    exchanged = [parts[1], parts[0], *parts[2:]]
    assert await whole(list(exchanged)) == [an_end(10, 20)]  # Each says whose it is.


async def test_texts_that_are_not_utf8_are_damaged() -> None:
    end = an_end(1)
    end.response.document.json = "a" * (APART + 1)
    parts = messages(in_parts(end))
    [text] = [p for p in parts if p.chunk.end.field == "response.document.json"]
    text.chunk.data = b"\xff" * (APART + 1)
    text.chunk.end.sha256 = hashlib.sha256(text.chunk.data).digest()
    with pytest.raises(ConversionError, match="not UTF-8"):
        await whole(list(parts))


async def test_a_part_of_a_newer_schema_is_passed_over() -> None:
    newer = StreamImageResponse.FromString(b"\x7a\x01x")
    assert await whole([newer, StreamImageResponse(end=StreamEnd())]) == [StreamEnd()]


@pytest.mark.parametrize("more", ["an event", "a chunk", "an end"])
async def test_nothing_comes_after_the_end(more: str) -> None:
    after = {
        "an event": StreamImageResponse(event=StreamEvent()),
        "a chunk": messages(in_parts(an_event(b"x")))[0],
        "an end": StreamImageResponse(end=StreamEnd()),
    }
    with pytest.raises(ConversionError, match="goes on after its end") as caught:
        await whole([StreamImageResponse(end=StreamEnd()), after[more]])
    assert caught.value.reason == "CHUNKS_DAMAGED"


async def test_the_end_is_given_when_the_parts_are_over() -> None:
    """To leave the call earlier would cancel it before its status has come."""
    over = False

    async def parts() -> AsyncIterator[Part]:
        nonlocal over
        yield StreamImageResponse(end=StreamEnd())
        over = True

    found = reassemble(parts())
    assert (await anext(found), over) == (StreamEnd(), True)
    await found.aclose()
