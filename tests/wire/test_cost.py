"""Refusal before parsing of input that would cost far more than its bytes, and of nothing else."""

import time
from typing import Any

import grpc
import pytest

import imagecall
from imagecall.errors import ConversionError
from imagecall.v1 import conversion_service_pb2 as pb
from imagecall.v1.conversion_error_pb2 import ErrorReason
from imagecall.v1.image_generation_service_pb2 import StreamImageRequest
from imagecall.v1.image_request_pb2 import ImageRequest
from imagecall.wire.chunks import split
from imagecall.wire.cost import MAX_FIELDS, MAX_UNKNOWN, check_cost
from tests.doors.test_grpc import convert, details

MIB = 1024 * 1024
REQUEST = pb.ConvertCallsRequest.DESCRIPTOR


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a\x00" * (MAX_FIELDS + 1),
        b"\x0a\x82\x00\x12\x00" * (MAX_FIELDS // 2 + 1),
        b"\x0a\x02\x40\x01" * (MAX_FIELDS // 2 + 1),
        b"\xa0\x38\x00" * (MAX_UNKNOWN + 1) + bytes(MIB),
        b"\x08\x00" * (MAX_UNKNOWN + 1) + bytes(MIB),  # A number in the place of a message.
        b"\x0b" + b"\x0a\x00" * (MAX_UNKNOWN + 1) + bytes(MIB),  # In a group.
        b"\x0b" * (MAX_UNKNOWN + 1) + bytes(MIB),
    ],
    ids=["messages", "nested", "numbers", "unknown", "mistyped", "in a group", "groups"],
)
def test_too_much_is_refused(data: bytes) -> None:
    with pytest.raises(ConversionError) as caught:
        check_cost(REQUEST, data)
    assert (caught.value.reason, caught.value.code) == ("TOO_MANY_VALUES", "RESOURCE_EXHAUSTED")


def test_what_is_at_the_limit_passes() -> None:
    check_cost(REQUEST, b"\x0a\x00" * MAX_FIELDS)
    check_cost(REQUEST, b"\xa0\x38\x00" * MAX_UNKNOWN + b"\x0a\x00" * 900_000)
    images = ImageRequest(prompt="a fox")
    images.input_images.add(image=b"\x0a\x00" * 4 * MIB)  # Bytes of an image count for nothing.
    check_cost(
        StreamImageRequest.DESCRIPTOR, StreamImageRequest(request=images).SerializeToString()
    )


@pytest.mark.parametrize(
    "data",
    [b"\xff" * MIB, b"\x0a" * MIB, b"\x0c" * MIB, b"\x0f" * MIB, bytes(MIB), b"\x0a\xff\x7f" * MIB],
    ids=["long numbers", "lengths", "ends of groups", "no wire type", "zeros", "too long"],
)
def test_what_is_no_message_is_soon_left_to_the_parser(data: bytes) -> None:
    start = time.monotonic()
    try:
        check_cost(REQUEST, data)
    except ConversionError as error:
        assert error.reason == "TOO_MANY_VALUES"
    assert time.monotonic() - start < 30


async def test_it_is_refused_in_whichever_way_it_comes(
    channel: grpc.aio.Channel, stub: Any
) -> None:
    fields = b"\x2a\x00" * (MAX_FIELDS + 1)
    call = b"\x1a" + _varint(len(fields)) + fields
    with pytest.raises(ConversionError, match="1,000,000 fields"):
        imagecall.json_from_serialized(call)
    method: Any = channel.unary_unary("/imagecall.v1.ConversionService/FormatCall")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await method(b"\x0a" + _varint(len(call)) + call)
    assert details(caught.value) == ("TOO_MANY_VALUES", "")
    document = b"\x1a\x00" * (MAX_FIELDS + 1)
    pieces = [pb.Conversion(document_chunk=chunk) for chunk in split(document)]
    (result,) = await convert(stub, pieces)
    assert ErrorReason.Name(result.error.reason) == "ERROR_REASON_TOO_MANY_VALUES"


def _varint(number: int) -> bytes:
    return bytes(
        [number & 0x7F | 0x80, number >> 7 & 0x7F | 0x80, number >> 14 & 0x7F | 0x80, number >> 21]
    )
