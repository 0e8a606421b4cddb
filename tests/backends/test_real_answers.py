"""Answers as real APIs and the proxies before them send them, though not as they should."""

import gzip
import json
import random
import tracemalloc
import zlib
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, Final

import pytest

import imagecall
from imagecall.backends.responses_api.backend import HttpBackend
from imagecall.errors import GenerationError
from imagecall.generation.assembly import StreamItem, reassemble
from imagecall.v1.image_generation_service_pb2 import (
    GenerateImageRequest,
    StreamEnd,
    StreamEnding,
    StreamImageRequest,
)
from imagecall.v1.image_request_pb2 import ImageRequest
from imagecall.v1.image_response_pb2 import ImageResponse
from imagecall.v1.stream_event_pb2 import StreamEvent
from tests.streams import PNG, Event, framed, happy, item, response, without
from tests.upstream import HANG, JSON, RESET, SSE, Step, Upstream, upstream

MIB = 1024 * 1024
TEXT = "text/plain"


@pytest.fixture
async def api() -> AsyncIterator[Upstream]:
    async with upstream() as server:
        yield server


@pytest.fixture
async def backend(api: Upstream) -> AsyncIterator[HttpBackend]:
    backend = HttpBackend(api.url)
    yield backend
    await backend.close()


async def stream(backend: HttpBackend, **options: Any) -> list[StreamItem]:
    """Returns the events and the end of a stream, reassembled."""
    request = StreamImageRequest(request=ImageRequest(prompt="a fox"), **options)
    async with aclosing(backend.stream_image(request)) as parts:
        return [happening async for happening in reassemble(parts)]


async def end_of(backend: HttpBackend, **options: Any) -> StreamEnd:
    [*_, end] = await stream(backend, **options)
    assert isinstance(end, StreamEnd)
    return end


async def generate(backend: HttpBackend, **options: Any) -> ImageResponse:
    request = GenerateImageRequest(request=ImageRequest(prompt="a fox"), **options)
    return (await backend.generate_image(request)).response


async def failure(backend: HttpBackend, streaming: bool = True) -> GenerationError:
    with pytest.raises(GenerationError) as caught:
        await (stream(backend) if streaming else generate(backend))
    return caught.value


def images(response: ImageResponse) -> list[bytes | None]:
    return [imagecall.view(call).image for call in response.calls]


def message(*parts: Event, name: str = "msg_1") -> Event:
    return {"type": "message", "id": name, "role": "assistant", "content": list(parts)}


def text(words: str) -> Event:
    return {"type": "output_text", "text": words, "annotations": []}


def ending(happenings: list[StreamItem]) -> str:
    end = happenings[-1]
    assert isinstance(end, StreamEnd)
    return StreamEnding.Name(end.ending).removeprefix("STREAM_ENDING_")


BODY: Final = json.dumps(response(item())).encode()
IMAGE: Final = framed(without(happy(), "response.completed"), done=False)
"""A stream up to its final item."""

ODD_ENDS: Final[dict[str, list[Step]]] = {
    "reset": [RESET],
    "cut in an event": [b'data: {"type":"response.comp'],
    "cut in a name": [b"event: respo"],
    "garbage": [b"data: {garbage\n\n", b"\xff\x00\r\r\n"],
    "garbage, then reset": [b"data: {garbage\n\n", RESET],
    "a faulty end": [b'data: {"type":"response.completed","response":{"a":1,"a":2}}\n\n'],
    "no JSON under the name of the end": [b"event: response.completed\ndata: ok\n\n"],
    "an end without a response": [b'data: {"type":"response.completed"}\n\n'],
    "an end that is null": [b"event: response.completed\ndata: null\n\n"],
    "a response of another type": [b'data: {"type":"response.completed","response":5}\n\n'],
    "a faulty message": [
        b'data: {"type":"response.output_item.done","item":{"type":"message","a":"\\ud83d"}}\n\n'
    ],
    "endless lines": [b"x\n" * 10_001 + b"data: 1\n\n"],
    "another protocol": [b'data: {"type":"message_stop"}\n\n'],
    "done": [b"data: [DONE]\n\n"],
}  # fmt: skip


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("odd", ODD_ENDS)
async def test_after_the_final_item_nothing_is_a_loss(
    api: Upstream, backend: HttpBackend, odd: str, whole: bool
) -> None:
    api.say(IMAGE, *ODD_ENDS[odd], whole=whole)
    happenings = await stream(backend, include_document=True)
    assert ending(happenings) in ("UNANNOUNCED", "COMPLETED")
    event = happenings[-2]
    assert isinstance(event, StreamEvent)
    assert event.HasField("output_item_done_event")
    assert images(await generate(backend, include_document=True)) == [PNG]


