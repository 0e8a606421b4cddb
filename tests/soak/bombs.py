"""Small requests that would become large, or take long: refused soon, and with little memory."""

import asyncio
import gzip
import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from imagecall.v1 import conversion_service_pb2 as pb
from imagecall.v1.document_kind_pb2 import DOCUMENT_KIND_EVENT, DOCUMENT_KIND_RESPONSE
from imagecall.v1.document_pb2 import Document
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall
from imagecall.v1.image_generation_service_pb2 import StreamImageRequest
from imagecall.v1.image_request_pb2 import ImageRequest
from tests.soak.figure import Figure, at_most, informs
from tests.soak.http2 import of_compressed
from tests.soak.outcome import OK, Outcome, channel_to, of_post, of_stream
from tests.soak.server import Server, running
from tests.soak.wire import field, nested

MIB: Final = 1024 * 1024
_SECONDS: Final = 2
_BEYOND_MIB: Final = 32
_BODY_MIB: Final = 128
_TIMEOUT: Final = 120
_KEPT_MIB: Final = 16
_COPIES: Final = 6
"""Allowed copies of a large body in memory: as received, as bytes, in a message, as a string."""

_HEAD: Final = '{"type":"image_generation_call"'
_CONVERSION: Final = "/imagecall.v1.ConversionService/"
_GENERATION: Final = "/imagecall.v1.ImageGenerationService/"

_REFUSED: Final = (
    "INVALID_ARGUMENT",
    "RESOURCE_EXHAUSTED",
    "UNIMPLEMENTED",  # Of compression.
    *("413", "415", "400"),
)


@dataclass(frozen=True)
class Bomb:
    """A request.

    Attributes:
        name: what it is.
        path: of the method; one that begins with /v1 or /convert is of the HTTP door.
        body: makes what is sent.
        compressed: whether it is sent as gzip, already compressed.
        passes: whether it may be accepted, as it is within the limits.
    """

    name: str
    path: str
    body: Callable[[], bytes]
    compressed: bool = False
    passes: bool = False


def _parse(text: str) -> bytes:
    return pb.ParseCallRequest(json=text).SerializeToString()


def _document(text: str, kind: Any = DOCUMENT_KIND_RESPONSE) -> bytes:
    return pb.ParseDocumentRequest(json=text, kind=kind).SerializeToString()


def _call(**extra: str) -> ImageGenerationCall:
    call = ImageGenerationCall()
    call.output_image_generation_call.id = "ig_1"
    for name, raw in extra.items():
        call.output_image_generation_call.extra_fields.add(name=name, json=raw)
    return call


def _format(call: ImageGenerationCall) -> bytes:
    return pb.FormatCallRequest(call=call).SerializeToString()


def _unknown(raw: str) -> bytes:
    call = ImageGenerationCall()
    call.unknown_item.type, call.unknown_item.json = "x", raw
    return _format(call)


def _format_document(text: str) -> bytes:
    document = Document(kind=DOCUMENT_KIND_RESPONSE, json=text)
    return pb.FormatDocumentRequest(document=document).SerializeToString()


def _image(**extra: str) -> bytes:
    request = ImageRequest(prompt="a fox")
    for name, raw in extra.items():
        request.extra_fields.add(name=name, json=raw)
    return StreamImageRequest(request=request).SerializeToString()


def _keys(count: int) -> str:
    return "{" + ",".join(f'"k{n}":0' for n in range(count)) + "}"


def _objects(count: int) -> str:
    return "[" + ",".join(f'{{"k{n}":0}}' for n in range(count)) + "]"


def _levels(count: int) -> str:
    return "[" * count + "]" * count


