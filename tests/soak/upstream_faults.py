"""An API that fails in every way: the right status each time, and nobody else is slowed.

Each fault comes again and again, on StreamImage and GenerateImage, in random order, while a
bystander makes small calls at a steady pace. Its p99 is compared with that under as many calls per
second that the API answers well, in rounds by turns. "Right" is what the table of the README says.
"""

import asyncio
import json
import random
import socket
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import grpc

from imagecall.errors import ImagecallError
from imagecall.generation.assembly import reassemble
from imagecall.rpc.status import error_of
from imagecall.v1.image_generation_service_pb2 import GenerateImageRequest, StreamImageRequest
from imagecall.v1.image_generation_service_pb2_grpc import ImageGenerationServiceStub
from imagecall.v1.image_request_pb2 import ImageRequest
from tests.soak.api import api
from tests.soak.beside import beside
from tests.soak.figure import Figure, at_most, exactly, failures, informs, percentile
from tests.soak.server import running
from tests.streams import PNG, framed, happy, item, response
from tests.upstream import HANG, JSON, RESET, SSE, Answer, Step

_MIB: Final = 1024 * 1024
_LIMITS: Final = ("--max-json-bytes", str(4 * _MIB), "--max-image-bytes", str(8 * _MIB))
_DEADLINE_SECONDS: Final = 1.0
_CALLS_PER_SECOND: Final = 20
_MOST_TIMES_SLOWER: Final = 2.0
_RETRY_SECONDS: Final = 7

_OK: Final = "OK"
_EXPIRED: Final = "DEADLINE_EXCEEDED"
_CUT: Final = "DATA_LOSS UPSTREAM_DAMAGED"
_GONE: Final = "UNAVAILABLE UPSTREAM_DISCONNECTED"
_NO_API: Final = "FAILED_PRECONDITION UPSTREAM_NOT_UNDERSTOOD"
_TOO_LARGE: Final = "RESOURCE_EXHAUSTED UPSTREAM_ANSWER_TOO_LARGE"
_STATUSES: Final = {
    400: "INVALID_ARGUMENT UPSTREAM_INVALID_REQUEST",
    401: "UNAUTHENTICATED UPSTREAM_UNAUTHENTICATED",
    402: "FAILED_PRECONDITION UPSTREAM_PAYMENT_REQUIRED",
    403: "PERMISSION_DENIED UPSTREAM_FORBIDDEN",
    404: "NOT_FOUND UPSTREAM_NOT_FOUND",
    405: "UNIMPLEMENTED UPSTREAM_UNIMPLEMENTED",
    408: "DEADLINE_EXCEEDED UPSTREAM_TIMEOUT",
    409: "ABORTED UPSTREAM_CONFLICT",
    413: "RESOURCE_EXHAUSTED UPSTREAM_TOO_LARGE",
    418: "INVALID_ARGUMENT UPSTREAM_INVALID_REQUEST",
    422: "INVALID_ARGUMENT UPSTREAM_INVALID_REQUEST",
    429: "RESOURCE_EXHAUSTED UPSTREAM_RATE_LIMITED",
    500: "UNAVAILABLE UPSTREAM_UNAVAILABLE",
    501: "UNIMPLEMENTED UPSTREAM_UNIMPLEMENTED",
    502: "UNAVAILABLE UPSTREAM_UNAVAILABLE",
    503: "UNAVAILABLE UPSTREAM_UNAVAILABLE",
    504: "DEADLINE_EXCEEDED UPSTREAM_TIMEOUT",
    529: "UNAVAILABLE UPSTREAM_UNAVAILABLE",
}

_IMAGE: Final = PNG + bytes(_MIB)
_STREAM: Final = framed(happy(_IMAGE))
_SMALL: Final = framed(happy())
_BODY: Final = json.dumps(response(item(_IMAGE))).encode()
_ERROR: Final = json.dumps({"error": {"message": "too bad", "code": "c", "type": "t"}}).encode()
_HTML: Final = b"<!DOCTYPE html><html><body>Welcome</body></html>"


class _Fault(NamedTuple):
    """Fault of an API, and the outcomes of the two methods. None: the method is not tried."""

    answer: Answer
    stream: str | None
    generate: str | None


def _same(answer: Answer, outcome: str) -> _Fault:
    return _Fault(answer, outcome, outcome)


def _dripped(data: bytes, pieces: int) -> list[Step]:
    size = len(data) // pieces + 1
    return [
        step for at in range(0, len(data), size) for step in (data[at : at + size], 0.3 / pieces)
    ]


class _Endless:
    """Steps that begin so and never end."""

    def __init__(self, head: bytes, rest: bytes, pause: float = 0.0) -> None:
        self._head, self._rest, self._pause = head, rest, pause

    def __iter__(self) -> Iterator[Step]:
        yield self._head
        while True:
            yield self._rest
            yield self._pause or 0.0005