async def test_silence_after_the_final_item_is_no_loss(api: Upstream) -> None:
    backend = HttpBackend(api.url, idle_seconds=1)
    api.say(IMAGE, HANG)
    assert ending(await stream(backend)) == "UNANNOUNCED"
    await backend.close()


ADDED: Final = {"type": "response.output_item.added", "item": item(None, id="ig_2")}
DONE: Final = {"type": "response.output_item.done", "item": item(PNG + b"2" * 90_000, id="ig_2")}
LOST: Final[dict[str, list[Step]]] = {
    "another image was begun": [framed([ADDED], done=False), RESET],
    "another image is cut": [framed([DONE], done=False)[:50_000], RESET],
    "another image is faulty": [framed([DONE | {"a": 1}]).replace(b'"a": 1', b'"a":1,"a":1')],
    "the response has another image": [
        b'data: {"type":"response.completed","response":{"a":1,"a":1,"output":['
        b'{"type":"image_generation_call"},{"type":"image_generation_call"}]}}\n\n'
    ],
}


@pytest.mark.parametrize("lost", LOST)
async def test_after_a_final_item_another_image_is_not_lost_in_silence(
    api: Upstream, backend: HttpBackend, lost: str
) -> None:
    api.say(IMAGE, *LOST[lost])
    error = await failure(backend)
    assert (error.reason, error.may_be_billed) == ("UPSTREAM_DAMAGED", True)


async def test_a_final_item_without_its_image_is_no_end(
    api: Upstream, backend: HttpBackend
) -> None:
    for status, reason in (("completed", "UPSTREAM_DAMAGED"), ("failed", "")):
        done = item(None, status=status)
        events = framed(without(happy(done=done), "response.completed"), done=False)
        api.say(events)
        if reason:
            assert (await failure(backend)).reason == reason
        else:
            assert ending(await stream(backend)) == "UNANNOUNCED"


async def test_a_completed_response_without_the_image_that_was_begun_is_damaged(
    api: Upstream, backend: HttpBackend
) -> None:
    begun = without(happy(), "output_item.done", "response.completed")
    api.say(framed([*begun, {"type": "response.completed", "response": response()}]))
    assert (await failure(backend)).reason == "UPSTREAM_DAMAGED"
    refused = response(message(text("No.")))
    api.say(framed([*begun, {"type": "response.completed", "response": refused}]))
    assert (await end_of(backend)).response.output_text == "No."


async def test_an_error_after_the_image_is_how_the_stream_ends(
    api: Upstream, backend: HttpBackend
) -> None:
    failed = response(error={"code": "server_error", "message": "m"})
    for error in (
        b'event: error\ndata: {"code":"server_error","message":"m"}\n\n',
        b'data: {"error":{"code":"server_error","message":"m"}}\n\n',
        b'data: {"type":"response.failed","error":{"code":"server_error","message":"m"}}\n\n',
        b"event: response.failed\ndata: " + json.dumps({"response": failed}).encode() + b"\n\n",
    ):
        api.say(IMAGE, error)
        end = await end_of(backend)
        assert end.ending == StreamEnding.STREAM_ENDING_FAILED
        assert (end.response.error.code, end.response.error.message) == ("server_error", "m")
        found = await generate(backend)
        assert (images(found), found.error.message) == ([PNG], "m")


