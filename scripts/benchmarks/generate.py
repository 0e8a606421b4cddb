"""Benchmark of StreamImage against peers: throughput, latency, the hop to an API, and memory.

Each server runs in a process of its own: `imagecall serve`; a bare grpcio service that streams the
same bytes in the same chunks, or replays our messages, and reads no message; and an API that sends
a recorded stream (a partial image, the image, and the image again in the response at the end, as
OpenAI does). Client and servers share the machine's cores. A ratio of 2 means that the peer takes
twice as long.
"""

import argparse
import asyncio
import os
import platform
import statistics
import sys
import time
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc
from openai import AsyncOpenAI
from rounds import measured_calls, print_row, time_of

from imagecall.allocator import keep_freed_memory
from imagecall.backends.responses_api.backend import HttpBackend
from imagecall.generation.whole_image import WholeImage
from imagecall.sizes import CHUNK
from imagecall.v1.extra_field_pb2 import ExtraField
from imagecall.v1.image_generation_service_pb2 import StreamImageRequest
from imagecall.v1.image_generation_service_pb2_grpc import ImageGenerationServiceStub
from imagecall.v1.image_request_pb2 import ImageRequest
from imagecall.wire.chunks import RawChunk

SIZES = {"2 MB": 2_000_000, "64 MB": 64_000_000}
DRAWN_SIZES = {"100 KB": 100_000, "2 MB": 2_000_000, "32 MB": 32_000_000}
"""Sizes of pictures that the embedded backend draws, and caches, by its defaults."""
BARE_METHOD = "/bare.Service/Stream"
RECORD_METHOD = "/bare.Service/Record"
REPLAY_METHOD = "/bare.Service/Replay"
OUR_METHOD = "/imagecall.v1.ImageGenerationService/StreamImage"
STREAMS = 20


def request(image_bytes: int = 0) -> StreamImageRequest:
    """Returns a request; the embedded backend answers with a file of `image_bytes` bytes."""
    extra = []
    if image_bytes:
        extra = [ExtraField(name="embedded", json=f'{{"image_bytes":{image_bytes}}}')]
    return StreamImageRequest(request=ImageRequest(prompt="a fox", extra_fields=extra))


async def serve_bare() -> None:
    """Runs the bare service: Stream, whose request has the number of bytes to stream; Record, which
    keeps the messages of its stream; and Replay, which streams them."""
    image_of = cache(os.urandom)
    recorded: list[bytes] = []

    async def stream(size: bytes, context: Any) -> AsyncIterator[bytes]:
        image = memoryview(image_of(int(size)))
        for offset in range(0, len(image), CHUNK):
            yield bytes(image[offset : offset + CHUNK])

    async def record(messages: AsyncIterator[bytes], context: Any) -> bytes:
        recorded[:] = [message async for message in messages]
        return b""

    async def replay(request: bytes, context: Any) -> AsyncIterator[bytes]:
        for message in recorded:
            yield message

    keep_freed_memory()
    server = grpc.aio.server()
    handlers = {
        "Stream": grpc.unary_stream_rpc_method_handler(stream),
        "Record": grpc.stream_unary_rpc_method_handler(record),
        "Replay": grpc.unary_stream_rpc_method_handler(replay),
    }
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("bare.Service", handlers),)
    )
    print(f"listening bare 127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}", flush=True)
    await server.start()
    await server.wait_for_termination()


