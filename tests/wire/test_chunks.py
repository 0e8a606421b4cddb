"""Chunks: put together they are what was split, or damage is noticed."""

import random

import pytest

from imagecall.errors import ConversionError
from imagecall.sizes import CHUNK
from imagecall.v1.chunk_pb2 import Chunk
from imagecall.wire.chunks import Assembly, RawChunk, split


def assemble(chunks: list[Chunk], max_bytes: int = 10**9) -> bytes:
    assembly = Assembly(max_bytes)
    for chunk in chunks:
        assembly.add(RawChunk.of(chunk))
    return assembly.whole()


@pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_what_is_split_is_put_together(size: int) -> None:
    data = random.Random(size).randbytes(size)
    chunks = list(split(data))
    assert len(chunks) == max(1, -(-size // CHUNK))
    assert assemble(chunks) == data


def test_damage_is_never_accepted() -> None:
    source = random.Random(7)
    data = source.randbytes(5 * CHUNK + 100)
    whole = list(split(data))
    for _ in range(300):
        chunks = [Chunk.FromString(chunk.SerializeToString()) for chunk in whole]
        index = source.randrange(len(chunks))
        match source.randrange(6):
            case 0:
                del chunks[index]
            case 1:
                chunks.insert(source.randrange(len(chunks) + 1), chunks[index])
            case 2:
                other = (index + 1 + source.randrange(len(chunks) - 1)) % len(chunks)
                chunks[index], chunks[other] = chunks[other], chunks[index]
            case 3:
                chunks[index].data = chunks[index].data[: -source.randrange(1, 100)]
            case 4:
                changed = bytearray(chunks[index].data)
                changed[source.randrange(len(changed))] ^= 1 << source.randrange(8)
                chunks[index].data = bytes(changed)
            case 5:
                del chunks[index:]
        with pytest.raises(ConversionError) as caught:
            assemble(chunks)
        assert (caught.value.reason, caught.value.code) == ("CHUNKS_DAMAGED", "DATA_LOSS")


def test_an_empty_chunk_is_damage_unless_the_whole_is_empty() -> None:
    assert assemble(list(split(b""))) == b""
    with pytest.raises(ConversionError, match="empty"):
        assemble([Chunk(), *split(b"x")])


def test_more_bytes_than_the_limit_are_refused() -> None:
    assert assemble(list(split(b"x" * 100)), 100)
    with pytest.raises(ConversionError, match="100 bytes; the limit is 99") as caught:
        assemble(list(split(b"x" * 100)), 99)
    assert caught.value.reason == "TOO_LARGE"
