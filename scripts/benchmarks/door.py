"""Benchmark of the HTTP door against peers: requests per second, and added latency.

Each server runs in a process of its own: `imagecall serve` with the embedded backend; `imagecall
serve` whose gRPC backend is the first server; and plain ASGI endpoints, on the same HTTP server.
One returns the same answer ready-made, in one piece; one sends the events of a stream, ready-made,
one by one; the third makes the same call over gRPC, and returns what comes as base64, without
reading or checking it. Client and servers share the machine's cores.
"""

import argparse
import asyncio
import json
import os
import platform
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import uvicorn
from pybase64 import b64encode
from rounds import Rounds, measured_calls, print_row, time_of

from imagecall.allocator import keep_freed_memory
from imagecall.v1.extra_field_pb2 import ExtraField
from imagecall.v1.image_generation_service_pb2 import GenerateImageRequest
from imagecall.v1.image_generation_service_pb2_grpc import ImageGenerationServiceStub
from imagecall.v1.image_request_pb2 import ImageRequest

SIZES = {"100 KB": 100_000, "2 MB": 2_000_000, "8 MB": 8_000_000}
EVENTS = "/events"
PROGRAM = str(Path(sys.executable).parent / "imagecall")


def asked(size: int, **keys: object) -> bytes:
    """Returns the body of a request for a small picture in a file of `size` bytes."""
    tool = {"type": "image_generation", "size": "64x64"}
    body = {"model": "m", "input": "a fox", "tools": [tool], "embedded": {"image_bytes": size}}
    return json.dumps(body | keys).encode()


def asked_of_images(size: int) -> bytes:
    """Returns the body of a request of the Images API for the same picture."""
    body = {"prompt": "a fox", "size": "64x64", "embedded": {"image_bytes": size}}
    return json.dumps(body).encode()


def request(size: int) -> GenerateImageRequest:
    """Returns the gRPC request for that picture."""
    wanted = ImageRequest(
        prompt="a fox",
        model="m",
        extra_fields=[ExtraField(name="embedded", json=f'{{"image_bytes":{size}}}')],
    )
    wanted.tools.add().image_generation_tool.size = "64x64"
    return GenerateImageRequest(request=wanted)


def serve_plain(address: str) -> None:
    """Runs the plain endpoints, of which /hop calls the gRPC server at an address.

    The others repeat the body of the first request to their path; paths of EVENTS send each event
    by itself.
    """
    bodies: dict[str, list[bytes]] = {}

    @cache
    def generate() -> Any:
        channel = grpc.aio.insecure_channel(address, [("grpc.max_receive_message_length", -1)])
        return channel.unary_unary("/imagecall.v1.ImageGenerationService/GenerateImage")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        if scope["path"] == "/hop":
            parts = [b64encode(await generate()(body))]
        else:
            if scope["path"] not in bodies:
                events = scope["path"].startswith(EVENTS)
                bodies[scope["path"]] = body.split(b"\n\n") if events else [body]
            parts = bodies[scope["path"]]
        headers = [(b"content-type", b"application/json")]
        if len(parts) == 1:
            headers.append((b"content-length", str(len(parts[0])).encode()))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            port = self.servers[0].sockets[0].getsockname()[1]
            print(f"listening plain 127.0.0.1:{port}", flush=True)

    keep_freed_memory()
    Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off")).run()


@asynccontextmanager
async def process(*command: str, doors: int = 1) -> AsyncIterator[dict[str, str]]:
    """Runs a server process; yields the addresses of its doors by kind."""
    running = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert running.stdout is not None
    addresses: dict[str, str] = {}
    try:
        while len(addresses) < doors:
            words = (await running.stdout.readline()).decode().split()
            if words[0] == "listening":
                addresses[words[1]] = words[2]
        yield addresses
    finally:
        running.terminate()
        await running.wait()


