"""Large values put into serialized messages and taken out: always in the field that they are of."""

import json
import random
from base64 import b64encode
from itertools import permutations
from typing import Any

import imagecall
from imagecall.conversion.converter import CALLS, Profile, read_call
from imagecall.json.text import MAX_BYTES
from imagecall.sizes import APART
from imagecall.v1 import conversion_service_pb2 as pb
from imagecall.v1.chunk_pb2 import Chunk, ChunkEnd
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall
from imagecall.v1.image_generation_service_pb2 import GenerateImageResponse, StreamImageResponse
from imagecall.v1.image_response_pb2 import ImageResponse
from imagecall.wire.splice import attach_apart, attach_images, detach_images, serialized_with
from imagecall.wire.varint import write_varint

IMAGES = [random.Random(seed).randbytes(APART + seed) for seed in (1, 2)]


def test_texts_that_hold_markers_are_no_places_for_images() -> None:
    """Markers cannot be known; here they are, and stand in every other field too."""
    values = [b64encode(image).decode() for image in IMAGES]
    text = json.dumps(
        {"type": "openrouter:image_generation", "result": values[0], "imageB64": values[1]}
    )
    call = ImageGenerationCall()
    images = read_call(call, text, CALLS.default, Profile.WIRE, MAX_BYTES, True)
    assert len(images) == 2
    item = _item(call)
    for marker in images:
        item.id += marker
        item.extra_fields.add(name=marker, json=f'"{marker}"')
    whole = ImageGenerationCall.FromString(attach_images(call, images))
    found = _item(whole)
    assert [found.result.image, found.image_b64.image] == IMAGES
    found.result.image, found.image_b64.image = item.result.image, item.image_b64.image
    assert whole == call


def _item(call: ImageGenerationCall) -> Any:
    return getattr(call, str(call.WhichOneof("variant")))


def test_a_value_that_looks_like_another_field_stays_in_its_own() -> None:
    end = ChunkEnd(size=1, field="-", sha256=b"-")
    for data in (
        b"-",
        b"x" * APART,
        StreamImageResponse(chunk=Chunk(data=b"-")).SerializeToString(),
    ):
        response = StreamImageResponse(chunk=Chunk(offset=1, end=end))
        wire = serialized_with(response, "chunk.data", data)
        expected = StreamImageResponse(chunk=Chunk(offset=1, end=end, data=data))
        assert wire == expected.SerializeToString()
    written = pb.FormatCallResponse(json="é" * APART)
    assert serialized_with(pb.FormatCallResponse(), "json", written.json.encode()) == (
        written.SerializeToString()
    )


def test_an_image_that_protobuf_merges_away_is_not_written() -> None:
    def wire(field: str, **result: Any) -> bytes:
        call = ImageGenerationCall()
        found = getattr(call.output_image_generation_server_tool_item, field)
        for name, value in result.items():
            setattr(found, name, value)
        return call.SerializeToString()

    other = ImageGenerationCall()
    other.output_image_generation_call.id = "a"
    parts = [
        wire("result", image=IMAGES[0]),
        wire("image_b64", image=IMAGES[1]),
        wire("result", image=b""),
        wire("result", text="https://x"),
        wire("image_b64", null_value=0),
        other.SerializeToString(),
    ]
    for count in (1, 2, 3):
        for chosen in permutations(parts, count):
            data = b"".join(chosen)
            whole = ImageGenerationCall.FromString(data)
            assert imagecall.json_from_serialized(data) == imagecall.to_json(whole)


def test_images_are_taken_out_of_a_request_by_their_paths() -> None:
    request = pb.FormatCallRequest()
    item = request.call.output_image_generation_server_tool_item
    item.image_b64.image, item.result.image = IMAGES
    short, images = detach_images(request.SerializeToString(), pb.FormatCallRequest.DESCRIPTOR)
    path = "call.output_image_generation_server_tool_item"
    assert {name: bytes(data[0]) for name, data in images.items()} == {
        f"{path}.image_b64.image": IMAGES[0],
        f"{path}.result.image": IMAGES[1],
    }
    left = pb.FormatCallRequest.FromString(short)
    assert left.call.output_image_generation_server_tool_item.result.WhichOneof("kind") == "image"


def test_images_of_repeated_messages_are_taken_out_and_put_back_by_their_indexes() -> None:
    answer = GenerateImageResponse()
    response = answer.response
    for image in (IMAGES[0], b"small", IMAGES[1]):
        response.calls.add().output_image_generation_call.result.image = image
    response.calls.add().unknown_item.type = "message"
    response.document.calls.add(pointer="/output/2", call=response.calls[2])
    first, rest = GenerateImageResponse(), GenerateImageResponse()
    first.response.calls.add().CopyFrom(response.calls[0])
    rest.CopyFrom(answer)
    del rest.response.calls[0]
    # The elements of a repeated field may stand apart, with another field between them.
    parts = [message.response.SerializeToString() for message in (first, rest)]
    status = ImageResponse(status="completed").SerializeToString()
    apart = serialized_response(parts[0] + status + parts[1])
    path = "output_image_generation_call.result.image"
    for wire in (answer.SerializeToString(), apart):
        short, images = detach_images(wire, GenerateImageResponse.DESCRIPTOR)
        assert {place: bytes(data[0]) for place, data in images.items()} == {
            f"response.calls[0].{path}": IMAGES[0],
            f"response.calls[2].{path}": IMAGES[1],
            f"response.document.calls[0].call.{path}": IMAGES[1],
        }
        assert len(short) < APART
        left = GenerateImageResponse.FromString(short)
        assert left.response.calls[1] == response.calls[1]
        whole = GenerateImageResponse.FromString(wire)
        assert attach_apart(left, images) == whole.SerializeToString()


def test_only_the_messages_around_an_image_are_walked() -> None:
    """A group, which editions of protobuf have again, is passed on like any field not known."""
    answer = GenerateImageResponse()
    answer.response.calls.add().output_image_generation_call.result.image = IMAGES[0]
    answer.response.usage.MergeFromString(b"\x83\x7d\x08\x01\x84\x7d")  # 2000 { 1: 1 }
    wire = answer.SerializeToString()
    short, images = detach_images(wire, GenerateImageResponse.DESCRIPTOR)
    assert (len(images), attach_apart(GenerateImageResponse.FromString(short), images)) == (1, wire)


def test_images_stay_where_the_message_around_them_is_there_twice() -> None:
    answer = GenerateImageResponse()
    answer.response.calls.add().output_image_generation_call.result.image = IMAGES[0]
    twice = answer.SerializeToString() * 2
    assert detach_images(twice, GenerateImageResponse.DESCRIPTOR) == (twice, {})


def serialized_response(response: bytes) -> bytes:
    """A serialized GenerateImageResponse, with a response in a spelling of its own."""
    tag = GenerateImageResponse.DESCRIPTOR.fields_by_name["response"].number << 3 | 2
    return bytes((tag,)) + write_varint(len(response)) + response
