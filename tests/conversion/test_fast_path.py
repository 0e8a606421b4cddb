"""The quick readings of plain and of large items give what the plan's own reading gives."""

import json
import random
import re
import time
from base64 import b64encode
from collections.abc import Callable

import pytest
from google.protobuf.message import DecodeError

import imagecall
from imagecall.conversion.converter import CALLS
from imagecall.conversion.objects import as_object
from imagecall.errors import ConversionError
from imagecall.json.large_strings import NO_SPANS
from imagecall.json.text import MAX_BYTES, encode, parse
from imagecall.sizes import APART, ASIDE, SLICE, TWICE
from imagecall.v1 import conversion_service_pb2 as pb
from imagecall.wire.splice import detach_images, detach_text
from tests.cases import ITEMS, REFUSED_JSON, Case, Refusal
from tests.mutations import mutations

Outcome = imagecall.ImageGenerationCall | tuple[str, str]


def by_plan(text: bytes, variant: str) -> Outcome:
    call = imagecall.ImageGenerationCall()
    try:
        data = encode(text, MAX_BYTES)
        CALLS.read(call, data, as_object(parse(data)), NO_SPANS, False, variant)
    except ConversionError as error:
        return error.reason, error.pointer
    return call


def quickly(text: bytes, variant: str) -> Outcome:
    try:
        call = imagecall.from_json(text, variant=variant)
    except ConversionError as error:
        with pytest.raises(ConversionError, match=re.escape(str(error))):
            imagecall.serialized_from_json(text, variant=variant)
        return error.reason, error.pointer
    assert imagecall.serialized_from_json(text, variant=variant) == call.SerializeToString()
    return call


PNG = b64encode(random.Random(1).randbytes(ASIDE + 1)).decode()
LARGE = [
    {"type": "image_generation_call", "id": "ig_1", "result": PNG, "status": "completed"},
    {"result": PNG, "type": "image_generation_call"},
    {"type": "image_generation_call", "result": PNG[:-1], "id": "unpadded"},
    {"type": "image_generation_call", "result": "data:image/png;base64," + PNG},
    {"type": "image_generation_call", "wrapper": {"result": PNG}, "result": PNG[::-1]},
    {"type": "image_generation_call", "wrapper": {"result": PNG}},
    {"type": "image_generation_call", "text": f'"result":"{PNG}"', "result": PNG},
    {"type": "image_generation_call", "text": f'"result":"{PNG}', "id": '"result":"'},
    {"type": "image_generation_call", "result": PNG, "tail": "x" * 9000, "result2": PNG},
    {"type": "image_generation_call", "imageB64": PNG, "result": PNG},
    {"type": "openrouter:image_generation", "imageB64": PNG, "result": PNG, "status": "x"},
    {"type": "openrouter:image_generation", "imageB64": PNG, "result": PNG[:100]},
    {"type": "web_search_call", "result": PNG},
    {"type": "image_generation_call", "result": PNG, "size": 5, "id": "i" * 5000},
    {"type": "image_generation_call", "result": {"result": PNG}},
    {"type": "image_generation_call", "result": [PNG]},
]
LARGE_TEXTS = [json.dumps(value).encode() for value in LARGE] + [
    json.dumps(LARGE[0]).replace('"result": ', '"result"  :\n\t').encode(),
    json.dumps(LARGE[0]).replace(PNG, PNG.replace("/", "\\/")).encode(),
    json.dumps(LARGE[0]).replace(PNG, PNG + "\\").encode(),
    json.dumps(LARGE[0]).replace(PNG, PNG + '\\"').encode(),
    json.dumps(LARGE[0]).replace('"id"', '"result":"' + PNG + '","id"').encode(),
    json.dumps(LARGE[0]).replace('"result"', '"\\"result"').encode(),
    json.dumps(LARGE[0]).replace('"result"', '"\\u0072esult"').encode(),
    json.dumps(LARGE[0])[:-40].encode(),
    json.dumps(LARGE[0]).replace(PNG, PNG + "\x01").encode(),
    json.dumps(LARGE[0]).encode().replace(PNG.encode(), PNG.encode() + b"\xff"),
]


@pytest.mark.parametrize("case", [*ITEMS, *REFUSED_JSON])
def test_small_texts_and_their_mutations_are_read_as_by_the_plan(case: Case | Refusal) -> None:
    text = case.path.read_bytes()
    source = random.Random(len(text))
    name = case.path.parent.name
    variant = name if name in CALLS.variants else CALLS.default
    for mutated in (text, *mutations(text[: ASIDE - 50], source)):
        assert quickly(mutated, variant) == by_plan(mutated, variant)


@pytest.mark.parametrize("text", LARGE_TEXTS, ids=range(len(LARGE_TEXTS)))
def test_large_texts_and_their_mutations_are_read_as_by_the_plan(text: bytes) -> None:
    source = random.Random(len(text))
    for mutated in (text, *mutations(text, source)):
        assert quickly(mutated, CALLS.default) == by_plan(mutated, CALLS.default)


