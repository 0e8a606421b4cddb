"""Services in Python, each written as a user writes one, and the plain servers before them."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import grpc

from imagecall.generation.backend import Backend
from imagecall.service import (
    SERVER_OPTIONS,
    Event,
    FinalImage,
    GenerationError,
    ImageRequest,
    ImageService,
    Message,
    PartialImage,
    Usage,
    add_to_server,
)
from tests.doors.test_generation import serving
from tests.streams import PNG

FIRST, SECOND, DRAFT = PNG + b"first", PNG + b"second" * 500_000, PNG + b"draft"


class TwoImages(ImageService):
    """Draws two images, of which the second has 3 MB, then a message."""

    async def generate(self, request: ImageRequest) -> AsyncIterator[Event]:
        yield PartialImage(DRAFT)
        yield PartialImage(DRAFT)
        yield FinalImage(FIRST, revised_prompt="a red fox", size="2x2", quality="high")
        yield PartialImage(DRAFT)
        yield FinalImage(SECOND)
        yield Usage(input_tokens=3, output_tokens=5, total_tokens=8, cost=0.25)
        yield Message("Two foxes.")


class PlainTwoImages(ImageService):
    """Does the same in a plain generator."""

    def generate(self, request: ImageRequest) -> Iterator[Event]:
        yield PartialImage(DRAFT)
        time.sleep(0.01)
        yield PartialImage(DRAFT)
        yield FinalImage(FIRST, revised_prompt="a red fox", size="2x2", quality="high")
        yield PartialImage(DRAFT)
        yield FinalImage(SECOND)
        yield Usage(input_tokens=3, output_tokens=5, total_tokens=8, cost=0.25)
        yield Message("Two foxes.")


class Failing(ImageService):
    """Fails as the prompt says."""

    async def generate(self, request: ImageRequest) -> AsyncIterator[Event]:
        match request.prompt:
            case "unsupported":
                raise GenerationError("UNSUPPORTED", "only foxes", pointer="/input")
            case "busy":
                raise GenerationError("TOO_MANY_CALLS", "all brushes are in use", retry_seconds=2)
            case "own code":
                raise GenerationError("NO_SUCH_ANIMAL", "no such animal", code="NOT_FOUND")
            case "a fault":
                raise RuntimeError("a secret")
            case "no event":
                return
            case "no final image":
                yield PartialImage(DRAFT)
                return
            case "a wrong event":
                yield b"a secret"  # type: ignore[misc]  # That is what the test is about.
            case "empty data":
                yield FinalImage(b"")
            case "midway":
                yield PartialImage(DRAFT)
                raise GenerationError("UPSTREAM_UNAVAILABLE", "the paint is gone")
        yield FinalImage(FIRST)


class PlainFailing(ImageService):
    """Fails in a plain generator."""

    def generate(self, request: ImageRequest) -> Iterator[Event]:
        if request.prompt == "a fault":
            raise RuntimeError("a secret")
        raise GenerationError("UNSUPPORTED", "only foxes", pointer="/input")
        yield FinalImage(FIRST)


class Refusing(ImageService):
    """Writes a message in place of an image."""

    async def generate(self, request: ImageRequest) -> AsyncIterator[Event]:
        if request.prompt == "after a draft":
            yield PartialImage(DRAFT)
        yield Message("I draw no cats.")


class Saying(ImageService):
    """Draws an image, and sends the prompt as its message."""

    async def generate(self, request: ImageRequest) -> AsyncIterator[Event]:
        yield FinalImage(FIRST)
        yield Message(request.prompt)


class Waiting(ImageService):
    """Waits for ever; notes that it has begun, and how it ended."""

    def __init__(self) -> None:
        self.begun = False
        self.ended: list[str] = []

    async def generate(self, request: ImageRequest) -> AsyncIterator[Event]:
        yield PartialImage(DRAFT)
        self.begun = True
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise
        finally:
            self.ended.append("finally")


class PlainWaiting(ImageService):
    """Yields for ever in a plain generator; notes that it has begun, and its end."""

    def __init__(self) -> None:
        self.begun = False
        self.ended: list[str] = []

    def generate(self, request: ImageRequest) -> Iterator[Event]:
        try:
            while True:
                self.begun = True
                time.sleep(0.01)
                yield PartialImage(DRAFT)
        finally:
            self.ended.append("finally")


class Silent(ImageService):
    """Yields nothing until it may."""

    def __init__(self) -> None:
        self.may_yield = False

    async def generate(self, request: ImageRequest) -> AsyncIterator[Event]:
        while not self.may_yield:  # noqa: ASYNC110  # The test may run on another loop.
            await asyncio.sleep(0.01)
        yield FinalImage(FIRST)


@asynccontextmanager
async def aio_server(backend: Backend) -> AsyncIterator[str]:
    """The address of a plain server of grpc.aio."""
    server = grpc.aio.server(options=SERVER_OPTIONS)
    add_to_server(backend, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


@asynccontextmanager
async def threaded_server(backend: Backend) -> AsyncIterator[str]:
    """The address of a plain server with threads."""
    server = grpc.server(ThreadPoolExecutor(32), options=SERVER_OPTIONS)
    add_to_server(backend, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await asyncio.to_thread(server.stop(0).wait)


SERVERS: dict[str, Any] = {"door": serving, "aio": aio_server, "threads": threaded_server}
"""Servers before a backend: our gRPC door, and the plain ones."""
