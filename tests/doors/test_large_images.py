"""Large images in the answers of the HTTP door."""

import random
from base64 import b64encode

import pytest

from imagecall.doors.http.large_images import LargeImages
from imagecall.errors import ConversionError
from imagecall.v1.chunk_pb2 import ChunkEnd
from imagecall.wire.chunks import Assembly, Piece, split

SMALL, LARGE = 64 * 1024, 64 * 1024 + 1


def assembled(data: bytes, *sizes: int) -> Assembly:
    """An image that came in chunks of these sizes, and a last one."""
    [whole] = [chunk.end for chunk in split(data) if chunk.HasField("end")]
    assembly, offset = Assembly(len(data)), 0
    for size in sizes:
        assembly.add(Piece(offset, data[offset : offset + size]))
        offset += size
    assembly.add(Piece(offset, data[offset:], whole))
    return assembly


@pytest.mark.parametrize("first", [1, 2, 3, 4, 786_431, 786_432, 786_433, 1_048_576])
def test_pieces_of_any_size_become_the_base64_of_the_whole(first: int) -> None:
    image = random.Random(first).randbytes(1_700_000)
    large = LargeImages()
    marker = b64encode(large.keep(assembled(image, first, 1, 65_536)))
    text = b'{"result":"%b"}' % marker
    whole = b"".join(large.pieces(text))
    assert whole == b'{"result":"%b"}' % b64encode(image)
    assert large.size(text) == len(whole)


def test_a_small_image_stands_for_itself() -> None:
    image = bytes(SMALL)
    assert LargeImages().keep(assembled(image)) == image
    assert len(LargeImages().keep(assembled(bytes(LARGE)))) < 100


def test_the_same_image_is_kept_once() -> None:
    large = LargeImages()
    markers = [b64encode(large.keep(assembled(bytes(LARGE), 10))) for _ in range(2)]
    assert markers[0] != markers[1]
    assert len({id(image) for image in large._images.values()}) == 1
    text = b'["%b","%b"]' % tuple(markers)
    assert b"".join(large.pieces(text)) == b'["%b","%b"]' % ((b64encode(bytes(LARGE)),) * 2)


def test_what_is_damaged_is_not_kept() -> None:
    assembly = Assembly(LARGE)
    assembly.add(Piece(0, bytes(LARGE), ChunkEnd(size=LARGE, sha256=b"other")))
    with pytest.raises(ConversionError) as caught:
        LargeImages().keep(assembly)
    assert caught.value.reason == "CHUNKS_DAMAGED"