def _faults() -> dict[str, _Fault]:
    retry = {"retry-after": str(_RETRY_SECONDS)}
    garbage = b"\x00" + random.randbytes(50_000)
    no_http = b"\x16\x03\x01 this is not HTTP\r\n\r\n"
    image = b'data: {"type":"response.output_item.done","output_index":0,"item":{"type":'
    image += b'"image_generation_call","id":"ig_1","status":"completed","result":"'
    hole = _STREAM[:500_000] + b"\n\n" + _STREAM[700_000:]
    return {
        **{
            f"status {status}": _same(
                Answer((_ERROR,), status=status, content_type=JSON, headers=retry), outcome
            )
            for status, outcome in _STATUSES.items()
        },
        "502 with HTML": _same(
            Answer((_HTML,), status=502, content_type="text/html"), _STATUSES[502]
        ),
        "a redirect": _same(
            Answer(status=301, headers={"location": "http://127.0.0.1:1/"}), _NO_API
        ),
        "silent": _same(Answer((HANG,), status=None), _EXPIRED),
        "silent after the head": _same(Answer((HANG,)), _EXPIRED),
        "silent in an image": _Fault(Answer((_STREAM[:900_000], HANG)), _EXPIRED, None),
        "silent in an error": _same(
            Answer((_ERROR[:9], 0.3, RESET), status=500, content_type=JSON), _STATUSES[500]
        ),
        "drips a stream": _Fault(Answer(_dripped(_STREAM, 60)), _OK, None),
        "drips a body": _Fault(Answer(_dripped(_BODY, 60), content_type=JSON), None, _OK),
        "drips a few bytes each time": _Fault(Answer(_dripped(_SMALL, 150)), _OK, None),
        "reset at once": _same(Answer((RESET,), status=None), _GONE),
        "closed at once": _same(Answer(status=None), _GONE),
        "reset in a stream": _Fault(Answer((_STREAM[:900_000], 0.05, RESET)), _CUT, None),
        "reset in a body": _Fault(
            Answer((_BODY[:900_000], 0.05, RESET), content_type=JSON), None, _CUT
        ),
        "a cut stream": _Fault(Answer((_STREAM[:900_000],), whole=False), _CUT, None),
        "a cut body": _Fault(
            Answer((_BODY[:900_000],), content_type=JSON, whole=False), None, _CUT
        ),
        "a short body that claims to be whole": _Fault(
            Answer((_BODY[:900_000],), content_type=JSON), None, _CUT
        ),
        "a hole in an image": _Fault(Answer((hole,)), _CUT, None),
        "a hole in JSON": _Fault(Answer((_SMALL.replace(b'0, "item"', b'0, "it'),)), _CUT, None),
        "HTML": _same(Answer((_HTML,), content_type="text/html"), _NO_API),
        "HTML called JSON": _same(Answer((_HTML,), content_type=JSON), _NO_API),
        "other JSON": _same(Answer((b'{"hello":"world"}',), content_type=JSON), _NO_API),
        "nothing": _same(Answer(content_type=JSON), _NO_API),
        "garbage": _same(Answer((garbage,), content_type=JSON), _NO_API),
        "garbage called events": _Fault(Answer((garbage,), content_type=SSE), _NO_API, None),
        "no HTTP": _same(Answer((no_http,), status=None, chunked=False), _NO_API),
        "an endless line": _Fault(
            Answer(_Endless(b'data: {"type":"x","a":"', b"a" * 65_536)), _TOO_LARGE, None
        ),
        "an endless event": _Fault(
            Answer(_Endless(b'data: {"type":"x",\n', (b'data: "' + b"a" * 1_000 + b'",\n') * 60)),
            _TOO_LARGE,
            None,
        ),
        "an endless image": _Fault(Answer(_Endless(image, b"A" * 65_536)), _TOO_LARGE, None),
        "an endless body": _Fault(
            Answer(_Endless(b'{"a":"', b"a" * 65_536), content_type=JSON), None, _TOO_LARGE
        ),
        "comments for ever": _Fault(
            Answer(_Endless(b": hello\n\n", b": hello\n\n" * 500, 0.01)), _EXPIRED, None
        ),
    }


