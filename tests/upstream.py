"""A Responses API on a real port that says exactly what a test wants, byte for byte."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

HANG: Final = -1.0
"""A step: nothing more, until the client goes."""

RESET: Final = -2.0
"""A step: the connection is reset."""

Step = bytes | float
"""Bytes to send, or seconds of silence."""

SSE: Final = "text/event-stream"
JSON: Final = "application/json"


@dataclass
class Request:
    """A request that came."""

    path: str
    headers: dict[str, str]
    body: Any
    method: str = "POST"


@dataclass
class Answer:
    """Answer of the server: a head unless status is None, then the steps.

    The body is chunked, or ends with the connection if `chunked` is False.
    """

    steps: Iterable[Step] = ()
    status: int | None = 200
    content_type: str = SSE
    headers: dict[str, str] = field(default_factory=dict)
    chunked: bool = True
    whole: bool = True
    """True for a body with its end; False for one that is cut off."""

    def head(self) -> bytes:
        headers = {"content-type": self.content_type} if self.content_type else {}
        headers |= {"transfer-encoding": "chunked"} if self.chunked else {"connection": "close"}
        lines = [f"{name}: {value}" for name, value in (headers | self.headers).items()]
        return "\r\n".join([f"HTTP/1.1 {self.status} X", *lines, "", ""]).encode()


class Upstream:
    """The server: set `answers`, of which the last repeats; see what came in `requests`."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.requests: list[Request] = []
        self.sent_at: list[float] = []
        self.arrived = asyncio.Event()
        self.left = asyncio.Event()
        self._serving: dict[asyncio.Task[None] | None, asyncio.StreamWriter] = {}
        self.url = ""

    def say(self, *steps: Step, **options: Any) -> None:
        """Answers every request so."""
        self.answers = [Answer(steps, **options)]

    def forget(self) -> None:
        """Forgets what came, for the next test that shares the server."""
        self.requests.clear()
        self.sent_at.clear()
        self.arrived.clear()
        self.left.clear()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._serving[task] = writer
        try:
            await self._serve(reader, writer)
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
            del self._serving[task]

    async def close(self) -> None:
        """Ends the connections that are left."""
        for writer in self._serving.values():
            writer.transport.abort()
        await asyncio.gather(*(task for task in self._serving if task))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                await self._read(head.decode(), reader)
                answer = self.answers[min(len(self.requests), len(self.answers)) - 1]
                if not await self._answer(answer, reader, writer):
                    break

    async def _read(self, head: str, reader: asyncio.StreamReader) -> None:
        first, *lines = head.strip().split("\r\n")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        method, path, _ = first.split()
        self.requests.append(Request(path, headers, json.loads(body or b"null"), method))
        self.arrived.set()

    async def _answer(
        self, answer: Answer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Sends an answer; returns True if the connection can be reused."""
        if answer.status is not None:
            writer.write(answer.head())
        for step in answer.steps:
            if isinstance(step, bytes):
                writer.write(b"%x\r\n%b\r\n" % (len(step), step) if answer.chunked else step)
                await writer.drain()
                self.sent_at.append(time.monotonic())
            elif step == RESET:
                writer.transport.abort()
                return False
            else:
                await self._wait(step, reader)
        if answer.chunked and answer.whole and answer.status is not None:
            writer.write(b"0\r\n\r\n")
            await writer.drain()
            return True
        return False

    async def _wait(self, seconds: float, reader: asyncio.StreamReader) -> None:
        try:
            await asyncio.wait_for(reader.read(1), None if seconds == HANG else seconds)
        except TimeoutError:
            return
        except ConnectionError:
            pass
        self.left.set()
        raise ConnectionError


@asynccontextmanager
async def upstream() -> AsyncIterator[Upstream]:
    """A server that runs."""
    server = Upstream()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, limit=2**30)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
    try:
        yield server
    finally:
        listening.close()
        await server.close()
