"""The key of a backend reaches no client, wherever and however the backend quotes it."""

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import grpc
import pytest
import pytest_asyncio

from imagecall.backends.masking import MaskedStream
from imagecall.backends.responses_api.backend import HttpBackend
from imagecall.v1 import image_generation_service_pb2 as pb
from imagecall.v1.image_generation_service_pb2_grpc import ImageGenerationServiceStub
from imagecall.wire.chunks import Assembly, RawChunk, split
from imagecall.wire.varint import write_varint
from tests.backends.misbehaving import Misbehaving, chunk, stream
from tests.backends.test_grpc_answers import an_image, plain, served
from tests.doors.test_generation import a_request, serving
from tests.doors.test_http import door_before
from tests.streams import PNG, framed, happy, item, response
from tests.upstream import JSON, Answer, Upstream, upstream

# The tests of all answers share the doors, and so the event loop.
pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = "sk-planted/0123456789+abcdef"
ESCAPE = re.compile(rb"\\+u00([0-9a-fA-F]{2})")

SPELLINGS = {
    "plain": KEY,
    "one escape": KEY.replace("-", "\\u002d"),
    "escapes": "".join(f"\\u{ord(letter):04X}" for letter in KEY),
    "solidus": KEY.replace("/", "\\/"),
    "in JSON in a string": json.dumps(KEY.replace("/", "\\/").replace("-", "\\u002d"))[1:-1],
}


def shows_key(data: bytes) -> bool:
    """Returns True if the bytes have the key, once their escapes are undone."""
    plain_data = ESCAPE.sub(lambda found: bytes.fromhex(found[1].decode()), data)
    return KEY.encode() in re.sub(rb"\\+/", b"/", plain_data)


FAILED = {"type": "response.failed", "response": response(status="failed", metadata={"a": "KEY"})}
WHOLE = json.dumps(response(item())).encode()
ANSWERS: dict[str, Answer] = {
    "error": Answer([b'{"error":{"message":"bad KEY","code":"KEY","param":"KEY"}}'], 401, JSON),
    "error of text": Answer([b"x" * 280 + b" bad KEY"], 500, "text/plain"),
    "error that is cut": Answer([b'{"error":{"message":"' + b"x" * 560 + b'KEY"}}'], 400, JSON),
    "status 200": Answer([b'{"error":{"message":"bad KEY"}}'], content_type=JSON),
    "encoding": Answer([b"x"], headers={"content-encoding": "KEY"}),
    "request id": Answer([b"{}"], 500, JSON, headers={"x-request-id": "KEY"}),
    "metadata": Answer([json.dumps(response(item(), metadata={"a": "KEY"})).encode()], 200, JSON),
    "name": Answer([json.dumps(response(item(), metadata={"KEY": 1})).encode()], 200, JSON),
    "item": Answer([json.dumps(response(item(), KEY="KEY", error="KEY")).encode()], 200, JSON),
    "result": Answer([json.dumps(response(item("KEY"))).encode()], 200, JSON),
    "prompt": Answer([framed(happy(done=item(revised_prompt="KEY")))]),
    "failed": Answer([framed([FAILED])]),
    "other event": Answer(
        [
            b'event: x.KEY\ndata: {"a":"KEY"}\n\n',
            framed([*happy()[:-1], {"type": "KEY"}, happy()[-1]]),
        ]
    ),
    "error event": Answer([b'data: {"type":"error","message":"bad KEY","code":"KEY"}\n\n']),
    "not JSON": Answer([b"data: {KEY\n\n"]),
    "faulty": Answer([WHOLE[:-1] + b',"KEY":1,"KEY":2}'], 200, JSON),
    "pieces": Answer([framed(happy(done=item(revised_prompt="KEY")))]),
}


def spelled(answer: Answer, key: str, pieces: bool) -> Answer:
    """Returns the answer with the key as spelled; with `pieces` in pieces of 3 bytes."""
    steps = [step.replace(b"KEY", key.encode()) for step in answer.steps if isinstance(step, bytes)]
    if pieces:
        steps = [step[at : at + 3] for step in steps for at in range(0, len(step), 3)]
    headers = {name: value.replace("KEY", KEY) for name, value in answer.headers.items()}
    return Answer(steps, answer.status, answer.content_type, headers)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api() -> AsyncIterator[Upstream]:
    async with upstream() as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def before_the_api(api: Upstream) -> AsyncIterator[tuple[str, str]]:
    """The addresses of both doors before the API."""
    async with (
        serving(HttpBackend(api.url, KEY)) as address,
        door_before(HttpBackend(api.url, KEY)) as url,
    ):
        yield address, url