async def measure(seconds: float) -> None:
    keep_freed_memory()
    print(
        f"Python {platform.python_version()}, grpcio {version('grpcio')}, uvicorn "
        f"{version('uvicorn')}, {os.cpu_count()} cores; load {os.getloadavg()[0]:.1f}"
    )
    print("One request after the other, the picture drawn before: speed as a part of a plain ASGI")
    print("endpoint's with the same answer ready. Embedded backend, whole and streamed (also as a")
    print(
        "part of an endpoint that sends the ready events one by one); HTTP door -> gRPC backend ->"
    )
    print(
        "embedded, also as a part of a plain endpoint that makes the same call over gRPC and checks"
    )
    print(
        "nothing, and of that call alone; and the same picture by the Images API, as a part of that"
    )
    print("by the Responses API")
    async with servers() as called:
        for name, size in SIZES.items():
            print_rows(name, await measured_calls(await called.calls(size), seconds))


@dataclass(frozen=True)
class Called:
    """Servers that are called. The addresses of HTTP are URLs."""

    session: aiohttp.ClientSession
    embedded: str
    over_grpc: str
    plain: str
    grpc: Any

    async def post(self, url: str, body: bytes) -> bytes:
        headers = {"content-type": "application/json"}
        async with self.session.post(url, data=body, headers=headers) as answer:
            assert answer.status == 200
            return await answer.read()

    async def calls(self, size: int) -> dict[str, Callable[[], Awaitable[object]]]:
        """Returns the calls for a picture of this size by name; the plain endpoint is ready."""
        embedded, over_grpc = f"{self.embedded}/v1/responses", f"{self.over_grpc}/v1/responses"
        images, ready = f"{self.over_grpc}/v1/images/generations", f"{self.plain}/{size}"
        stream, events = f"{self.plain}/stream{size}", f"{self.plain}{EVENTS}{size}"
        body, streamed = asked(size), asked(size, stream=True)
        await self.post(ready, await self.post(over_grpc, body))
        answer = await self.post(embedded, streamed)
        await self.post(stream, answer)
        await self.post(events, answer)
        return {
            "embedded": partial(self.post, embedded, body),
            "plain": partial(self.post, ready, body),
            "streamed": partial(self.post, embedded, streamed),
            "plain stream": partial(self.post, stream, streamed),
            "plain events": partial(self.post, events, streamed),
            "over gRPC": partial(self.post, over_grpc, body),
            "hop": partial(self.post, f"{self.plain}/hop", request(size).SerializeToString()),
            "images": partial(self.post, images, asked_of_images(size)),
            "grpc": partial(self.grpc.GenerateImage, request(size)),
        }


@asynccontextmanager
async def servers() -> AsyncIterator[Called]:
    serve = (PROGRAM, "serve", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0")
    unlimited = [("grpc.max_receive_message_length", -1)]
    async with (
        process(*serve, doors=2) as inner,
        process(*serve, "--backend", f"grpc://{inner['grpc']}", doors=2) as outer,
        process(sys.executable, __file__, "--plain", inner["grpc"]) as plain,
        grpc.aio.insecure_channel(inner["grpc"], unlimited) as channel,
        aiohttp.ClientSession(read_bufsize=2**20) as session,
    ):
        urls = (f"http://{at}" for at in (inner["http"], outer["http"], plain["plain"]))
        yield Called(session, *urls, ImageGenerationServiceStub(channel))


def print_rows(name: str, rounds: Rounds) -> None:
    streams = {"plain": "plain stream", "by event": "plain events"}
    for row, ours, peers in (
        ("HTTP door, embedded", "embedded", {"plain": "plain"}),
        ("HTTP door, embedded, streamed", "streamed", streams),
        ("HTTP door, over gRPC", "over gRPC", {"plain": "plain", "hop": "hop", "grpc": "grpc"}),
        ("Images API, over gRPC", "images", {"Responses": "over gRPC"}),
    ):
        figures = {peer: rounds.ratio(peer_name, ours) for peer, peer_name in peers.items()}
        print_row(f"{row}, {name}", time_of(rounds.seconds(ours)), figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a short run, with noisier figures")
    parser.add_argument("--plain", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plain:
        serve_plain(options.plain)
    else:
        asyncio.run(measure(1.0 if options.quick else 8.0))


if __name__ == "__main__":
    main()
