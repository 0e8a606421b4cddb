"""Streams with heartbeats and other events that are none of ours: the answer is as without."""

import json
import random
from collections.abc import AsyncIterator, Iterator
from typing import Final

import pytest

from imagecall.backends.responses_api.stream import ResponseStream
from imagecall.generation.assembly import StreamItem, reassemble
from imagecall.generation.backend import Part
from imagecall.v1.image_generation_service_pb2 import StreamEnd, StreamImageRequest
from tests.streams import PNG, Event, framed, happy, item, response, without

KIB = 1024
LIMIT = 2**27

HEARTBEATS: Final = [
    b"data:\n\n",
    b"data: \n\n",
    b"data:\ndata:\n\n",
    b"id: 5\ndata:\n\n",
    b"event: ping\ndata:\n\n",
    b"event: error\ndata:\n\n",
    b"event: response.completed\ndata: \n\n",
    b"event: heartbeat\ndata: ping\n\n",
    b"event: heartbeat\ndata: {50%}\n\n",
    b"event: progress\ndata: \xff\xfe\n\n",
    b"event: hermes.tool.progress\ndata: {\"tool\":\"x\",\"status\":\"running\"}\n\n",
    b"event: hermes.tool.progress\ndata: {\"tool\":\"x\",\"error\":\"exit code 1\"}\n\n",
    b"event: message\ndata: {}\n\n",
    b"event: ping\ndata: {\"type\":\"ping\"}\n\n",
    b"data: ping\n\n",
    b"data: \"ping\"\n\n",
    b"data: 5\n\n",
    b"data: null\n\n",
    b"data: []\n\n",
    b"data: {}\n\n",
    b"data: {\"type\":\"keepalive\"}\n\n",
    b"data: {\"type\":\"response.heartbeat\"}\n\n",
    b"data: {\"type\":null}\n\n",
    b": ping\n\n",
    b":\n\n",
    b"id: 7\n\n",
    b"id\n\n",
    b"retry: 3000\n\n",
    b"event: ping\n\n",
    b"\n\n\n",
]  # fmt: skip


def parts_of(stream: bytes, sizes: Iterator[int]) -> Iterator[Part]:
    """The parts of a stream that arrives in pieces of these sizes."""
    reading = ResponseStream(StreamImageRequest(), (), LIMIT, LIMIT)
    position = 0
    while position < len(stream) and not reading.ended:
        size = next(sizes)
        yield from reading.feed(stream[position : position + size])
        position += size
    yield from reading.finish()


async def read(stream: bytes, sizes: Iterator[int]) -> list[StreamItem]:
    async def parts() -> AsyncIterator[Part]:
        for part in parts_of(stream, sizes):
            yield part

    return [found async for found in reassemble(parts())]


def at_once() -> Iterator[int]:
    while True:
        yield LIMIT


def at_random(rng: random.Random) -> Iterator[int]:
    most = rng.choice([3, 40, 5000, LIMIT])
    while True:
        yield rng.randint(1, most)


def streams() -> dict[str, list[Event]]:
    image, large = item(), item(PNG + random.Random(3).randbytes(20 * KIB))
    message: Event = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed"}
    message["content"] = [{"type": "output_text", "text": "Here is a fox: 🦊"}]
    done = {"type": "response.output_item.done", "output_index": 1, "item": message}
    return {
        "an image": happy(),
        "a large image and partial images": happy(partials=[PNG, PNG * 300], done=large),
        "an empty output": [*happy()[:-1], {"type": "response.completed", "response": response()}],
        "no announced end": without(happy(), "response.completed"),
        "an image in the response only": [
            *without(happy(), "output_item.done", "response.completed"),
            {"type": "response.completed", "response": response(image)},
        ],
        "an image and a message": [*happy()[:-1], done, happy()[-1]],
        "no created event": happy()[2:],
        "failed": [happy()[0], {"type": "response.failed", "response": response(status="failed")}],
    }


def with_heartbeats(events: list[Event], rng: random.Random) -> bytes:
    """The events, with heartbeats and other line ends, and types in the event line."""
    found = []
    for event in events:
        found += [rng.choice(HEARTBEATS) for _ in range(rng.choice([0, 1, 1, 4]))]
        tag = event["type"].encode()
        whole = json.dumps(event).encode()
        rest = json.dumps({k: v for k, v in event.items() if k != "type"}).encode()
        framings = [
            b"data: %b\n\n" % whole,
            b": x\nevent: %b\ndata:%b\n\n" % (tag, whole),
            b"id: 3\nevent: %b\ndata: %b\n\n" % (tag, rest),
            b"event: %b\ndata: {\n: x\ndata:%b\n\n" % (tag, rest[1:]),
        ]
        found.append(rng.choice(framings))
    found += [rng.choice(HEARTBEATS) for _ in range(rng.choice([0, 1, 3]))]
    stream = b"".join(found)
    return stream.replace(b"\n", rng.choice([b"\n", b"\r\n", b"\r"]))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", streams())
async def test_heartbeats_anywhere_change_nothing(kind: str, seed: int) -> None:
    events = streams()[kind]
    wanted = await read(framed(events, done=False), at_once())
    rng = random.Random(seed)
    for _ in range(6):
        stream = with_heartbeats(events, rng)
        assert await read(stream, at_random(rng)) == wanted, stream


@pytest.mark.parametrize("heartbeat", HEARTBEATS, ids=range(len(HEARTBEATS)))
async def test_a_heartbeat_is_passed_over_at_each_place(heartbeat: bytes) -> None:
    events = happy()
    wanted = await read(framed(events), at_once())
    for place in range(len(events) + 1):
        before, after = framed(events[:place], done=False), framed(events[place:])
        assert await read(before + heartbeat + after, at_once()) == wanted


async def test_a_large_image_whose_type_stands_in_the_event_line_is_streamed() -> None:
    image = PNG + random.Random(4).randbytes(9000 * KIB)
    data = json.dumps({"output_index": 0, "item": item(image)}).encode()
    stream = b"event: response.output_item.done\ndata: " + data + b"\n\n"
    reading = ResponseStream(StreamImageRequest(), (), 64 * KIB, LIMIT)
    starts = range(0, len(stream), 65536)
    parts = [part for at in starts for part in reading.feed(stream[at : at + 65536])]
    assert len(parts) > 9


async def test_the_error_of_a_foreign_event_is_given_where_nothing_else_comes() -> None:
    events = framed(happy()[:4], done=False)
    foreign = b'event: upstream_error\ndata: {"error":{"message":"too bad","code":"429"}}\n\n'
    with pytest.raises(Exception, match="the API failed: too bad") as caught:
        await read(events + foreign, at_once())
    assert caught.value.reason == "UPSTREAM_RATE_LIMITED"  # type: ignore[attr-defined]
    [*_, end] = await read(events + foreign + framed(happy()[4:]), at_once())
    assert isinstance(end, StreamEnd)