async def of_grpc(address: str, *streams: bool) -> AsyncIterator[bytes]:
    """Yields all that a gRPC client receives: plain, or as a stream."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = ImageGenerationServiceStub(channel)
        request: Any = {"request": a_request(), "include_document": True}
        a_stream = pb.StreamImageRequest(**request, include_other_events=True)
        for streaming in streams:
            try:
                if streaming:
                    async for part in stub.StreamImage(a_stream):
                        yield part.SerializeToString()
                else:
                    answer = await stub.GenerateImage(pb.GenerateImageRequest(**request))
                    yield answer.SerializeToString()
            except grpc.aio.AioRpcError as error:
                yield repr((error.details(), error.trailing_metadata())).encode()
                yield b"".join(
                    value if isinstance(value, bytes) else value.encode()
                    for _, value in error.trailing_metadata() or ()
                )


async def of_http(url: str) -> AsyncIterator[bytes]:
    """Yields all that an HTTP client receives: plain, and as a stream."""
    async with aiohttp.ClientSession() as session:
        for streams in (False, True):
            asked = {"input": "a fox", "stream": streams}
            async with session.post(f"http://{url}/v1/responses", json=asked) as answer:
                yield str(answer.headers).encode()
                yield await answer.read()


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("name", ANSWERS)
async def test_the_key_of_an_api_reaches_no_client(
    api: Upstream, before_the_api: tuple[str, str], name: str, spelling: str
) -> None:
    api.forget()
    api.answers = [spelled(ANSWERS[name], SPELLINGS[spelling], name == "pieces")]
    address, url = before_the_api
    received = [data async for data in of_grpc(address, False, True)]
    received += [data async for data in of_http(url)]
    assert api.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert len(received) >= 6
    assert not shows_key(b"\n".join(received))


def unknown_field(data: bytes) -> bytes:
    """Returns a field, of a number that no message has, in serialized form."""
    return b"\xfa\x7f" + write_varint(len(data)) + data


def long_text(key: str, size: int) -> list[Any]:
    """Returns a stream whose end has a long document, in chunks of a size."""
    *messages, end = stream()
    document = json.dumps({"output": [], "metadata": {"a": f"{'x' * 50} KEY {'x' * 50}"}})
    text = document.replace("KEY", key).encode()
    kept: Any = end.end.response.document
    kept.kind, kept.json = 2, ""
    end.end.response.ClearField("calls")
    whole = next(iter(split(text))).end
    last: Any = {"size": whole.size, "sha256": whole.sha256, "field": "response.document.json"}
    starts = range(0, len(text), size)
    chunks = [chunk(at, text[at : at + size]) for at in starts[:-1]]
    return [*messages, *chunks, chunk(starts[-1], text[starts[-1] :], **last), end]


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("size", [1, 7, 100, 100_000])
async def test_a_long_text_of_a_grpc_backend_is_masked_across_its_chunks(
    spelling: str, size: int
) -> None:
    backend = Misbehaving(long_text(SPELLINGS[spelling], size))
    async with (
        served(backend, token=KEY) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        stub: Any = ImageGenerationServiceStub(channel)
        request = pb.StreamImageRequest(request=a_request(), include_document=True)
        parts = [part async for part in stub.StreamImage(request)]
    values: list[bytes] = []
    value = Assembly(1_000_000)
    for part in parts:
        if part.HasField("chunk"):
            value.add(RawChunk.of(part.chunk))
        if value.end is not None:
            values.append(value.whole())
            value = Assembly(1_000_000)
    image, text = values
    assert image == PNG
    assert not shows_key(text)
    assert b"[key]" in text
    json.loads(text)


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_fields_of_a_newer_schema_are_masked_too(spelling: str) -> None:
    key = SPELLINGS[spelling].encode()
    answer = plain(status="completed", calls=[an_image()]).SerializeToString()
    *messages, end = stream()
    done = end.SerializeToString() + unknown_field(b"c " + key)
    answers: Any
    for streams, answers in (
        (False, [answer + unknown_field(b"a " + key)]),
        (True, [*messages, unknown_field(b"b " + key), done]),
    ):
        async with served(Misbehaving(answers), token=KEY) as address:
            received = b"".join([data async for data in of_grpc(address, streams)])
        assert not shows_key(received)
        assert b"[key]" in received


async def test_an_image_in_chunks_passes_unchanged() -> None:
    parts = [message.SerializeToString() for message in stream()]
    masking = MaskedStream((KEY,))
    assert [part for each in parts for part in masking.mask(each)] == parts