@cache
def recorded(image_bytes: int) -> bytes:
    """Returns the recorded stream of the API."""
    result = b64encode(os.urandom(image_bytes // 3 * 3)).decode()
    partial = b64encode(os.urandom(image_bytes // 30 * 3)).decode()
    call = '"output_index":0,"item_id":"ig_1"'
    done = (
        f'{{"id":"ig_1","type":"image_generation_call","status":"completed","result":"{result}"}}'
    )
    added = '{"id":"ig_1","type":"image_generation_call","status":"in_progress"}'
    response = (
        '{"id":"resp_1","object":"response","created_at":1,"model":"m","status":"%s","output":[%s]}'
    )
    events = {
        "response.created": f'"response":{response % ("in_progress", "")}',
        "response.output_item.added": f'"output_index":0,"item":{added}',
        "response.image_generation_call.partial_image": f"{call},"
        f'"partial_image_index":0,"partial_image_b64":"{partial}"',
        "response.output_item.done": f'"output_index":0,"item":{done}',
        "response.completed": f'"response":{response % ("completed", done)}',
    }
    lines = [
        f'event: {tag}\ndata: {{"type":"{tag}","sequence_number":{number},{rest}}}\n\n'
        for number, (tag, rest) in enumerate(events.items())
    ]
    return "".join(lines).encode()


async def serve_api() -> None:
    """Runs the API: the path has the image's size, and "slow" for events one by one."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = next(line for line in head.split("\r\n") if line.startswith("content-length"))
        await reader.readexactly(int(length.partition(":")[2]))
        _, kind, size, *_ = head.split()[1].split("/")
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
        )
        if kind == "slow":
            await _slowly(writer)
        else:
            stream = recorded(int(size))
            for offset in range(0, len(stream), 65536):
                writer.write(memoryview(stream)[offset : offset + 65536])
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(f"listening api 127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


async def _slowly(writer: asyncio.StreamWriter) -> None:
    """Sends events, each with its time of sending in its item_id."""
    for _ in range(100):
        await asyncio.sleep(0.01)
        tag = "response.image_generation_call.generating"
        at = time.monotonic_ns()
        writer.write(f'data: {{"type":"{tag}","item_id":"{at}","output_index":0}}\n\n'.encode())
        await writer.drain()
    writer.write(b"data: [DONE]\n\n")
    await writer.drain()


@asynccontextmanager
async def process(*command: str) -> AsyncIterator[tuple[str, int]]:
    """Runs a server process; yields its address and its process id."""
    running = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert running.stdout is not None
    try:
        line = (await running.stdout.readline()).decode()
        yield line.split()[-1], running.pid
    finally:
        running.terminate()
        await running.wait()


def imagecall_serve(*options: str) -> tuple[str, ...]:
    program = str(Path(sys.executable).parent / "imagecall")
    return (program, "serve", "--grpc", "127.0.0.1:0", "--http", "off", *options)


async def read_ours(stub: Any, wanted: StreamImageRequest) -> int:
    """Reads an answer; returns the number of bytes in chunks."""
    size = 0
    async for part in stub.StreamImage(wanted):
        size += len(part.chunk.data)
    return size


async def read_raw(call: Any, wanted: bytes) -> int:
    """Reads an answer without parsing its messages; returns their number of bytes."""
    received = 0
    async for message in call(wanted):
        received += len(message)
    return received


async def throughput(seconds: float) -> None:
    print("\nStreamImage of the embedded backend, the picture drawn before, read by a client that")
    print(
        "parses no message, and by one that takes the bytes out; throughput as a part of bare, and"
    )
    print("of a bare service that replays our messages:")
    async with AsyncExitStack() as stack:
        ours, _ = await stack.enter_async_context(process(*imagecall_serve()))
        bare, _ = await stack.enter_async_context(process(sys.executable, __file__, "--bare"))
        raw = await stack.enter_async_context(grpc.aio.insecure_channel(ours))
        stub = ImageGenerationServiceStub(raw)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(bare))
        bare_call, replay = (channel.unary_stream(name) for name in (BARE_METHOD, REPLAY_METHOD))
        raw_call = raw.unary_stream(OUR_METHOD)
        for name, size in DRAWN_SIZES.items():
            wanted, bare_wanted = request(size), str(size).encode()
            assert await read_ours(stub, wanted) == await read_raw(bare_call, bare_wanted) == size
            ours_wanted = wanted.SerializeToString()
            messages = [message async for message in raw_call(ours_wanted)]
            await channel.stream_unary(RECORD_METHOD)(iter(messages))
            rounds = await measured_calls(
                {
                    "ours": partial(read_raw, raw_call, ours_wanted),
                    "parsed": partial(read_ours, stub, wanted),
                    "bare": partial(read_raw, bare_call, bare_wanted),
                    "replay": partial(read_raw, replay, b""),
                },
                seconds,
            )
            figures = {
                "of bare": rounds.ratio("bare", "ours"),
                "of bare, bytes taken out": rounds.ratio("bare", "parsed"),
                "of our messages replayed": rounds.ratio("replay", "ours"),
            }
            print_row(f"StreamImage {name}", time_of(rounds.seconds("ours")), figures)


async def latency() -> None:
    async with AsyncExitStack() as stack:
        api, _ = await stack.enter_async_context(process(sys.executable, __file__, "--api"))
        command = imagecall_serve("--backend", f"http://{api}/slow/0")
        ours, _ = await stack.enter_async_context(process(*command))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(ours))
        stub: Any = ImageGenerationServiceStub(channel)
        times = []
        async for part in stub.StreamImage(request()):
            event = part.event.image_gen_call_generating_event
            if event.item_id:
                times.append((time.monotonic_ns() - int(event.item_id)) / 1e6)
    middle, worst = statistics.median(times), sorted(times)[int(len(times) * 0.99) - 1]
    print(f"\nFrom the API's event to the client's, {len(times)} events on loopback")
    figures = {"ms at p99": worst, "the first": times[0]}
    print_row("latency of an event", time_of(middle / 1e3), figures)


async def read_backend(backend: HttpBackend) -> int:
    size = 0
    async for part in backend.stream_image(request()):
        if isinstance(part, RawChunk | WholeImage):
            size += len(part.data)
    return size


async def read_openai(client: AsyncOpenAI) -> int:
    """Reads the API's stream with openai-python; returns the number of image bytes."""
    size = 0
    stream: Any = await client.responses.create(model="m", input="a fox", stream=True)
    async for event in stream:
        if event.type == "response.image_generation_call.partial_image":
            size += len(b64decode(event.partial_image_b64))
        elif event.type == "response.output_item.done":
            size += len(b64decode(event.item.result))
    return size


async def hop(seconds: float) -> None:
    print("\nThe hop to the API, its stream to bytes, in this process; a ratio of 2 means that the")
    print(f"peer takes twice as long; openai is openai-python {version('openai')}")
    async with process(sys.executable, __file__, "--api") as (api, _):
        for name, size in SIZES.items():
            url = f"http://{api}/fast/{size}"
            backend = HttpBackend(url)
            async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
                assert await read_backend(backend) == await read_openai(client)
                rounds = await measured_calls(
                    {
                        "ours": partial(read_backend, backend),
                        "openai": partial(read_openai, client),
                    },
                    seconds,
                )
            await backend.close()
            figures = {"openai": rounds.ratio("openai", "ours")}
            print_row(f"hop to the API, {name}", time_of(rounds.seconds("ours")), figures)


def memory_kib(pid: int, key: str) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(key))


async def memory() -> None:
    if platform.system() != "Linux":
        print("\nMemory is measured on Linux only.")
        return
    size = SIZES["64 MB"]
    async with AsyncExitStack() as stack:
        api, _ = await stack.enter_async_context(process(sys.executable, __file__, "--api"))
        command = imagecall_serve("--backend", f"http://{api}/fast/{size}")
        ours, pid = await stack.enter_async_context(process(*command))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(ours))
        stub = ImageGenerationServiceStub(channel)
        before = memory_kib(pid, "VmRSS")
        sizes = await asyncio.gather(*(read_ours(stub, request()) for _ in range(STREAMS)))
        peak = memory_kib(pid, "VmHWM") - before
    text = STREAMS * len(recorded(size)) / 2**20
    print(f"\n{STREAMS} streams of a 64 MB image of an API at once, {sum(sizes) / 2**20:,.0f} MiB")
    figures = {
        "MiB a stream": peak / 1024 / STREAMS,
        "MiB of the responses as text": f"{text:,.0f}",
    }
    print_row("peak memory of streams", f"{peak / 1024:,.0f} MiB", figures)


async def measure(seconds: float) -> None:
    keep_freed_memory()
    print(
        f"Python {platform.python_version()}, grpcio {version('grpcio')}, protobuf "
        f"{version('protobuf')}, {os.cpu_count()} cores; load {os.getloadavg()[0]:.1f}"
    )
    await throughput(seconds)
    await latency()
    await hop(seconds)
    await memory()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a short run, with noisier figures")
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--api", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        asyncio.run(serve_bare())
    elif options.api:
        asyncio.run(serve_api())
    else:
        asyncio.run(measure(1.0 if options.quick else 8.0))


if __name__ == "__main__":
    main()
