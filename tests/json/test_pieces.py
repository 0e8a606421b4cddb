"""Pieces of a text: the base64 of images in any parts, sizes before a byte is encoded."""

import random
from base64 import b64encode

import pytest

from imagecall.errors import ConversionError
from imagecall.json.pieces import (
    LargeImage,
    Piece,
    image_piece,
    join,
    join_element_pieces,
    join_member_pieces,
    size_of,
    slices_of,
    under,
    under_each,
)
from imagecall.sizes import PIECE, SLICE


@pytest.mark.parametrize("first", [1, 2, 3, 4, SLICE - 1, SLICE, SLICE + 1, 1_048_576])
def test_an_image_in_parts_of_any_length_becomes_the_base64_of_the_whole(first: int) -> None:
    image = random.Random(first).randbytes(1_700_000)
    parts = (image[:first], memoryview(image)[first : first + 1], b"", image[first + 1 :])
    pieces: list[Piece] = [b'{"result":"', LargeImage(parts), b'"}']
    text = b'{"result":"%b"}' % b64encode(image)
    assert join(pieces) == b"".join(slices_of(pieces)) == text
    assert size_of(pieces) == len(text)
    assert max(map(len, slices_of(pieces))) <= SLICE // 3 * 4 + 4


def test_a_text_is_sent_in_slices_too() -> None:
    pieces: list[Piece] = [b"a" * 5, b"b" * (2 * SLICE), b"c"]
    assert [len(text) for text in slices_of(pieces)] == [SLICE, SLICE, 6]


@pytest.mark.parametrize("size", [0, 1, 2, 3, PIECE - 1, PIECE, PIECE + 1])
def test_the_size_of_an_image_is_known_before_it_is_encoded(size: int) -> None:
    assert size_of([image_piece(bytes(size))]) == len(b64encode(bytes(size)))
    assert isinstance(image_piece(bytes(size)), bytes) == (size < PIECE)


def test_a_text_past_the_limit_is_refused_before_it_is_encoded() -> None:
    for pieces in ([LargeImage([bytes(PIECE)])], [b64encode(bytes(PIECE))]):
        with pytest.raises(ConversionError) as caught:
            join(pieces, len(b64encode(bytes(PIECE))) - 1)
        assert caught.value.reason == "TOO_LARGE"


def test_objects_and_arrays_are_joined_around_pieces() -> None:
    image = LargeImage([b"abc"])
    assert join(join_member_pieces({"a\n": [b"1"], "b": [b'"', image, b'"']})) == (
        b'{"a\\n":1,"b":"YWJj"}'
    )
    assert join(join_element_pieces([[b"1"], [b"[", b"]"]])) == b"[1,[]]"
    assert (join_member_pieces({}), join_element_pieces([])) == ([b"{}"], [b"[]"])


def test_images_beside_a_message_are_those_under_its_path() -> None:
    data = (b"x",)
    apart = {"calls[1].call.a.image": data, "calls[10].call.a.image": data, "calls[1].callx": data}
    assert under(apart, "calls[1].call") == {"a.image": data}
    assert under_each(apart, "calls")[1] == under(apart, "calls[1]")