def _zeros(size: int) -> bytes:
    """So many zeros as gzip."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=9) as file:
        for _ in range(size // MIB):
            file.write(bytes(MIB))
    return packed.getvalue()


def _nests(name: str, make: Callable[[str], bytes], path: str) -> Iterator[Bomb]:
    """A value in a place: too deep, too long, too many."""
    yield Bomb(f"100,000 levels in {name}", path, lambda: make(_levels(100_000)))
    yield Bomb(f"a number of 5,000 digits in {name}", path, lambda: make("1" * 5_000))
    yield Bomb(f"200,000 keys in {name}", path, lambda: make(_keys(200_000)))
    yield Bomb(
        f"200,000 objects of a key in {name}", path, lambda: make(_objects(200_000)), passes=True
    )


def _json_bombs() -> Iterator[Bomb]:
    parse, document = _CONVERSION + "ParseCall", _CONVERSION + "ParseDocument"
    yield from _nests("an item", lambda raw: _parse(f'{_HEAD},"x":{raw}}}'), parse)
    yield from _nests("a response", lambda raw: _document(f'{{"x":{raw}}}'), document)
    event = '{"type":"response.output_item.done","item":'
    yield from _nests(
        "an event", lambda raw: _document(f"{event}{raw}}}", DOCUMENT_KIND_EVENT), document
    )
    yield from _nests(
        "an extra field", lambda raw: _format(_call(x=raw)), _CONVERSION + "FormatCall"
    )
    yield from _nests(
        "an UnknownItem",
        lambda raw: _unknown(f'{{"type":"x","x":{raw}}}'),
        _CONVERSION + "FormatCall",
    )
    yield from _nests(
        "a Document", lambda raw: _format_document(f'{{"x":{raw}}}'), _CONVERSION + "FormatDocument"
    )
    yield from _nests(
        "a request for an image", lambda raw: _image(user=raw), _GENERATION + "StreamImage"
    )
    yield from _nests(
        "an HTTP body", lambda raw: f'{{"input":"a fox","x":{raw}}}'.encode(), "/v1/responses"
    )


def _large_bombs(count: int) -> Iterator[Bomb]:
    parse = _CONVERSION + "ParseCall"
    arrays = f"{count:,} empty arrays"
    yield Bomb(arrays, parse, lambda: _parse(f'{_HEAD},"x":[' + "[]," * count + "0]}"))
    yield Bomb(
        arrays + " in an HTTP body",
        "/v1/responses",
        lambda: b'{"input":"a fox","x":[' + b"[]," * count + b"0]}",
    )
    yield Bomb(
        "a key of 8 MiB, twice",
        parse,
        lambda: _parse(_HEAD + f',"{"k" * 8 * MIB}":0,"{"k" * 8 * MIB}":0}}'),
    )
    yield Bomb("a key of 8 MiB", parse, lambda: _parse(_HEAD + f',"{"k" * 8 * MIB}":[}}'))
    yield Bomb(
        "a string without its end, of 500,000 quotes",
        parse,
        lambda: _parse(_HEAD + ',"x":"' + '\\"' * 500_000 + ":" * 20_000),
    )
    yield Bomb(
        "300,000 objects, and then no JSON",
        parse,
        lambda: _parse(_HEAD + ',"x":[' + '{"":0},' * 300_000 + "x"),
    )


def _message_bombs(size: int) -> Iterator[Bomb]:
    """Messages in which almost each byte pair is a message of its own."""
    shown = f"{size // MIB} MiB of"
    for name, path, make in (
        ("extra fields", "FormatCall", lambda: field(1, field(3, b"\x2a\x00" * (size // 2)))),
        ("calls of a Document", "FormatDocument", lambda: field(1, b"\x1a\x00" * (size // 2))),
        ("Conversions", "ConvertCalls", lambda: b"\x0a\x00" * (size // 2)),
        ("unknown fields", "FormatCall", lambda: field(1, b"\xa0\x38\x00" * (size // 3))),
    ):
        yield Bomb(f"{shown} empty {name}", _CONVERSION + path, make)
    for name, tag in (("tools", b"\x1a"), ("input images", b"\x22"), ("input items", b"\x32")):
        yield Bomb(
            f"{shown} empty {name}",
            _GENERATION + "StreamImage",
            lambda tag=tag: field(1, field(1, b"a fox") + (tag + b"\x00") * (size // 2)),  # type: ignore[misc]
        )


def _deep_bombs() -> Iterator[Bomb]:
    yield Bomb("20,000 levels of messages", _CONVERSION + "FormatCall", lambda: nested(1, 20_000))
    yield Bomb(
        "100,000 levels of groups", _CONVERSION + "FormatCall", lambda: field(1, b"\x0b" * 100_000)
    )
    yield Bomb(
        "20,000 levels in an unknown field",
        _CONVERSION + "FormatDocument",
        lambda: field(1, nested(900, 20_000)),
    )


async def run(short: bool, seed: int) -> list[Figure]:
    """Sends compressed, nested, long and numerous input, and checks health meanwhile."""
    packed = _zeros(1024 * MIB)
    bombs = [
        Bomb("1 GiB as gzip", _CONVERSION + "ParseCall", lambda: packed, compressed=True),
        Bomb("1 GiB as gzip, HTTP", "/v1/responses", lambda: packed, compressed=True),
        *_json_bombs(),
        *_large_bombs(2_000_000),
        *_deep_bombs(),
        *_message_bombs(4 * MIB),
    ]
    if not short:
        bombs += [*_large_bombs(20_000_000), *_message_bombs(64 * MIB)]
    thrower = _Thrower()
    while bombs:
        async with running() as server:
            await thrower.throw(bombs, server)
    return [
        *thrower.figures,
        at_most("the slowest refusal", max(thrower.seconds), _SECONDS, "s"),
        informs("the longest wait for health meanwhile", max(thrower.health_seconds), "s"),
    ]


class _Thrower:
    """Throws bombs, and notes what comes of it."""

    def __init__(self) -> None:
        self.figures: list[Figure] = []
        self.seconds: list[float] = []
        self.health_seconds: list[float] = []

    async def throw(self, bombs: list[Bomb], server: Server) -> None:
        """Throws the first of these, and takes them away, until the server keeps much memory."""
        base = 0
        async with channel_to(server.grpc) as channel:
            while bombs and (not base or server.rss_bytes() - base < _KEPT_MIB * MIB):
                body = bombs[0].body()
                health = asyncio.create_task(self._ask_health(server.grpc))
                await asyncio.sleep(0.2)
                base = base or server.rss_bytes()
                server.reset_peak()
                start, spent = time.monotonic(), server.cpu_seconds()
                outcome = await _outcome(bombs[0], body, server, channel)
                took, spent = time.monotonic() - start, server.cpu_seconds() - spent
                health.cancel()
                await asyncio.wait({health})
                growth = (server.peak_rss_bytes() - base) / MIB
                self._note(bombs.pop(0), outcome, (took, spent), growth, len(body) / MIB)

    def _note(
        self,
        bomb: Bomb,
        outcome: Outcome,
        took: tuple[float, float],
        growth: float,
        body_mib: float,
    ) -> None:
        """`took` is by the clock, which counts, and of a core."""
        limit = max(_BODY_MIB + _BEYOND_MIB, _COPIES * body_mib)
        value = f"{outcome} {took[0]:.2f} s ({took[1]:.2f} of a core), +{growth:.0f} MiB"
        refused = f"refused, {_SECONDS} s, +{limit:.0f} MiB"
        if bomb.passes and outcome.code == OK:
            self.figures.append(informs(bomb.name, value))
            return
        ok = outcome.code in _REFUSED and took[0] <= _SECONDS and growth <= limit
        self.figures.append(Figure(bomb.name, value, "", refused, ok))
        self.seconds.append(took[0])

    async def _ask_health(self, address: str) -> None:
        """Asks again and again, and notes how long each answer takes."""
        async with channel_to(address) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            while True:
                start = time.monotonic()
                try:
                    await health.Check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT)
                finally:
                    self.health_seconds.append(time.monotonic() - start)
                await asyncio.sleep(0.02)


async def _outcome(bomb: Bomb, body: bytes, server: Server, channel: grpc.aio.Channel) -> Outcome:
    if bomb.path.startswith("/v1/"):
        headers = {"content_encoding": "gzip"} if bomb.compressed else {}
        return await of_post(server.http, body, bomb.path, **headers)
    if bomb.compressed:
        return await of_compressed(server.grpc, bomb.path, body)
    call: Any = channel.unary_stream(bomb.path)
    return await of_stream(call(body, timeout=_TIMEOUT))
