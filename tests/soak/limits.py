"""At each limit a call passes, and just past it it is refused with the reason."""

import asyncio
import json
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from imagecall.v1 import conversion_service_pb2 as pb
from imagecall.v1.conversion_service_pb2_grpc import ConversionServiceStub
from imagecall.v1.document_kind_pb2 import DOCUMENT_KIND_RESPONSE
from imagecall.v1.extra_field_pb2 import ExtraField
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall
from imagecall.v1.image_generation_service_pb2 import GenerateImageRequest, StreamImageRequest
from imagecall.v1.image_generation_service_pb2_grpc import ImageGenerationServiceStub
from imagecall.v1.image_request_pb2 import ImageRequest
from imagecall.wire.chunks import split
from tests.soak.figure import Figure, at_most, exactly, percentile
from tests.soak.outcome import OK, Outcome, channel_to, in_place, of_call, of_post, of_stream
from tests.soak.server import Server, running
from tests.streams import PNG, framed, happy
from tests.upstream import upstream

JSON_BYTES: Final = 1_000_000
ITEMS: Final = 1_000
IMAGE_BYTES: Final = 8_000_000
METADATA_BYTES: Final = 16 * 1024
CALLS: Final = 20
MAX_KEYS: Final = 10_000
MAX_VALUES: Final = 100_000
MAX_DEPTH: Final = 100
MAX_DIGITS: Final = 4_300
_TOKEN: Final = "soak-0123456789-abcdefghij"
_HEAD: Final = '{"type":"image_generation_call"'
_REFUSED_MS: Final = 50

Try = Callable[[int], Awaitable[Outcome]]
"""A call that has so much of something."""


async def run(short: bool, seed: int) -> list[Figure]:
    """Each limit, the cap of calls in progress, tokens, and the time that a call may take."""
    return [
        *await _json_limits(JSON_BYTES, ("--max-json-bytes", str(JSON_BYTES))),
        *([] if short else await _json_limits(32 * 1024 * 1024, ())),
        *await _counts(),
        *await _image_bytes(),
        *await _metadata(),
        *await _cap(200 if short else 500),
        *await _tokens(),
        *await _call_seconds(),
    ]


async def _edge(name: str, limit: int, attempt: Try, refused: str) -> Figure:
    """That what is at the limit passes, and what is one past it is refused so."""
    seen = [str(await attempt(size)) for size in (limit, limit + 1)]
    return exactly(f"{name}: {limit:,}, one more", ", ".join(seen), f"{OK}, {refused}")


def _conversions(channel: grpc.aio.Channel) -> Any:
    return ConversionServiceStub(channel)


def _padded(size: int, head: str = _HEAD) -> str:
    """An item of so many bytes of JSON."""
    return head + ',"x":"' + "y" * (size - len(head) - 8) + '"}'


async def _in_stream(stub: Any, conversions: Iterable[pb.Conversion]) -> Outcome:
    """Returns the outcome of the last item of a stream, or of the stream."""

    def requests() -> Iterator[pb.ConvertCallsRequest]:
        for conversion in conversions:
            yield pb.ConvertCallsRequest(conversions=[conversion])

    outcome = await of_stream(stub.ConvertCalls(requests()))
    results = [result for answer in outcome.answers for result in answer.results]
    if outcome.code == OK and results and results[-1].HasField("error"):
        return in_place(results[-1].error)
    return outcome


async def _json_limits(limit: int, flags: Iterable[str]) -> list[Figure]:
    """The bytes of a JSON text, in whichever way it comes or goes."""
    async with running(*flags) as server, channel_to(server.grpc) as channel:
        stub = _conversions(channel)

        async def parse(size: int) -> Outcome:
            return await of_call(stub.ParseCall(pb.ParseCallRequest(json=_padded(size))))

        async def parse_document(size: int) -> Outcome:
            text = _padded(size, '{"output":[]')
            request = pb.ParseDocumentRequest(json=text, kind=DOCUMENT_KIND_RESPONSE)
            return await of_call(stub.ParseDocument(request))

        async def format_call(size: int) -> Outcome:
            call = ImageGenerationCall()
            raw = _padded(size)[len(_HEAD) + 5 : -1]
            call.output_image_generation_call.extra_fields.add(name="x", json=raw)
            return await of_call(stub.FormatCall(pb.FormatCallRequest(call=call)))

        async def chunks(size: int) -> Outcome:
            pieces = (pb.Conversion(json_chunk=chunk) for chunk in split(_padded(size).encode()))
            return await _in_stream(stub, pieces)

        async def body(size: int) -> Outcome:
            text = json.dumps({"input": "a fox", "tools": [_TOOL]}).encode()
            return await of_post(server.http, text + b" " * (size - len(text)))

        refused = "RESOURCE_EXHAUSTED TOO_LARGE"
        return [
            await _edge("bytes of ParseCall", limit, parse, refused),
            await _edge("bytes of ParseDocument", limit, parse_document, refused),
            await _edge("bytes that FormatCall writes", limit, format_call, refused),
            await _edge("bytes of ConvertCalls in chunks", limit, chunks, refused),
            await _edge("bytes of an HTTP body", limit, body, "413 TOO_LARGE"),
        ]


