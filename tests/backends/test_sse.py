"""Streams of server-sent events, in every way that real servers cut and write them."""

import json
import random
from base64 import b64encode
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path

import pytest

from imagecall.backends.http_api.large_base64 import Use
from imagecall.backends.http_api.sse import SseEvent, SseReader
from imagecall.errors import GenerationError

MIB = 1024 * 1024


def read(
    stream: bytes, use: Use = Use.HOLD, sizes: Iterator[int] | None = None, limit: int = 2**30
) -> tuple[list[SseEvent], bytes]:
    """The events of a stream that arrives in pieces of these sizes, and what was streamed."""
    reader = SseReader(["result"], lambda name, data: use, limit)
    events: list[SseEvent] = []
    pieces: list[bytes] = []
    position = 0
    while position < len(stream):
        size = next(sizes) if sizes else len(stream)
        for part in reader.feed(stream[position : position + size]):
            events.append(part) if isinstance(part, SseEvent) else pieces.append(part)
        position += size
    events.extend(reader.finish())
    return events, b"".join(pieces)


def whole(event: SseEvent) -> bytes:
    """The data of an event with its large strings put back as they were."""
    data = event.data
    for large in event.large:
        assert large.image is not None
        data = data.replace(large.text_marker, b64encode(large.image))
    return data


def every(size: int) -> Iterator[int]:
    while True:
        yield size


def at_random(seed: int, most: int) -> Iterator[int]:
    rng = random.Random(seed)
    while True:
        yield rng.randint(1, most)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 10**6])
def test_lines_are_read_however_they_end_and_are_cut(end: bytes, size: int) -> None:
    lines = [
        b"\xef\xbb\xbf: hello",
        b"event: one",
        b'data: {"a":1}',
        b"",
        b"",
        b"id: 5",
        b"data:{",
        b'data: "b": 2',
        b"data:}",
        b": comment",
        b"retry: 10",
        b"",
        b"event: none",
        b"",
        b"data: [DONE]",
        b"",
    ]
    stream = end.join(lines) + end
    events, _ = read(stream, sizes=every(size))
    found = [(event.name, event.data) for event in events]
    assert found == [("one", b'{"a":1}'), ("", b'{\n"b": 2\n}'), ("", b"[DONE]")]


@pytest.mark.parametrize("tail", [b"", b"\n", b"\n\n", b"\r"])
def test_a_last_event_without_its_blank_line_is_read(tail: bytes) -> None:
    events, _ = read(b"data: 1\n\ndata: 2" + tail)
    assert [event.data for event in events] == [b"1", b"2"]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("length", [1, 20_000, 3 * MIB, 3 * MIB + 1, 3 * MIB + 2])
def test_a_large_string_is_taken_out_and_is_the_image(length: int, seed: int) -> None:
    image = random.Random(length).randbytes(length)
    data = b'{"a":"\\"result\\":\\"","result" : "' + b64encode(image) + b'","z":[1]}'
    events, _ = read(b"data: " + data + b"\n\n", sizes=at_random(seed, 10 ** (seed % 3 + 4)))
    [event] = events
    assert whole(event) == data
    assert len(event.data) < 40_000
    assert [large.image for large in event.large] in ([], [image])


def test_a_string_that_is_streamed_comes_in_pieces_and_leaves_nothing_behind() -> None:
    image = random.Random(1).randbytes(5 * MIB)
    stream = b'data: {"result":"' + b64encode(image) + b'"}\n\n'
    events, streamed = read(stream, Use.STREAM, every(65536))
    assert streamed == image
    [large] = events[0].large
    assert large.image is None
    assert json.loads(events[0].data)["result"] == large.text_marker.decode()


@pytest.mark.parametrize("use", list(Use))
def test_an_escaped_slash_and_a_unicode_escape_are_part_of_the_base64(use: Use) -> None:
    image = b"\xff\xfb\xfc" * 600_000
    text = b64encode(image).replace(b"/", rb"\/").replace(b"+", rb"\u002b")
    for sizes in (every(65_537), at_random(3, 50_000)):
        stream = b'data: {"result":"' + text + b'"}\n\n'
        events, streamed = read(stream, use, sizes)
        if use is Use.STREAM:
            assert streamed == image
        else:
            assert events[0].large[0].image == (image if use is Use.HOLD else None)


