"""Calls of every kind at once: `python -m tests.soak.mixed_load GRPC HTTP SEED`.

Each caller makes one call after the other, each of a random kind, and checks what it gets. At
first all callers make the same calls at once.
"""

import asyncio
import json
import random
import sys
from base64 import b64encode
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any, Final

import aiohttp
import grpc

from imagecall.allocator import keep_freed_memory
from imagecall.client import AsyncImageClient
from imagecall.errors import ImagecallError
from imagecall.v1 import conversion_service_pb2 as pb
from imagecall.v1.conversion_service_pb2_grpc import ConversionServiceStub
from imagecall.v1.extra_field_pb2 import ExtraField
from imagecall.v1.image_request_pb2 import ImageRequest
from imagecall.wire.chunks import split
from tests.soak.beside import ready, report, told_to_stop
from tests.streams import PNG

_MB: Final = 1_000_000
_CALLERS: Final = 4
_PAUSE_SECONDS: Final = 0.02
_BATCH: Final = 100
_LONG_SECONDS: Final = 30


def _item(size: int) -> bytes:
    image = b64encode(PNG + bytes(size)).decode()
    item = {"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": image}
    return json.dumps(item, separators=(",", ":")).encode()


class _Kinds:
    """The kinds of calls; each raises AssertionError for an answer that is not as it must be."""

    def __init__(self, address: str, http: str, channel: Any, session: Any) -> None:
        self._stub: Any = ConversionServiceStub(channel)
        self._images = AsyncImageClient(address)
        self._url = f"http://{http}"
        self._session: aiohttp.ClientSession = session
        self._small, self._large = _item(300).decode(), _item(2 * _MB).decode()

    async def close(self) -> None:
        await self._images.close()

    async def parse_and_format_small(self) -> None:
        await self._parse_and_format(self._small)

    async def parse_and_format_large(self) -> None:
        await self._parse_and_format(self._large)

    async def _parse_and_format(self, item: str) -> None:
        parsed = await self._stub.ParseCall(pb.ParseCallRequest(json=item))
        formatted = await self._stub.FormatCall(pb.FormatCallRequest(call=parsed.call))
        assert json.loads(formatted.json) == json.loads(item), "the item has changed"

    async def convert_many(self) -> None:
        request = pb.ConvertCallsRequest()
        for number in range(_BATCH):
            request.conversions.add().json = self._small if number else '{"type":5}'
        found = [
            result.WhichOneof("output")
            async for part in self._stub.ConvertCalls(iter([request] * 3))
            for result in part.results
        ]
        assert Counter(found) == {"error": 3, "call": 3 * _BATCH - 3}, "answers are missing"

    async def convert_in_chunks(self) -> None:
        sent = [
            pb.ConvertCallsRequest(conversions=[pb.Conversion(json_chunk=chunk)])
            for chunk in split(self._large.encode())
        ]
        found = [
            result.WhichOneof("output")
            async for part in self._stub.ConvertCalls(iter(sent))
            for result in part.results
        ]
        assert found, "the answer is missing"
        assert "error" not in found, "the item was refused"

    async def stream_2_mb(self) -> None:
        await self._stream(2 * _MB)

    async def stream_20_mb(self) -> None:
        await self._stream(20 * _MB)

    async def _stream(self, size: int) -> None:
        generation = await self._images.generate(_wanted(image_bytes=size))
        sizes = [len(image.data) for image in generation.images]
        assert sizes == [size], f"the sizes of the images are {sizes}"

    async def http_plain(self) -> None:
        await self._http(stream=False)

    async def http_stream(self) -> None:
        await self._http(stream=True)

    async def _http(self, stream: bool) -> None:
        body = _body(stream, image_bytes=2 * _MB)
        async with self._session.post(f"{self._url}/v1/responses", json=body) as answer:
            text = await answer.read()
        assert answer.status == 200, f"the status is {answer.status}"
        assert text.endswith(b"data: [DONE]\n\n" if stream else b"}"), "the answer has no end"
        assert len(text) > 2 * _MB * 4 / 3, "the image is missing"

    async def refused_by_grpc(self) -> None:
        try:
            await self._stub.ParseCall(pb.ParseCallRequest(json='{"type":'))
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error.code().name
        else:
            raise AssertionError("it was not refused")

    async def refused_by_http(self) -> None:
        async with self._session.post(f"{self._url}/v1/responses", json={"input": 5}) as answer:
            assert answer.status == 400, f"the status is {answer.status}"

    async def refused_by_the_backend(self) -> None:
        try:
            async for _ in self._images.stream_image(_wanted(http_status=429)):
                pass
        except ImagecallError as error:
            assert error.reason == "UPSTREAM_RATE_LIMITED", error.reason
        else:
            raise AssertionError("it was not refused")

    async def cancelled_at_grpc(self) -> None:
        request = _wanted(delay_seconds=_LONG_SECONDS)
        async with aclosing(self._images.stream_image(request)) as stream:
            await anext(stream)
            await asyncio.sleep(random.random() * 0.1)

    async def cancelled_at_http(self) -> None:
        body = _body(random.random() < 0.5, delay_seconds=_LONG_SECONDS)
        with suppress(TimeoutError):
            async with asyncio.timeout(0.02 + random.random() * 0.1):
                async with self._session.post(f"{self._url}/v1/responses", json=body) as answer:
                    await answer.read()
                raise AssertionError("it came too soon")