async def test_an_event_without_its_item_is_left_out_and_counted(
    api: Upstream, backend: HttpBackend
) -> None:
    for no_item in ({}, {"item": None}, {"item": "ig_1"}):
        bare = [{"type": f"response.output_item.{kind}", **no_item} for kind in ("added", "done")]
        api.say(framed([*bare, *happy()]))
        happenings = await stream(backend)
        assert len(happenings) == 6
        assert (await end_of(backend)).missing_events == 2
        assert images(await generate(backend, include_document=True)) == [PNG]
        api.say(framed([*happy()[:4], *bare]))
        assert (await failure(backend)).reason == "UPSTREAM_DAMAGED"


@pytest.mark.parametrize("kind", ["failed", "incomplete", "cancelled"])
async def test_an_end_that_has_no_response_says_how_the_stream_ended(
    api: Upstream, backend: HttpBackend, kind: str
) -> None:
    begun = framed(happy()[:5], done=False)
    error = b'"error":{"code":"rate_limit_exceeded","message":"half a \\ud83d"}'
    for rest in (b"{%b}" % error, b'{"response":{%b}}' % error):
        api.say(begun, b"event: response.%b\ndata: %b\n\n" % (kind.encode(), rest))
        end = await end_of(backend)
        assert StreamEnding.Name(end.ending).lower().endswith(kind)
        assert end.response.error.message == "half a ?"


async def test_a_faulty_event_that_costs_no_image_is_left_out_and_counted(
    api: Upstream, backend: HttpBackend
) -> None:
    delta = (
        b"event: response.output_text.delta\n"
        b'data: {"output_index":1,"delta":"%b","sequence_number":%d}\n\n'
    )
    halves = [delta % (b"a \\ud83e", 8), delta % (b"\\udd8a fox", 9)]
    faulty = [
        b'data: {"type":"response.reasoning_summary_text.delta","delta":"\\ud83d"}\n\n',
        b'event: response.output_text.delta\ndata: {"delta":"\xff"}\n\n',
        b'data: {"type":"response.output_item.added","item":{"type":"message","a":"\\ud83d"}}\n\n',
        b'data: {"type":"response.output_item.done","item":{"type":"message","a":NaN}}\n\n',
        b'data: {"type":"response.foo","a":' + b"[" * 9999 + b"]" * 9999 + b"}\n\n",
    ]
    rest = framed(happy()[-1:])
    for number, event in enumerate(faulty):
        api.say(event, IMAGE, event, rest)
        assert (await end_of(backend, include_other_events=True)).missing_events == 2, event
        assert (await end_of(backend)).missing_events == (2 if number in (2, 3) else 0)
    api.say(IMAGE, *halves, framed([happy()[-1] | {"sequence_number": 10}]))
    end = await end_of(backend)
    assert (end.missing_events, end.response.output_text) == (1, "a 🦊 fox")  # Number 7.
    end = await end_of(backend, include_other_events=True)
    assert (end.missing_events, end.ending) == (3, StreamEnding.STREAM_ENDING_COMPLETED)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ({"code": "429"}, "UPSTREAM_RATE_LIMITED"),
        ({"status": "429", "code": "None"}, "UPSTREAM_RATE_LIMITED"),
        ({"status_code": "503"}, "UPSTREAM_UNAVAILABLE"),
        ({"type": "400"}, "UPSTREAM_INVALID_REQUEST"),
        ({"code": "400", "type": "None", "param": "None"}, "UPSTREAM_INVALID_REQUEST"),
        ({"code": "None", "type": "rate_limit_error"}, "UPSTREAM_RATE_LIMITED"),
        ({"code": "None", "type": "None"}, "UPSTREAM_UNAVAILABLE"),
        ({"code": "9999999999"}, "UPSTREAM_UNAVAILABLE"),
        ({"code": "٤٢٩"}, "UPSTREAM_UNAVAILABLE"),
    ],
)
async def test_numbers_in_strings_are_statuses(
    api: Upstream, backend: HttpBackend, error: Event, reason: str
) -> None:
    data = json.dumps({"error": error | {"message": "m"}}).encode()
    for steps, content_type in (([data], JSON), ([b"data: ", data, b"\n\n"], SSE)):
        api.say(*steps, content_type=content_type)
        for streaming in (True, False):
            found = await failure(backend, streaming)
            assert (found.reason, found.pointer, str(found)) == (reason, "", "the API failed: m")
            assert "None" not in found.metadata.values()