@pytest.mark.parametrize("size", [0, 1, 2, 65_535, 65_536, 98_304, 98_305, 196_609, 300_000])
def test_images_of_any_size_come_back(size: int) -> None:
    image = random.Random(size).randbytes(size)
    call = imagecall.ImageGenerationCall()
    call.output_image_generation_call.result.image = image
    text = imagecall.to_json(call)
    assert json.loads(text)["result"] == b64encode(image).decode()
    assert imagecall.from_json(text) == call


@pytest.mark.parametrize("case", ITEMS)
def test_serialized_messages_are_written_as_messages_are(case: Case) -> None:
    data = case.golden.read_bytes()
    call = imagecall.ImageGenerationCall.FromString(data)
    assert imagecall.json_from_serialized(data) == imagecall.to_json(call)


def test_large_images_are_taken_out_of_serialized_messages_and_put_in() -> None:
    source = random.Random(3)
    for size in (1000, APART - 1, APART, 2_097_151, 2_097_152):
        one, two = source.randbytes(size), source.randbytes(size)
        call = imagecall.ImageGenerationCall()
        item = call.output_image_generation_server_tool_item
        item.result.image, item.image_b64.image, item.id = one, two, "a"
        item.extra_fields.add(name="x", json=json.dumps("y" * size))
        data = call.SerializeToString()
        short, images = detach_images(data, call.DESCRIPTOR)
        assert len(images) == (2 if size >= APART else 0)
        assert len(short) == len(data) or len(short) < size + 200
        text = imagecall.to_json(call)
        assert imagecall.json_from_serialized(data) == text
        assert imagecall.serialized_from_json(text) == data


def test_a_large_image_behind_many_extra_fields_is_put_in() -> None:
    image = b64encode(bytes(400_000)).decode()
    keys = {f"key{number}": number for number in range(1500)}
    text = json.dumps({"type": "openrouter:image_generation", "imageB64": image, **keys})
    call = imagecall.from_json(text)
    data = imagecall.serialized_from_json(text)
    assert imagecall.ImageGenerationCall.FromString(data) == call
    assert imagecall.json_from_serialized(data) == imagecall.to_json(call)


def test_what_protobuf_merges_is_merged() -> None:
    image = random.Random(4).randbytes(400_000)
    call = imagecall.ImageGenerationCall()
    call.output_image_generation_call.result.image = image
    other = imagecall.ImageGenerationCall()
    other.output_image_generation_call.result.text = "later"
    one, two = call.SerializeToString(), other.SerializeToString()
    for data in (one + two, two + one, one + one, one + b"\x2a\x00"):
        merged = imagecall.ImageGenerationCall.FromString(data)
        assert imagecall.json_from_serialized(data) == imagecall.to_json(merged)


def test_a_large_text_is_taken_out_of_a_serialized_request() -> None:
    kind = pb.ParseCallRequest
    text = "x" * APART
    number = kind.DESCRIPTOR.fields_by_name["json"].number
    once = kind(json=text, variant="a", profile=pb.PROFILE_STRICT).SerializeToString()
    short, taken = detach_text(once, kind.DESCRIPTOR, "json")
    assert taken == text.encode()
    assert len(short) < 20
    assert kind.FromString(short) == kind(variant="a", profile=pb.PROFILE_STRICT)
    padded = length_delimited(number, text.encode(), padding=2) + b"\x12\x01a"
    short, taken = detach_text(padded, kind.DESCRIPTOR, "json")
    assert (kind.FromString(short).variant, taken) == ("a", text.encode())


def test_a_text_that_is_protobufs_to_judge_stays() -> None:
    text = b"x" * APART
    stays = (
        length_delimited(1, text[1:]),
        length_delimited(1, text) * 2,
        length_delimited(1, text) + length_delimited(1, b""),
        length_delimited(1, text + "é".encode()),
        length_delimited(1, text + b"\xff"),
        length_delimited(1, text)[:-1],
        length_delimited(1, text) + b"\x0a",
        length_delimited(1, text) + b"\x13",
        length_delimited(2, text),
        b"\x0a" + b"\xff" * 9 + b"\x01" + text,
    )
    for wire in stays:
        assert detach_text(wire, pb.ParseCallRequest.DESCRIPTOR, "json") == (wire, None)


def length_delimited(number: int, value: bytes, padding: int = 0) -> bytes:
    """A field in wire format, its length in more bytes than it takes."""
    length, size = bytearray(), len(value)
    while size >= 0x80 or padding:
        length.append(size & 0x7F | 0x80)
        padding -= size < 0x80
        size >>= 7
    return bytes([number << 3 | 2, *length, size]) + value


def by_message(wire: bytes) -> str | bytes:
    try:
        return imagecall.to_json(imagecall.ImageGenerationCall.FromString(wire))
    except DecodeError:
        return "MALFORMED_PROTOBUF"
    except ConversionError as error:
        return error.reason


