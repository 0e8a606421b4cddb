"""Chunks that are damaged on their way are never taken for what they were."""

import asyncio
import random
from base64 import b64encode
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final

from google.protobuf.message import Message

from imagecall.conversion.converter import from_json
from imagecall.errors import ConversionError
from imagecall.generation.assembly import StreamItem, reassemble
from imagecall.generation.chunked_fields import image_fields
from imagecall.v1 import conversion_service_pb2 as pb
from imagecall.v1.chunk_pb2 import Chunk
from imagecall.v1.conversion_service_pb2_grpc import ConversionServiceStub
from imagecall.v1.extra_field_pb2 import ExtraField
from imagecall.v1.image_generation_service_pb2 import StreamImageRequest, StreamImageResponse
from imagecall.v1.image_generation_service_pb2_grpc import ImageGenerationServiceStub
from imagecall.v1.image_generation_tool_pb2 import Tool
from imagecall.v1.image_request_pb2 import ImageRequest
from imagecall.wire.chunks import split
from tests.soak.figure import Figure, exactly, informs
from tests.soak.outcome import OK, channel_to, in_place, of_stream
from tests.soak.server import running

_DAMAGED: Final = "DATA_LOSS CHUNKS_DAMAGED"
_AT_ONCE: Final = 16
_SECONDS: Final = 20


async def run(short: bool, seed: int) -> list[Figure]:
    """Uploads and answers whose chunks are dropped, repeated, reordered, cut, changed."""
    count = 1_000 if short else 10_000
    source = random.Random(seed)
    async with running() as server, channel_to(server.grpc) as channel:
        uploads = await _uploads(ConversionServiceStub(channel), source, count)
        answers = await _answers(ImageGenerationServiceStub(channel), source, count)
    return [*uploads, *answers]


Damage = Callable[[list[Any], random.Random], None]
"""Changes a list of messages that hold chunks, in place."""


def _drop(parts: list[Any], source: random.Random) -> None:
    del parts[source.randrange(len(parts))]


def _repeat(parts: list[Any], source: random.Random) -> None:
    at = source.randrange(len(parts))
    parts.insert(source.randint(at, len(parts)), _copy(parts[at]))


def _reorder(parts: list[Any], source: random.Random) -> None:
    one, other = source.sample(range(len(parts)), 2)
    parts[one], parts[other] = parts[other], parts[one]


def _cut(parts: list[Any], source: random.Random) -> None:
    del parts[source.randrange(1, len(parts)) :]


def _shorten(parts: list[Any], source: random.Random) -> None:
    chunk = _chunk(source.choice(parts))
    chunk.data = chunk.data[: source.randrange(len(chunk.data))]


def _flip(parts: list[Any], source: random.Random) -> None:
    chunk = _chunk(source.choice(parts))
    data = bytearray(chunk.data)
    data[source.randrange(len(data))] ^= 1 << source.randrange(8)
    chunk.data = bytes(data)


def _swap_bytes(parts: list[Any], source: random.Random) -> None:
    """Bytes wander from a chunk to the next, each chunk as long as it was."""
    chunk = _chunk(source.choice(parts))
    data = chunk.data[1:] + chunk.data[:1]
    chunk.data = data if data != chunk.data else bytes(b ^ 1 for b in data)


def _wrong_offset(parts: list[Any], source: random.Random) -> None:
    chunk = _chunk(source.choice(parts))
    chunk.offset = (chunk.offset + source.choice((1, -1, 1024, 2**31))) % 2**32


def _wrong_size(parts: list[Any], source: random.Random) -> None:
    end = _chunk(parts[-1]).end
    end.size = (end.size + source.choice((1, -1, 2**31))) % 2**32


def _wrong_digest(parts: list[Any], source: random.Random) -> None:
    end = _chunk(parts[-1]).end
    digest = bytearray(end.sha256)
    digest[source.randrange(32)] ^= 1 << source.randrange(8)
    end.sha256 = source.choice((bytes(digest), bytes(digest[:31]), b""))


def _early_end(parts: list[Any], source: random.Random) -> None:
    """An end where there is more to come."""
    at = source.randrange(len(parts) - 1)
    _chunk(parts[at]).end.CopyFrom(_chunk(parts[-1]).end)


def _no_end(parts: list[Any], source: random.Random) -> None:
    _chunk(parts[-1]).ClearField("end")


_DAMAGES: Final[tuple[Damage, ...]] = (
    _drop,
    _repeat,
    _reorder,
    _cut,
    _shorten,
    _flip,
    _swap_bytes,
    _wrong_offset,
    _wrong_size,
    _wrong_digest,
    _early_end,
    _no_end,
)


def _copy(message: Any) -> Any:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def _chunk(part: Any) -> Chunk:
    """The chunk in a message."""
    chunk: Chunk = getattr(part, part.WhichOneof("input" if _is_upload(part) else "part"))
    return chunk


def _is_upload(part: Message) -> bool:
    return isinstance(part, pb.Conversion)


def _pieces(data: bytes, source: random.Random) -> list[Chunk]:
    """The bytes in a few chunks of uneven sizes."""
    (whole,) = split(data)
    cuts = sorted(source.sample(range(1, len(data)), source.randint(2, 6)))
    starts = [0, *cuts]
    chunks = [
        Chunk(offset=start, data=data[start:end])
        for start, end in zip(starts, [*cuts, len(data)], strict=True)
    ]
    chunks[-1].end.CopyFrom(whole.end)
    return chunks