ERROR: Final = json.dumps({"error": {"message": "zu groß\n\u001b", "code": "c"}}).encode()
ERROR_BODIES: Final[list[tuple[bytes, str]]] = [
    (b"data: " + ERROR + b"\n\n", ": zu groß\\u000a\\u001b"),
    (
        b": x\r\n\r\nevent: error\r\ndata:" + ERROR + b"\r\n\r\ndata: [DONE]\r\n\r\n",
        ": zu groß\\u000a\\u001b",
    ),
    (b"\xef\xbb\xbf" + ERROR, ": zu groß\\u000a\\u001b"),
    (b" \n" + ERROR, ": zu groß\\u000a\\u001b"),
    (b'{"detail":"too bad"}', ": too bad"),
    (b"too\n bad", ": too bad"),
    ("zu groß".encode() * 50, ": " + ("zu groß" * 50).encode()[:300].decode(errors="ignore")),
    ("zu groß".encode("latin-1"), ": with 7 bytes that are not text"),
    (bytes(range(256)), ": with 256 bytes that are not text"),
    (b"\x1b[31mred", ": with 8 bytes that are not text"),
    (b"", ""),
    (b" \n", ""),
    (b"{}", ""),
    (b"<html>", ": with HTML"),
]  # fmt: skip


@pytest.mark.parametrize("encoding", ["", "gzip", "deflate", "br"])
@pytest.mark.parametrize(("body", "words"), ERROR_BODIES, ids=range(len(ERROR_BODIES)))
async def test_the_words_of_an_error_are_a_line_of_text(
    api: Upstream, backend: HttpBackend, body: bytes, words: str, encoding: str
) -> None:
    packers: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}
    packed = packers.get(encoding, bytes)(body)
    headers = {"content-encoding": encoding, "retry-after": "7"} if encoding else {}
    api.say(*([packed] if packed else []), status=429, content_type=TEXT, headers=headers)
    error = await failure(backend, False)
    assert str(error) == "the API answered 429" + words
    assert (error.reason, error.may_be_billed) == ("UPSTREAM_RATE_LIMITED", False)


PLAIN_ANSWERS: Final = {
    "a stream": (framed(happy()), SSE),
    "a stream of another type": (framed(happy(), named=True), JSON),
    "a stream without a type": (b"\n\n: hello\n\n" + framed(happy()), ""),
    "a stream with an empty output": (
        framed([*happy()[:-1], {"type": "response.completed", "response": response()}]),
        SSE,
    ),
    "a stream without an end": (IMAGE, SSE),
    "a large image": (framed(happy(PNG + bytes(3 * MIB))), SSE),
    "an image in the response only": (framed(without(happy(), "output_item.done")), SSE),
}


@pytest.mark.parametrize("kind", PLAIN_ANSWERS)
async def test_a_stream_answers_a_plain_request(
    api: Upstream, backend: HttpBackend, kind: str
) -> None:
    body, content_type = PLAIN_ANSWERS[kind]
    pieces = [body[at : at + 100_000] for at in range(0, len(body), 100_000)]
    api.say(*pieces, content_type=content_type)
    for include_document in (False, True):
        found = await generate(backend, include_document=include_document)
        [image] = images(found)
        assert image is not None
        assert image.startswith(PNG)
        assert (found.id, found.model, found.status) == ("resp_1", "gpt-5", "completed")
        assert found.HasField("document") == include_document
    value = json.loads(imagecall.document_to_json(found.document))
    assert (value["id"], value["status"], value["object"]) == ("resp_1", "completed", "response")
    assert image is not None
    [shown] = value["output"]
    assert shown["result"] == b64encode(image).decode()