def by_bytes(wire: bytes) -> str | bytes:
    try:
        return imagecall.json_from_serialized(wire)
    except ConversionError as error:
        return error.reason


EXTRA_NAMES = ["a", "", '"', "é", "x" * 130, "id", "type", "revised_prompt", "size"]
EXTRA_RAWS = [
    b'{"a":[1,2]}',
    b'"' + b"x" * 200 + b'"',
    b"1e5",
    b'"\\u0061"',
    b"",
    b" 1",
    b'1,"q":2',
    b"[}",
    b'{"a":1,"a":2}',
    b'"\\ud800"',
    b'"\xff"',
    b"[" * 99 + b"]" * 99,
    b"[" * 100 + b"]" * 100,
]


@pytest.mark.parametrize("name", EXTRA_NAMES)
def test_extra_fields_are_converted_as_by_message(name: str) -> None:
    key = length_delimited(1, name.encode()) if name else b""
    for raw in EXTRA_RAWS:
        extra = length_delimited(5, key + length_delimited(2, raw))
        other = length_delimited(5, length_delimited(1, b"b") + length_delimited(2, b"1"))
        for fields in (
            extra,
            extra + other,
            other + extra,
            extra * 2,
            extra + b"\x0a\x01i" + other,
        ):
            wire = length_delimited(2, fields)
            written = by_bytes(wire)
            assert written == by_message(wire)
            if isinstance(written, bytes):
                assert quickly(written, CALLS.default) == by_plan(written, CALLS.default)


def test_a_null_with_more_behind_it_is_refused() -> None:
    for null in (b"\x08\x00", b"\x08\x03abc", b"\x08\x01", b"\x08\x00\x08\x00", b"\x08"):
        wire = length_delimited(2, length_delimited(2, null))
        assert by_bytes(wire) == by_message(wire)


@pytest.mark.parametrize("padding", range(8))
def test_lengths_in_more_bytes_than_they_take_are_read_as_protobuf_reads_them(padding: int) -> None:
    image = bytes(300_000)
    for level in range(3):
        wire = image
        for depth, number in enumerate((2, 2, 5)):
            wire = length_delimited(number, wire, padding if depth == level else 0)
        assert by_bytes(wire) == by_message(wire)


@pytest.mark.timing
def test_many_fields_and_images_take_no_longer_than_a_message() -> None:
    small = length_delimited(5, b"\x18\x01" * 131_072)
    image = length_delimited(5, length_delimited(2, length_delimited(2, bytes(262_144))))
    for wire in (small * 4 + image * 2, image * 80, image + small + image):
        start = time.monotonic()
        expected = by_message(wire)
        allowed = 10 * (time.monotonic() - start) + 1
        start = time.monotonic()
        assert by_bytes(wire) == expected
        assert time.monotonic() - start < allowed


def test_damaged_serialized_messages_are_refused_as_messages_are() -> None:
    source = random.Random(5)
    call = imagecall.from_json(LARGE_TEXTS[0])
    call.output_image_generation_call.result.image = source.randbytes(300_000)
    data = call.SerializeToString()
    for _ in range(1000):
        damaged = bytearray(data)
        index = source.choice((source.randrange(40), -source.randrange(1, 40)))
        damaged[index] ^= 1 << source.randrange(8)
        if source.randrange(4) == 0:
            del damaged[source.randrange(len(damaged)) :]
        assert by_bytes(bytes(damaged)) == by_message(bytes(damaged))


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(lambda text: text, id="canonical"),
        pytest.param(lambda text: text[:-4] + "AQ==", id="padded"),
        pytest.param(lambda text: text[:-4] + "AR==", id="with unused bits"),
        pytest.param(lambda text: text[:-1], id="cut"),
        pytest.param(lambda text: _at_slice(text, "AQ=="), id="padding in the middle"),
        pytest.param(lambda text: _at_slice(text, "AB-_"), id="base64url"),
        pytest.param(lambda text: _at_slice(text, r"\u0041"), id="escaped"),
        pytest.param(lambda text: _at_slice(text, r"\n"), id="with a line break"),
    ],
)
def test_a_large_image_is_serialized_as_its_message_is(form: Callable[[str], str]) -> None:
    text = b64encode(random.Random(2).randbytes(TWICE // 4 * 3 + 1)).decode()[:TWICE]
    item = f'{{"type":"image_generation_call","result":"{form(text)}","status":"x"}}'
    call = imagecall.from_json(item)
    assert imagecall.serialized_from_json(item) == call.SerializeToString()
    assert json.loads(imagecall.to_json(call)) == json.loads(item)


def _at_slice(text: str, replacement: str) -> str:
    """Replaces the end of the first slice that is decoded."""
    end = SLICE // 3 * 4
    return text[: end - 4] + replacement + text[end:]
