"""Benchmark of ConvertCalls: many items of 88 B through the server, by items a message.

The peers: a bare grpcio server that repeats an answer it has ready; the same one, if it converts
each item with serialized_from_json before, and drops the result; and ParseCall of our server, one
item a call. All of them run on the cores of the client.

A ratio is our speed as a multiple of the peer's, item by item; quartiles are in brackets.
"""

import argparse
import asyncio
import base64
import os
import platform
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc
from rounds import measured_calls, print_row

import imagecall
from imagecall.conversion.batch import CallStream
from imagecall.json.text import MAX_BYTES
from imagecall.v1 import conversion_service_pb2 as pb
from imagecall.v1.conversion_service_pb2_grpc import ConversionServiceStub


def item() -> bytes:
    """Returns an item with an image of 66 bytes: 88 B of base64."""
    start = b'{"type":"image_generation_call","id":"ig_0df93c0bb83a72f20068c979","result":"'
    return start + base64.b64encode(os.urandom(66)) + b'","status":"completed"}'


async def measure_server(count: int) -> None:
    """Prints the items per second of ConvertCalls, and its ratios to ParseCall and to an echo."""
    program = str(Path(sys.executable).with_name("imagecall"))
    command = (program, "serve", "--grpc", "127.0.0.1:0", "--http", "off")
    lines = [item() for _ in range(count)]
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(stub_of(*command))
        echo, bare = [
            await stack.enter_async_context(stub_of(sys.executable, __file__, "--bare", kind))
            for kind in ("echo", "convert")
        ]
        for size in (1, 64, 256, 1024):
            few = lines if size > 1 else lines[: count // 10]
            rounds = await measured_calls(
                {
                    "ours": partial(convert_all, ours, few, size),
                    "echo": partial(convert_all, echo, few, size),
                    "bare": partial(convert_all, bare, few, size),
                    "ParseCall": partial(parse_all, ours, lines[: count // 10]),
                },
                0,
            )
            seconds, of_calls = rounds.seconds("ours"), rounds.ratio("ParseCall", "ours")
            figures = {
                "echo": rounds.ratio("echo", "ours"),
                "bare": rounds.ratio("bare", "ours"),
                "ParseCall": of_calls.per(count / 10 / len(few)),
            }
            rate = f"{len(few) / seconds:,.0f} items/s"
            print_row(f"ConvertCalls, {size} items a message", rate, figures)


@asynccontextmanager
async def stub_of(*command: str) -> AsyncIterator[Any]:
    """Runs a server process; yields a stub."""
    server = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert server.stdout
    address = (await server.stdout.readline()).decode().split()[-1]
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            yield ConversionServiceStub(channel)
    finally:
        server.terminate()
        await server.wait()


async def serve_bare(converts: bool) -> None:
    """Runs a bare server, which repeats its answer to the first message of each size.

    If it converts, it converts the items of each message before, and drops the results.
    """
    ready: dict[int, bytes] = {}

    async def convert(requests: Any, context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            if len(request) not in ready:
                items = pb.ConvertCallsRequest.FromString(request).conversions
                stream = CallStream(MAX_BYTES, sys.maxsize)
                assert not list(stream.answer(items))
                ready[len(request)] = stream.take()
            if converts:
                for conversion in pb.ConvertCallsRequest.FromString(request).conversions:
                    imagecall.serialized_from_json(conversion.json)
            yield ready[len(request)]

    server = grpc.aio.server()
    handler = grpc.stream_stream_rpc_method_handler(convert)
    name = pb.DESCRIPTOR.services_by_name["ConversionService"].full_name
    server.add_registered_method_handlers(name, {"ConvertCalls": handler})
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"listening grpc 127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


async def parse_all(stub: Any, texts: list[bytes]) -> None:
    """Converts items by ParseCall, with 32 calls in progress."""
    pending = iter(texts)

    async def work() -> None:
        for text in pending:
            await stub.ParseCall(pb.ParseCallRequest(json=text))

    await asyncio.gather(*(work() for _ in range(32)))


async def convert_all(stub: Any, texts: list[bytes], size: int) -> None:
    """Converts items by ConvertCalls, with `size` items a message."""

    async def requests() -> AsyncIterator[pb.ConvertCallsRequest]:
        for start in range(0, len(texts), size):
            batch = [pb.Conversion(json=text) for text in texts[start : start + size]]
            yield pb.ConvertCallsRequest(conversions=batch)

    count = 0
    async for answer in stub.ConvertCalls(requests()):
        count += sum(result.HasField("call") for result in answer.results)
    assert count == len(texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less time, less sure figures")
    parser.add_argument("--bare", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        return asyncio.run(serve_bare(options.bare == "convert"))
    count = 10_000 if options.quick else 100_000
    versions = ", ".join(f"{name} {version(name)}" for name in ("grpcio", "protobuf"))
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores; {versions}")
    print(f"{count:,} items of 88 B, one client: our speed as a multiple of the peer's")
    return asyncio.run(measure_server(count))


if __name__ == "__main__":
    main()