async def test_the_items_of_a_stream_are_the_output_of_a_plain_answer(
    api: Upstream, backend: HttpBackend
) -> None:
    finals = [message(text("two")), item(), item(PNG + b"2", id="ig_2")]
    done = [
        {"type": "response.output_item.done", "output_index": index, "item": finals[index]}
        for index in (1, 0, 2)
    ]
    api.say(framed([happy()[0], *done, {"type": "response.completed", "response": response()}]))
    found = await generate(backend, include_document=True)
    assert (images(found), found.output_text) == ([PNG, PNG + b"2"], "two")
    assert json.loads(imagecall.document_to_json(found.document))["output"] == finals


@pytest.mark.parametrize(
    ("body", "reason", "words"),
    [
        (b'data: {"error":{"message":"m","code":"429"}}\n\n', "UPSTREAM_RATE_LIMITED", "m"),
        (b"event: error\ndata: it is off\n\n", "UPSTREAM_UNAVAILABLE", "it is off"),
        (b'event: error\ndata: "it is off"\n\n', "UPSTREAM_UNAVAILABLE", "it is off"),
        (b'event: error\ndata: {"message":"\\ud83d"}\n\n', "UPSTREAM_UNAVAILABLE", "?"),
        (framed(happy()[:4]), "UPSTREAM_DAMAGED", "before the image"),
        (framed(happy()[:4], done=False), "UPSTREAM_DAMAGED", "before the image"),
        (b"hello", "UPSTREAM_NOT_UNDERSTOOD", "neither JSON nor events"),
        (b'{"message":"m","code":429}', "UPSTREAM_RATE_LIMITED", "m"),
        (b'\xef\xbb\xbf\n{"error":"m"}', "UPSTREAM_UNAVAILABLE", "m"),
    ],
)
async def test_errors_are_the_same_for_plain_and_streamed_requests(
    api: Upstream, backend: HttpBackend, body: bytes, reason: str, words: str
) -> None:
    for content_type in (SSE, JSON, ""):
        api.say(body, content_type=content_type)
        for streaming in (True, False):
            error = await failure(backend, streaming)
            assert (error.reason, error.may_be_billed) == (reason, True)
            assert words in str(error)


UNENDED: Final[dict[str, Callable[[Upstream, bytes], None]]] = {
    "reset": lambda api, body: api.say(body, RESET, content_type=JSON),
    "without a last chunk": lambda api, body: api.say(body, content_type=JSON, whole=False),
    "too long": lambda api, body: api.say(
        body, content_type=JSON, chunked=False, headers={"content-length": str(len(body) + 9)}
    ),
    "too long, and then nothing": lambda api, body: api.say(body, b" \n", HANG, content_type=JSON),
    "in pieces": lambda api, body: api.say(
        *(body[at : at + 4000] for at in range(0, len(body), 4000)), RESET, content_type=JSON
    ),
}


@pytest.mark.parametrize("size", [0, 2 * MIB])
@pytest.mark.parametrize("how", UNENDED)
async def test_a_whole_json_text_is_whole_however_its_transfer_ends(
    api: Upstream, backend: HttpBackend, how: str, size: int
) -> None:
    image = PNG + random.Random(1).randbytes(size)
    body = json.dumps(response(item(image))).encode()
    UNENDED[how](api, body)
    assert images(await generate(backend)) == [image]
    [end] = await stream(backend)
    assert isinstance(end, StreamEnd)
    assert images(end.response) == [image]
    if how != "too long, and then nothing":
        UNENDED[how](api, body[:-1])
        error = await failure(backend, False)
        assert (error.reason, error.may_be_billed) == ("UPSTREAM_DAMAGED", True)


async def test_a_json_text_that_only_looks_whole_is_waited_for(
    api: Upstream, backend: HttpBackend
) -> None:
    at = BODY.rindex(b"}") - 60
    at = BODY.index(b"}", at) + 1
    api.say(BODY[:at], 1.5, BODY[at:], content_type=JSON)
    assert images(await generate(backend)) == [PNG]


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def flushed(wbits: int) -> Callable[[bytes], bytes]:
    """Compresses so that each event leaves at once."""

    def compress(data: bytes) -> bytes:
        packer = zlib.compressobj(wbits=wbits)
        pieces = [packer.compress(event + b"\n\n") + packer.flush(zlib.Z_SYNC_FLUSH)
                  for event in data.split(b"\n\n")]  # fmt: skip
        return b"".join(pieces) + packer.flush()

    return compress