def _upload(source: random.Random) -> list[Any]:
    """An item in chunks, as JSON or as a message."""
    image = b64encode(source.randbytes(source.randint(30, 3000))).decode()
    text = '{"type":"image_generation_call","id":"ig_1","result":"' + image + '"}'
    if source.random() < 0.5:
        return [pb.Conversion(json_chunk=chunk) for chunk in _pieces(text.encode(), source)]
    data = from_json(text).SerializeToString()
    return [pb.Conversion(call_chunk=chunk) for chunk in _pieces(data, source)]


def _damaged_upload(number: int, source: random.Random) -> tuple[str, list[Any], list[Any]]:
    """The kind of damage, an item that is whole, and one that is damaged."""
    parts = _upload(source)
    kind = number % (len(_DAMAGES) + 1)
    if kind == len(_DAMAGES):
        pairs = zip(parts, _upload(source), strict=False)
        return "_interleave", parts, [part for pair in pairs for part in pair]
    sent = [_copy(part) for part in parts]
    _DAMAGES[kind](sent, source)
    return _DAMAGES[kind].__name__, parts, sent


async def _uploads(stub: Any, source: random.Random, count: int) -> list[Figure]:
    """Damaged items on streams of ConvertCalls, alone or after one that is whole."""
    told: set[str] = set()
    accepted: Counter[str] = Counter()

    async def one(number: int) -> None:
        kind, whole, sent = _damaged_upload(number, source)
        before = whole if number % 2 else []
        batches = [pb.ConvertCallsRequest(conversions=[part]) for part in [*before, *sent]]
        outcome = await of_stream(stub.ConvertCalls(iter(batches), timeout=_SECONDS))
        results = [result for answer in outcome.answers for result in answer.results]
        errors = [str(in_place(result.error)) for result in results if result.HasField("error")]
        told.update(errors if outcome.code == OK else [str(outcome), *errors])
        # An item is whole if its chunks are, whatever comes after them.
        good = len(results) - len(errors)
        whole_first = bool(before) + (sent[: len(whole)] == whole)
        if good != whole_first or (outcome.code == OK and not errors):
            accepted[kind] += 1

    for start in range(0, count, _AT_ONCE):
        await asyncio.gather(*(one(n) for n in range(start, min(count, start + _AT_ONCE))))
    return [
        informs("damaged uploads", count),
        exactly("that were accepted", accepted.total(), 0),
        exactly("what the others are told", ", ".join(sorted(told)), _DAMAGED),
    ]


async def _answers(stub: Any, source: random.Random, count: int) -> list[Figure]:
    """Damaged answers of StreamImage, as the Python client puts them together."""
    streams = [await _stream(stub, size) for size in (None, 2_500_000)]
    wholes = [await _seen(parts) for parts in streams]
    told: set[str] = set()
    differ = ended = 0
    for number in range(count):
        large = number % 20 == 0
        sent = _damaged(streams[large], _DAMAGES[number % len(_DAMAGES)], source)
        seen: list[bytes] = []
        try:
            async for happening in reassemble(_sent(sent)):
                seen += _images(happening)
            ended += 1
        except ConversionError as error:
            told.add(f"{error.code} {error.reason}")
        differ += seen != wholes[large][: len(seen)]
    return [
        informs("damaged answers of StreamImage", count),
        exactly("that gave an image that differs", differ, 0),
        exactly("that ended as if nothing were amiss", ended, 0),
        exactly("what the others are", ", ".join(sorted(told)), _DAMAGED),
    ]


async def _stream(stub: Any, size: int | None) -> list[StreamImageResponse]:
    """Returns the server's answers: two partial images and a final one."""
    asked = [ExtraField(name="embedded", json=f'{{"image_bytes":{size}}}')] if size else []
    request = ImageRequest(prompt="a fox", extra_fields=asked, tools=[Tool()])
    tool = request.tools[0].image_generation_tool
    tool.partial_images, tool.size = 2, "64x64"
    outcome = await of_stream(stub.StreamImage(StreamImageRequest(request=request)))
    assert outcome.code == OK, outcome
    return list(outcome.answers)


def _damaged(
    parts: list[StreamImageResponse], damage: Damage, source: random.Random
) -> list[StreamImageResponse]:
    """The answer with one of its runs of chunks damaged."""
    runs = list(_runs(parts))
    start, end = source.choice(runs)
    run = _resplit([_copy(part) for part in parts[start:end]], source)
    damage(run, source)
    return [*parts[:start], *run, *parts[end:]]


def _runs(parts: list[StreamImageResponse]) -> Iterator[tuple[int, int]]:
    """Index of the first chunk of each image, and the index after the last."""
    start = 0
    for number, part in enumerate(parts):
        if part.WhichOneof("part") == "chunk" and part.chunk.HasField("end"):
            yield start, number + 1
        if part.WhichOneof("part") != "chunk" or part.chunk.HasField("end"):
            start = number + 1


def _resplit(run: list[StreamImageResponse], source: random.Random) -> list[StreamImageResponse]:
    """The same image in more chunks, so that there is something to mix up."""
    if len(run) > 2:
        return run
    data = b"".join(part.chunk.data for part in run)
    chunks = _pieces(data, source)
    chunks[-1].end.CopyFrom(run[-1].chunk.end)
    return [StreamImageResponse(chunk=chunk) for chunk in chunks]


async def _sent(parts: list[StreamImageResponse]) -> AsyncIterator[StreamImageResponse]:
    for part in parts:
        yield _copy(part) if part.WhichOneof("part") != "chunk" else part


async def _seen(parts: list[StreamImageResponse]) -> list[bytes]:
    return [image async for h in reassemble(_sent(parts)) for image in _images(h)]


def _images(happening: StreamItem) -> list[bytes]:
    return [place.value for place in image_fields(happening)]