def _wanted(**embedded: float) -> ImageRequest:
    wanted = ImageRequest(prompt="a fox")
    wanted.tools.add().image_generation_tool.size = "64x64"
    wanted.extra_fields.append(ExtraField(name="embedded", json=json.dumps(embedded)))
    return wanted


def _body(stream: bool, **embedded: float) -> dict[str, Any]:
    tools = [{"type": "image_generation", "size": "64x64"}]
    return {"input": "a fox", "tools": tools, "stream": stream, "embedded": embedded}


async def _main(address: str, http: str, seed: str) -> None:
    random.seed(int(seed))
    keep_freed_memory()
    made: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    options = [("grpc.max_receive_message_length", -1)]
    async with (
        grpc.aio.insecure_channel(address, options) as channel,
        aiohttp.ClientSession(read_bufsize=2**20) as session,
    ):
        kinds = _Kinds(address, http, channel, session)
        frequencies: dict[Callable[[], Awaitable[None]], int] = {
            kinds.parse_and_format_small: 20,
            kinds.parse_and_format_large: 5,
            kinds.convert_many: 5,
            kinds.convert_in_chunks: 5,
            kinds.stream_2_mb: 5,
            kinds.stream_20_mb: 1,
            kinds.http_plain: 5,
            kinds.http_stream: 5,
            kinds.refused_by_grpc: 10,
            kinds.refused_by_http: 10,
            kinds.refused_by_the_backend: 5,
            kinds.cancelled_at_grpc: 5,
            kinds.cancelled_at_http: 5,
        }

        async def caller() -> None:
            while True:
                [kind] = random.choices([*frequencies], [*frequencies.values()])
                made[kind.__name__] += 1
                try:
                    await kind()
                except (
                    grpc.RpcError,
                    ImagecallError,
                    aiohttp.ClientError,
                    AssertionError,
                ) as error:
                    failed[f"{kind.__name__}: {type(error).__name__} {error}"[:300]] += 1
                await asyncio.sleep(_PAUSE_SECONDS)

        ready()
        calling = [asyncio.create_task(caller()) for _ in range(_CALLERS)]
        await told_to_stop()
        for task in calling:
            task.cancel()
        await asyncio.wait(calling)
        await kinds.close()
    for task in calling:
        if not task.cancelled():
            failed[f"the caller ended: {task.exception()!r}"[:300]] += 1
    report(made=made, failed=failed)


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:4]))