def members(data: bytes) -> bytes:
    """A gzip body of several members, of which some are empty, and padding."""
    middle = len(data) // 2
    parts = [data[:middle], b"", data[middle:]]
    return b"".join(gzip.compress(part) for part in parts) + bytes(9)


COMPRESSED: Final[list[tuple[str, Callable[[bytes], bytes]]]] = [
    ("gzip", gzip.compress),
    ("x-gzip", gzip.compress),
    ("GZIP, identity", gzip.compress),
    ("gzip", members),
    ("gzip", flushed(31)),
    ("deflate", zlib.compress),
    ("deflate", raw_deflate),
    ("deflate", gzip.compress),
    ("deflate", flushed(-15)),
]


@pytest.mark.parametrize("step", [1, 7, 100_000])
@pytest.mark.parametrize(("encoding", "compress"), COMPRESSED, ids=range(len(COMPRESSED)))
async def test_compressed_answers_are_decoded(
    api: Upstream,
    backend: HttpBackend,
    encoding: str,
    compress: Callable[[bytes], bytes],
    step: int,
) -> None:
    headers = {"content-encoding": encoding}
    image = PNG + bytes(600_000) if step > 7 else PNG
    for body in (json.dumps(response(item(image))).encode(), framed(happy(image))):
        data = compress(body)
        api.say(*(data[at : at + step] for at in range(0, len(data), step)), headers=headers)
        assert images(await generate(backend)) == [image]
        assert ending(await stream(backend)) == "COMPLETED"


async def test_a_compressed_event_is_given_when_it_comes(
    api: Upstream, backend: HttpBackend
) -> None:
    packer = zlib.compressobj(wbits=31)
    events = framed(without(happy(), "response.completed"), done=False)
    data = packer.compress(events) + packer.flush(zlib.Z_SYNC_FLUSH)
    api.say(data, HANG, headers={"content-encoding": "gzip"})
    request = StreamImageRequest(request=ImageRequest(prompt="a fox"))
    async with aclosing(backend.stream_image(request)) as parts:
        found = [await anext(parts) for _ in range(6)]
    assert len(found) == 6


async def test_a_compressed_answer_that_is_damaged_is_never_an_image(
    api: Upstream, backend: HttpBackend
) -> None:
    packed = gzip.compress(BODY)
    headers = {"content-encoding": "gzip"}
    wrong_sum = packed[:-8] + bytes([packed[-8] ^ 1]) + packed[-7:]
    for body in (packed[:-30], wrong_sum, b"\x1f" + BODY, BODY):
        api.say(body, headers=headers, content_type=JSON)
        error = await failure(backend, False)
        assert (error.reason, error.may_be_billed) == ("UPSTREAM_DAMAGED", True)
    api.say(packed[:-4], RESET, headers=headers, content_type=JSON)
    assert images(await generate(backend)) == [PNG]


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, br", "compress"])
async def test_another_encoding_is_named(
    api: Upstream, backend: HttpBackend, encoding: str
) -> None:
    api.say(b"\x8b\x01", headers={"content-encoding": encoding}, content_type=JSON)
    for streaming in (True, False):
        error = await failure(backend, streaming)
        assert (error.reason, error.may_be_billed) == ("UPSTREAM_NOT_UNDERSTOOD", True)
        assert f'"{encoding}"' in str(error)


@pytest.mark.parametrize("start", [b"{", b"data: ", b" ", b": "])
async def test_a_bomb_is_given_up_at_the_limit(api: Upstream, start: bytes) -> None:
    backend = HttpBackend(api.url, max_bytes=8 * MIB)
    packer = zlib.compressobj(wbits=31)
    filling = b" " if start == b" " else b"a"
    bomb = packer.compress(start) + b"".join(packer.compress(filling * MIB) for _ in range(64))
    api.say(bomb + packer.flush(), headers={"content-encoding": "gzip"}, content_type=JSON)
    tracemalloc.start()
    for streaming in (True, False):
        assert (await failure(backend, streaming)).reason == "UPSTREAM_ANSWER_TOO_LARGE"
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40 * MIB
    await backend.close()