class _Caller:
    """Calls at a steady pace, and what became of them."""

    def __init__(self, stub: Any, plan: dict[str, _Fault]) -> None:
        self._stub = stub
        self._plan = plan
        self.wrong: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    async def keep(self, seconds: float) -> None:
        """Makes each call of the plan in turn, in random order, for so long and once at least."""
        begun: list[asyncio.Task[None]] = []
        due = end = time.monotonic()
        end += seconds
        while True:
            ways = [(name, way) for name in self._plan for way in ("stream", "generate")]
            random.shuffle(ways)
            for name, way in ways:
                wanted: str | None = getattr(self._plan[name], way)
                if wanted is None:
                    continue
                if time.monotonic() > end and self.calls[f"{name}, {way}"]:
                    continue
                begun.append(asyncio.create_task(self._one(name, way, wanted)))
                due += 1 / _CALLS_PER_SECOND
                await asyncio.sleep(max(0, due - time.monotonic()))
            if time.monotonic() > end:
                break
        await asyncio.gather(*begun)

    async def _one(self, name: str, way: str, wanted: str) -> None:
        self.calls[f"{name}, {way}"] += 1
        request = ImageRequest(prompt=name)
        try:
            if way == "stream":
                call = self._stub.StreamImage(
                    StreamImageRequest(request=request), timeout=_DEADLINE_SECONDS
                )
                async for _ in reassemble(call):
                    pass
            else:
                message = GenerateImageRequest(request=request)
                await self._stub.GenerateImage(message, timeout=_DEADLINE_SECONDS)
            found = _OK
        except grpc.RpcError as error:
            refused = error_of(error)
            found = f"{refused.code} {refused.reason}".strip()
            if name == "status 429" and getattr(refused, "retry_seconds", 0) != _RETRY_SECONDS:
                found += " without its RetryInfo"
        except ImagecallError as error:
            found = f"{error.code} {error.reason}, found by the client"
        if found != wanted:
            self.wrong[f"{name}, {way}: {found} instead of {wanted}"] += 1


async def run(short: bool, seed: int) -> list[Figure]:
    random.seed(seed)
    rounds, seconds = (2, 2.0) if short else (10, 10.0)
    faults = _faults()
    well = {
        "well": _Fault(Answer((_STREAM,)), _OK, None),
        "well in one": _Fault(Answer((_BODY,), content_type=JSON), None, _OK),
    }
    answers = {name: fault.answer for name, fault in (faults | well).items()}
    slow: dict[str, list[float]] = {"alone": [], "healthy": [], "faulty": []}
    failed: list[str] = []
    async with (
        api(answers.__getitem__) as failing,
        running("--backend", failing.url, *_LIMITS) as server,
        grpc.aio.insecure_channel(
            server.grpc, [("grpc.max_receive_message_length", -1)]
        ) as channel,
    ):
        stub = ImageGenerationServiceStub(channel)
        healthy, faulty = _Caller(stub, well), _Caller(stub, faults)
        await _Caller(stub, faults | well).keep(0)  # To warm it up.
        cpu, start = time.process_time(), time.monotonic()
        for _ in range(rounds):
            for name, work in (
                ("alone", asyncio.sleep(seconds)),
                ("healthy", healthy.keep(seconds)),
                ("faulty", faulty.keep(seconds)),
            ):
                async with beside("bystander", server.grpc) as bystander:
                    await work
                    found = await bystander.found()
                slow[name].append(percentile(found["grpc"], 0.99))
                failed += found["failures"]
        share = (time.process_time() - cpu) / (time.monotonic() - start)
    alone, good, bad = (statistics.median(found) for found in slow.values())
    figures = [
        failures(f"{sum(faulty.calls.values()):,} calls of {len(faulty.calls)} kinds: wrong "
                 "status", faulty.wrong + healthy.wrong),
        await _unreachable(),
        informs(f"bystander's p99 alone, median of {rounds} rounds", alone, "ms"),
        informs(f"bystander's p99 with {_CALLS_PER_SECOND} good calls/s", good, "ms"),
        informs(f"bystander's p99 with {_CALLS_PER_SECOND} faults/s", bad, "ms"),
        at_most("bystander's p99 with faults, to that with good calls", bad / good,
                _MOST_TIMES_SLOWER, "times"),
        exactly("bystander's calls that failed", len(failed), 0),
        informs("the API and its callers took", share, "cores"),
    ]  # fmt: skip
    return figures if short else [*figures, await _five_minutes()]


async def _unreachable() -> Figure:
    """An API at whose address nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        wanted = "UNAVAILABLE UPSTREAM_UNREACHABLE"
        return await _single("an API that is not there: wrong status", url, wanted)


async def _five_minutes() -> Figure:
    """An API that is silent for the five minutes after which the server gives up."""
    async with api(lambda _: Answer((HANG,))) as silent:
        wanted = _STATUSES[504]
        return await _single("five minutes of silence: wrong status", silent.url, wanted, 330)


async def _single(name: str, url: str, wanted: str, seconds: float = 10) -> Figure:
    async with (
        running("--backend", url) as server,
        grpc.aio.insecure_channel(server.grpc) as channel,
    ):
        stub: Any = ImageGenerationServiceStub(channel)
        request = StreamImageRequest(request=ImageRequest(prompt="a fox"))
        try:
            async for _ in stub.StreamImage(request, timeout=seconds):
                pass
            found = _OK
        except grpc.RpcError as error:
            refused = error_of(error)
            found = f"{refused.code} {refused.reason}"
    return exactly(name, "0" if found == wanted else found, "0")