NOT_BASE64 = [
    b"https://example.com/" + b"a" * 3 * MIB,
    b64encode(b"\xfa" * 100_000).rstrip(b"=") + b"A",
    b64encode(b"\xfb\xff" * 100_000).replace(b"+", b"-"),
    b"A" * 100_000 + b"AB==",
    b"A" * 100_000 + b"=" + b"A" * 99_999,
    b"A" * 100_000 + rb"\"quoted\" and \\" + b"B" * 100_000,
    b"A" * 100_000 + rb"\\",
    b"A" * 100_000 + "é".encode(),
]


@pytest.mark.parametrize("text", NOT_BASE64, ids=range(len(NOT_BASE64)))
@pytest.mark.parametrize("use", [Use.HOLD, Use.STREAM])
def test_a_large_string_that_is_not_base64_stays_what_it_is(text: bytes, use: Use) -> None:
    data = b'{"result":"' + text + b'","b":"c"}'
    for sizes in (every(70_000), at_random(5, 30_000), every(20_000)):
        events, streamed = read(b"data: " + data + b"\n\n", use, sizes)
        assert (events[0].data, events[0].large, streamed) == (data, [], b"")


def test_a_held_string_is_given_back_even_where_its_very_end_is_not_base64() -> None:
    data = b'{"result":"' + b"A" * 5 * MIB + b'*"}'
    events, _ = read(b"data: " + data + b"\n\n", sizes=every(100_000))
    assert events[0].data == data


@pytest.mark.parametrize("size", [7 * MIB, 7 * MIB + 1])
def test_a_streamed_string_of_up_to_7_3_mb_may_prove_to_be_a_text(size: int) -> None:
    stream = b'data: {"result":"' + b"A" * (size - 1) + b'!"}\n\n'
    if size > 7 * MIB:
        with pytest.raises(GenerationError, match="not base64 to its end"):
            read(stream, Use.STREAM, repeat(64 * 1024))
    else:
        [event], streamed = read(stream, Use.STREAM, repeat(64 * 1024))
        assert (whole(event), streamed) == (stream[6:-2], b"")


def test_a_skipped_string_ends_where_json_ends_it() -> None:
    text = b"A" * 50_000 + rb"\"" + b"A" * 50_000 + rb"\\"
    for sizes in (every(20_000), at_random(9, 20_000)):
        events, _ = read(b'data: {"result":"' + text + b'","b":1}\n\n', Use.SKIP, sizes)
        assert json.loads(events[0].data)["b"] == 1
        assert len(events[0].data) < 200


@pytest.mark.parametrize(
    ("stream", "use"),
    [
        (b'data: {"result":"' + b"A" * 100_000, Use.HOLD),
        (b'data: {"result":"' + b"A" * 100_000, Use.SKIP),
        (b'data: {"result":"' + b"A" * 100_000 + b"\n\n", Use.HOLD),
        (b'data: {"result":"' + b"A" * 100_000 + b'\r\n\r\n"', Use.SKIP),
        (b'data: {"result":"' + b"A" * 8 * MIB + b'*"}\n\n', Use.STREAM),
    ],
)
def test_a_string_without_its_end_is_damage(stream: bytes, use: Use) -> None:
    with pytest.raises(GenerationError, match="damaged") as caught:
        read(stream, use, every(50_000))
    assert (caught.value.reason, caught.value.may_be_billed) == ("UPSTREAM_DAMAGED", True)


@pytest.mark.parametrize("key", [b"result", b"other"])
def test_an_event_past_the_limit_is_refused_before_it_is_read_whole(key: bytes) -> None:
    stream = b'data: {"' + key + b'":"' + b"A" * 5 * MIB
    with pytest.raises(GenerationError, match="larger than 1,048,576 bytes") as caught:
        read(stream, sizes=every(100_000), limit=MIB)
    assert caught.value.reason == "UPSTREAM_ANSWER_TOO_LARGE"
    with pytest.raises(GenerationError):
        read(b"data: 1\n" * MIB, sizes=every(100_000), limit=MIB // 2)
    skipped, _ = read(
        b'data: {"result":"' + b"A" * 5 * MIB + b'"}\n\n', Use.SKIP, every(10**5), limit=MIB
    )
    assert len(skipped) == 1


def test_corpus_free_streams_of_every_framing_give_the_same_events() -> None:
    path = Path(__file__).parents[1] / "cases"
    bodies = [p.read_bytes() for p in sorted((path / "events").glob("*.json"))]
    compact = [json.dumps(json.loads(body)).encode() for body in bodies]
    plain, _ = read(b"".join(b"data: " + body + b"\n\n" for body in compact))
    named, _ = read(
        b"".join(b": x\r\nevent: e\r\ndata:" + body + b"\r\n\r\n" for body in compact),
        sizes=every(5),
    )
    assert [event.data for event in plain] == [event.data for event in named] == compact