_TOOL: Final = {"type": "image_generation", "size": "16x16"}


async def _counts() -> list[Figure]:
    """Tries limits on the number of items, keys, values, levels and digits."""
    async with (
        running("--max-stream-items", str(ITEMS)) as server,
        channel_to(server.grpc) as channel,
    ):
        stub = _conversions(channel)

        async def items(count: int) -> Outcome:
            small = pb.Conversion(json=_HEAD + "}")
            outcome = await _in_stream(stub, [small] * count)
            answered = sum(len(answer.results) for answer in outcome.answers)
            return outcome if answered == ITEMS else Outcome("LOST", f"{ITEMS - answered}")

        async def parse(text: str) -> Outcome:
            return await of_call(stub.ParseCall(pb.ParseCallRequest(json=text)))

        async def keys(count: int) -> Outcome:
            return await parse(_HEAD + "".join(f',"{n}":0' for n in range(count - 1)) + "}")

        async def inner_keys(count: int) -> Outcome:
            members = ",".join(f'"{n}":0' for n in range(count))
            return await parse(_HEAD + ',"x":{' + members + "}}")

        async def written_keys(count: int) -> Outcome:
            extra = [ExtraField(name=str(n), json="0") for n in range(count - 1)]
            call = ImageGenerationCall()
            call.output_image_generation_call.extra_fields.extend(extra)
            return await of_call(stub.FormatCall(pb.FormatCallRequest(call=call)))

        async def values(count: int) -> Outcome:
            return await parse(_HEAD + ',"x":[' + "0," * (count - 3) + "0]}")

        async def depth(levels: int) -> Outcome:
            return await parse(_HEAD + ',"x":' + "[" * (levels - 1) + "]" * (levels - 1) + "}")

        async def digits(count: int) -> Outcome:
            return await parse(_HEAD + ',"x":' + "1" * count + "}")

        many = "RESOURCE_EXHAUSTED TOO_MANY_VALUES"
        return [
            await _edge("items of a stream", ITEMS, items, "RESOURCE_EXHAUSTED TOO_MANY_ITEMS"),
            await _edge("keys of an item", MAX_KEYS, keys, many),
            await _edge("keys of an object in it", MAX_KEYS, inner_keys, many),
            await _edge("keys that FormatCall writes", MAX_KEYS, written_keys, many),
            await _edge("values of a text", MAX_VALUES, values, many),
            await _edge("levels", MAX_DEPTH, depth, "INVALID_ARGUMENT TOO_DEEP"),
            await _edge("digits", MAX_DIGITS, digits, "INVALID_ARGUMENT NUMBER_TOO_LONG"),
        ]


async def _image_bytes() -> list[Figure]:
    """The size of an image that an API answers with."""
    figures = []
    async with upstream() as api:
        for limit in (100_000, IMAGE_BYTES):
            flags = ("--backend", api.url, "--max-image-bytes", str(limit))
            async with running(*flags) as server, channel_to(server.grpc) as channel:
                stub: Any = ImageGenerationServiceStub(channel)

                async def stream(size: int, stub: Any = stub) -> Outcome:
                    api.say(framed(happy(PNG + bytes(size - len(PNG)))))
                    request = StreamImageRequest(request=ImageRequest(prompt="a fox"))
                    return await of_stream(stub.StreamImage(request))

                refused = "RESOURCE_EXHAUSTED UPSTREAM_ANSWER_TOO_LARGE"
                figures.append(await _edge("bytes of an image", limit, stream, refused))
    return figures


async def _metadata() -> list[Figure]:
    """The metadata of a call, of which a client adds some itself."""
    async with (
        running("--max-metadata-bytes", str(METADATA_BYTES)) as server,
        channel_to(server.grpc) as channel,
    ):
        stub = _conversions(channel)
        request = pb.ParseCallRequest(json=_HEAD + "}")

        async def attempt(size: int) -> Outcome:
            return await of_call(stub.ParseCall(request, metadata=[("x-padding", "y" * size)]))

        passes, refused = 0, METADATA_BYTES
        while refused - passes > 1:
            middle = (passes + refused) // 2
            if (await attempt(middle)).code == OK:
                passes = middle
            else:
                refused = middle
        return [
            await _edge("bytes of a metadatum", passes, attempt, "RESOURCE_EXHAUSTED TOO_LARGE"),
            at_most("bytes of metadata around it", METADATA_BYTES - passes, 1024),
        ]


def _delayed(seconds: float) -> ImageRequest:
    """A request that takes so long."""
    asked = ExtraField(name="embedded", json=json.dumps({"delay_seconds": seconds}))
    return ImageRequest(prompt="a fox", extra_fields=[asked])