WORDS: Final = [message(text("I can't "), text("draw that.")), message(text(" Sorry."), name="m2")]
REFUSAL: Final = [message({"type": "refusal", "refusal": "No."})]


async def test_words_instead_of_an_image_reach_the_caller(
    api: Upstream, backend: HttpBackend
) -> None:
    for output, output_text, refusal in (
        (WORDS, "I can't draw that. Sorry.", ""),
        (REFUSAL, "", "No."),
        ([*WORDS, item(), *REFUSAL], "I can't draw that. Sorry.", "No."),
        ([item(), {"type": "message", "content": "no list"}, 5], "", ""),
    ):
        whole = response(*output)
        for body in (
            json.dumps(whole).encode(),
            framed([happy()[0], {"type": "response.completed", "response": whole}]),
        ):
            api.say(body)
            for found in (await generate(backend), (await end_of(backend)).response):
                assert (found.output_text, found.refusal) == (output_text, refusal)
                assert found.HasField("output_text") == bool(output_text)


async def test_words_of_a_stream_reach_the_caller_where_its_end_has_none(
    api: Upstream, backend: HttpBackend
) -> None:
    def of(kind: str, **keys: Any) -> Event:
        place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
        return {"type": f"response.{kind}", **place, **keys}

    deltas = [of("output_text.delta", delta=word) for word in ("I can't ", "draw ", "that.")]
    done = of("output_text.done", text="I can't draw that.")
    final = {"type": "response.output_item.done", "item": message(text("I can't draw that."))}
    for events in (deltas, [*deltas, done], [done], [*deltas, done, final], [final]):
        for last in ([], [{"type": "response.completed", "response": response()}]):
            api.say(framed([happy()[0], *events, *last]))
            assert (await end_of(backend)).response.output_text == "I can't draw that."
            assert (await generate(backend)).output_text == "I can't draw that."
    refusals = [of("refusal.delta", delta="No"), of("refusal.done", refusal="No.")]
    api.say(framed([happy()[0], *refusals]))
    assert (await end_of(backend)).response.refusal == "No."


async def test_words_past_the_limit_are_cut(api: Upstream, backend: HttpBackend) -> None:
    long = "ж" * (MIB // 2 + 9)
    api.say(json.dumps(response(message(text(long)))).encode(), content_type=JSON)
    for found in (await generate(backend), (await end_of(backend)).response):
        assert found.output_text == "ж" * (MIB // 2) + "…"
    delta = {"type": "response.output_text.delta", "delta": "ab" * 9000}
    api.say(framed([happy()[0], *[delta] * 400]))
    assert len((await end_of(backend)).response.output_text) == MIB + 1


async def test_fractions_in_usage_are_kept(api: Upstream, backend: HttpBackend) -> None:
    usage = b'{"input_tokens":12.5,"output_tokens":3.0,"total_tokens":15.50}'
    body = BODY.replace(b'"usage": null', b'"usage": ' + usage)
    end = b'data: {"type":"response.completed","response":' + body + b"}\n\n"
    for answer in (body, IMAGE + end):
        api.say(answer)
        found = (await generate(backend)).usage
        kept = {extra.name: extra.json for extra in found.extra_fields}
        assert kept == {"input_tokens": "12.5", "output_tokens": "3.0", "total_tokens": "15.50"}


async def test_a_background_response_is_queued(api: Upstream, backend: HttpBackend) -> None:
    api.say(json.dumps(response(status="queued")).encode(), content_type=JSON)
    found = await generate(backend)
    assert (found.status, len(found.calls)) == ("queued", 0)
    queued = {"type": "response.queued", "response": response(status="queued")}
    api.say(framed([queued, *happy()]))
    assert images(await generate(backend)) == [PNG]
    api.say(framed([queued, {"type": "response.completed", "response": response(item())}]))
    assert images(await generate(backend)) == [PNG]
