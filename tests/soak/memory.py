"""Strangers who fill the memory of the server at its defaults, each in a way of their own.

Of each: the peak while they come, how much remains ten seconds after they left, and the outcome of
a small call and of health meanwhile.
"""

import asyncio
import json
from base64 import b64encode
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from imagecall.v1 import conversion_service_pb2 as pb
from imagecall.v1.chunk_pb2 import Chunk
from imagecall.v1.conversion_service_pb2_grpc import ConversionServiceStub
from imagecall.v1.extra_field_pb2 import ExtraField
from imagecall.v1.image_generation_service_pb2 import GenerateImageRequest, StreamImageRequest
from imagecall.v1.image_request_pb2 import ImageRequest
from tests.soak.figure import Figure, at_most, exactly
from tests.soak.server import Server, running
from tests.soak.unread import unread_calls

_MIB: Final = 1024 * 1024
_PEAK_MIB: Final = 1024
_LEFT_MIB: Final = 150
_LEFT_SECONDS: Final = 10
_HELD_SECONDS: Final = 4

_LARGE: Final = 31 * _MIB
_CONVERSION: Final = "/imagecall.v1.ConversionService/"
_IMAGES: Final = "/imagecall.v1.ImageGenerationService/"

Attack = Callable[[Server, int], Awaitable[list[asyncio.StreamWriter]]]
"""Sends so many requests; returns the connections, which stay open."""


async def run(short: bool, seed: int) -> list[Figure]:
    """Runs each attack against a server of its own, in short with a quarter of the requests."""
    figures: list[Figure] = []
    for name, (attack, count) in _attacks().items():
        async with running() as server:
            figures += await _attacked(server, name, attack, count // 4 if short else count)
    return figures


def _attacks() -> dict[str, tuple[Attack, int]]:
    drawn = ImageRequest(
        prompt="a fox",
        extra_fields=[ExtraField(name="embedded", json=f'{{"image_bytes":{32 * _MIB}}}')],
    )
    image = GenerateImageRequest(request=drawn).SerializeToString()
    stream = StreamImageRequest(request=drawn).SerializeToString()
    prompt = GenerateImageRequest(request=ImageRequest(prompt="a fox " * (_LARGE // 6)))
    item = b'{"type":"image_generation_call","result":"%b"}' % b64encode(bytes(12 * _MIB))
    text = '{"type":"image_generation_call","revised_prompt":"%s"}' % ("x" * 60_000)
    large = pb.ParseCallRequest(json=item.decode()).SerializeToString()
    small = pb.ParseCallRequest(json=text).SerializeToString()
    name = health_pb2.HealthCheckRequest(service="x" * _LARGE).SerializeToString()
    body = {"input": "a fox", "embedded": {"image_bytes": 32 * _MIB}}
    return {
        "images that nobody reads": (_calls(_IMAGES + "GenerateImage", [image]), 80),
        "streams that nobody reads": (_calls(_IMAGES + "StreamImage", [stream]), 400),
        "large items that nobody reads": (_calls(_CONVERSION + "ParseCall", [large]), 80),
        "small items that nobody reads": (_calls(_CONVERSION + "ParseCall", [small]), 6000),
        "long prompts": (_calls(_IMAGES + "GenerateImage", [prompt.SerializeToString()]), 40),
        "requests without their last byte": (
            _calls(_CONVERSION + "ParseCall", [bytes(_LARGE)], whole=False),
            80,
        ),
        "items without their last chunk": (_calls(_CONVERSION + "ConvertCalls", _chunks()), 80),
        "streams without a request": (_calls(_CONVERSION + "ConvertCalls", []), 4000),
        "names of services of 31 MiB": (_calls("/grpc.health.v1.Health/Check", [name]), 40),
        "watches of the health": (_calls("/grpc.health.v1.Health/Watch", [b""]), 8000),
        "HTTP answers that nobody reads": (_posts("/v1/responses", json.dumps(body).encode()), 80),
        "HTTP streams that nobody reads": (
            _posts("/v1/responses", json.dumps(body | {"stream": True}).encode()),
            400,
        ),
        "HTTP bodies without their last byte": (_posts("/convert", item, whole=False), 80),
    }


def _chunks() -> list[bytes]:
    """Requests with all chunks of a large item but the last one."""
    chunks = (Chunk(offset=at, data=bytes(_MIB)) for at in range(0, _LARGE, _MIB))
    return [
        pb.ConvertCallsRequest(conversions=[pb.Conversion(json_chunk=chunk)]).SerializeToString()
        for chunk in chunks
    ]


async def _attacked(server: Server, name: str, attack: Attack, count: int) -> list[Figure]:
    before = server.rss_bytes()
    writers = await attack(server, count)
    await asyncio.sleep(_HELD_SECONDS)
    served = await outcome_of_small_call(server.grpc)
    for writer in writers:
        writer.transport.abort()
    peak = server.peak_rss_bytes() / _MIB
    await asyncio.sleep(_LEFT_SECONDS)
    left = (server.rss_bytes() - before) / _MIB
    return [
        at_most(f"{count:,} {name}: peak", peak, _PEAK_MIB, "MiB"),
        at_most(f"{name}: more than before, 10 s after", left, _LEFT_MIB, "MiB"),
        exactly(f"{name}: a small call, and health", served, "OK SERVING"),
    ]


async def outcome_of_small_call(address: str, replica: str = "") -> str:
    """Returns the outcome of a small call and of health, of a replica if a proxy has none."""
    request = pb.ParseCallRequest(json='{"type":"image_generation_call"}')
    async with (
        grpc.aio.insecure_channel(address) as channel,
        grpc.aio.insecure_channel(replica or address) as health_channel,
    ):
        stub: Any = ConversionServiceStub(channel)
        health: Any = health_pb2_grpc.HealthStub(health_channel)
        try:
            await stub.ParseCall(request, timeout=5)
            status = (await health.Check(health_pb2.HealthCheckRequest(), timeout=5)).status
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name} {error.details()}"
    return f"OK {health_pb2.HealthCheckResponse.ServingStatus.Name(status)}"


def _calls(path: str, messages: list[bytes], whole: bool = True) -> Attack:
    """Makes calls at the gRPC door that nobody reads. Not whole: a message lacks its last byte."""

    async def attack(server: Server, count: int) -> list[asyncio.StreamWriter]:
        return await unread_calls(server.grpc, path, messages, count, whole=whole)

    return attack


def _posts(path: str, body: bytes, whole: bool = True) -> Attack:
    """Sends requests to the HTTP door, whose answers are not read."""
    length = len(body) + (not whole)
    head = f"POST {path} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
    request = f"{head}content-length: {length}\r\n\r\n".encode() + body

    async def attack(server: Server, count: int) -> list[asyncio.StreamWriter]:
        writers: list[asyncio.StreamWriter] = []
        host, _, port = server.http.rpartition(":")
        for _ in range(count):
            _, writer = await asyncio.open_connection(host, int(port), limit=1024)
            writers.append(writer)
            writer.write(request)
            with suppress(TimeoutError, ConnectionError):
                await asyncio.wait_for(writer.drain(), 1)
        return writers

    return attack