async def _cap(tries: int) -> list[Figure]:
    """Measures the refusals of calls past the cap, their delay, and the harm to other calls."""
    async with (
        running("--max-calls", str(CALLS)) as server,
        channel_to(server.grpc) as held,
        channel_to(server.grpc) as channel,
    ):
        stub: Any = ImageGenerationServiceStub(held)
        request = _delayed(5 + tries / 50)
        half = CALLS // 2
        calls = [
            *(
                of_call(stub.GenerateImage(GenerateImageRequest(request=request)))
                for _ in range(half)
            ),
            *(
                of_stream(stub.StreamImage(StreamImageRequest(request=request)))
                for _ in range(half)
            ),
        ]
        working = [asyncio.ensure_future(call) for call in calls]
        await asyncio.sleep(1)
        figures = await _past_cap(server, channel, tries)
        done = [task.done() for task in working]
        outcomes = [str(outcome) for outcome in await asyncio.gather(*working)]
        after = await of_call(_conversions(channel).ParseCall(_SMALL))
    return [
        *figures,
        exactly("calls in progress that ended while others were refused", sum(done), 0),
        exactly("calls in progress that finish", outcomes.count(OK), CALLS),
        exactly("a call after them", str(after), OK),
    ]


_SMALL: Final = pb.ParseCallRequest(json=_HEAD + "}")


async def _past_cap(server: Server, channel: grpc.aio.Channel, tries: int) -> list[Figure]:
    stub = _conversions(channel)
    health: Any = health_pb2_grpc.HealthStub(channel)
    times, seen, serving = [], set(), set()
    for number in range(tries):
        start = time.monotonic()
        outcome = await of_call(stub.ParseCall(_SMALL))
        times.append((time.monotonic() - start) * 1000)
        seen.add(f"{outcome}{' with RetryInfo' if outcome.retry else ''}")
        if number % 10 == 0:
            answer: Any = await health.Check(health_pb2.HealthCheckRequest())
            serving.add(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
    http = await of_post(server.http, b'{"input":"a fox"}')
    retry = " with Retry-After" if http.retry else ""
    wanted = "RESOURCE_EXHAUSTED TOO_MANY_CALLS with RetryInfo"
    return [
        exactly(f"past {CALLS} calls", ", ".join(sorted(seen)), wanted),
        at_most(f"p99 of {tries:,} refusals", percentile(times, 0.99), _REFUSED_MS, "ms"),
        exactly("health meanwhile", ", ".join(sorted(serving)), "SERVING"),
        exactly("HTTP meanwhile", f"{http}{retry}", "429 TOO_MANY_CALLS with Retry-After"),
    ]


async def _tokens() -> list[Figure]:
    """Checks the status of calls without a token, or with a wrong one."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "tokens"
        file.write_text(f"soak {_TOKEN}\n")
        async with (
            running("--tokens-file", str(file)) as server,
            channel_to(server.grpc) as channel,
        ):
            stub = _conversions(channel)
            health: Any = health_pb2_grpc.HealthStub(channel)
            right, wrong = f"Bearer {_TOKEN}", f"Bearer {_TOKEN[:-1]}x"

            async def both(**sent: str) -> str:
                metadata = list(sent.items())
                outcome = await of_call(stub.ParseCall(_SMALL, metadata=metadata))
                return f"{outcome}, {await of_post(server.http, _POSTED, **sent)}"

            open_health: Any = health.Check(health_pb2.HealthCheckRequest())
            refused = "UNAUTHENTICATED TOKEN_REQUIRED, 401 TOKEN_REQUIRED"
            return [
                exactly("no token", await both(), refused),
                exactly("a wrong token", await both(authorization=wrong), refused),
                exactly("the token", await both(authorization=right), f"{OK}, {OK}"),
                exactly("health without a token", str(await of_call(open_health)), OK),
            ]


_POSTED: Final = json.dumps({"input": "a fox", "tools": [_TOOL]}).encode()


async def _call_seconds() -> list[Figure]:
    """Checks the status of a call that takes too long."""
    async with running("--max-call-seconds", "1") as server, channel_to(server.grpc) as channel:
        stub: Any = ImageGenerationServiceStub(channel)
        start = time.monotonic()
        unary = stub.GenerateImage(GenerateImageRequest(request=_delayed(10)))
        stream = stub.StreamImage(StreamImageRequest(request=_delayed(10)))
        outcomes = await asyncio.gather(of_call(unary), of_stream(stream))
        took = time.monotonic() - start
        body = json.dumps({"input": "a fox", "embedded": {"delay_seconds": 10}}).encode()
        http = await of_post(server.http, body)
    too_long = "DEADLINE_EXCEEDED CALL_TOO_LONG"
    return [
        exactly(
            "a call of more than 1 s", ", ".join(map(str, outcomes)), f"{too_long}, {too_long}"
        ),
        at_most("when it is told so", took, 1.5, "s"),
        exactly("HTTP", str(http), "424 CALL_TOO_LONG"),
    ]
