"""Clients that mean ill: `python -m tests.soak.attackers KIND ADDRESS COUNT`.

HTTP/2 is written byte by byte here, as no library would let us do this.
"""

import asyncio
import json
import math
import socket
import struct
import sys
import time
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

from imagecall.v1.conversion_service_pb2 import ParseCallRequest
from imagecall.v1.extra_field_pb2 import ExtraField
from imagecall.v1.image_generation_service_pb2 import StreamImageRequest
from imagecall.v1.image_request_pb2 import ImageRequest
from tests.soak.beside import ready, report, told_to_go, told_to_stop
from tests.soak.bystander import ITEM

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 8
_ACK: Final = 1
_END_STREAM: Final = 1
_END_HEADERS: Final = 4
_INITIAL_WINDOW_SIZE: Final = 4
_CANCEL: Final = 8
_LARGEST_WINDOW: Final = 2**31 - 1
_STREAMS_OF_A_CONNECTION: Final = 1000
_CONNECTIONS: Final = 4
_RESETS_A_SECOND: Final = 5000
_SLOW_IMAGE_BYTES: Final = 20_000_000
_SLOW_BYTES: Final = 10_000
"""Bytes that a slow reader reads per second."""

_AT_ONCE: Final = 200
_JSON: Final = "content-type: application/json\r\n"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame: RFC 9113, section 4.1."""
    return struct.pack(">IBBI", len(payload), kind, flags, stream)[1:] + payload


def headers(path: str, stream: int) -> bytes:
    """The headers of a call; none is compressed."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "localhost",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    texts = [text.encode() for field in fields.items() for text in field]
    strings = [bytes([len(text)]) + text for text in texts]
    block = b"".join(b"\0" + name + value for name, value in zip(*[iter(strings)] * 2, strict=True))
    return frame(_HEADERS, _END_HEADERS, stream, block)


def request(message: Any, stream: int) -> bytes:
    """The only message of a call."""
    data = message.SerializeToString()
    return frame(_DATA, _END_STREAM, stream, struct.pack(">BI", 0, len(data)) + data)


async def _answer_frames(reader: StreamReader, writer: StreamWriter) -> None:
    """Reads what the server sends, and acknowledges what must be."""
    with suppress(ConnectionError, asyncio.IncompleteReadError):
        while True:
            head = await reader.readexactly(9)
            length, kind, flags = int.from_bytes(head[:3]), head[3], head[4]
            payload = await reader.readexactly(length)
            if kind in (_SETTINGS, _PING) and not flags & _ACK:
                writer.write(frame(kind, _ACK, 0, payload if kind == _PING else b""))


def _place(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


async def silent(address: str, count: int) -> dict[str, Any]:
    """Connects and says nothing."""
    return await _hold(address, count, b"")


async def greeting(address: str, count: int) -> dict[str, Any]:
    """Connects, begins with HTTP/2, and then says nothing."""
    return await _hold(address, count, _PREFACE + frame(_SETTINGS, 0, 0))


async def stalled_head(address: str, count: int) -> dict[str, Any]:
    """Sends the head of an HTTP request a byte at a time."""
    head = f"POST /convert HTTP/1.1\r\nhost: a\r\n{_JSON}x-slow: ".encode()
    return await _hold(address, count, head, every_second=b"a")


async def stalled_body(address: str, count: int) -> dict[str, Any]:
    """Sends the head of an HTTP request, and of its body a byte at a time."""
    head = f"POST /convert HTTP/1.1\r\nhost: a\r\n{_JSON}content-length: 1000\r\n\r\n"
    return await _hold(address, count, head.encode(), every_second=b" ")


async def _hold(
    address: str, count: int, first: bytes, every_second: bytes = b""
) -> dict[str, Any]:
    """Opens connections and keeps them until told to stop; how many the server closed meanwhile."""
    at_once = asyncio.Semaphore(_AT_ONCE)
    writers: list[StreamWriter] = []
    ends: list[asyncio.Task[bytes]] = []

    async def connect() -> None:
        async with at_once:
            reader, writer = await asyncio.open_connection(*_place(address))
            writer.write(first)
            ends.append(asyncio.create_task(reader.read()))
            writers.append(writer)

    async def drip() -> None:
        while every_second:  # Each at its own time of the second, as strangers would.
            for number, writer in enumerate(list(writers)):
                if not writer.is_closing():
                    writer.write(every_second)
                if number % _AT_ONCE == 0:
                    await asyncio.sleep(_AT_ONCE / max(count, 1))
            await asyncio.sleep(_AT_ONCE / max(count, 1))

    await asyncio.gather(*(connect() for _ in range(count)))
    dripping = asyncio.create_task(drip())
    await told_to_stop()
    dripping.cancel()
    closed = sum(end.done() for end in ends)
    for writer in writers:
        writer.transport.abort()
    await asyncio.gather(*ends, return_exceptions=True)
    return {"closed": closed}


async def resets(address: str, count: int) -> dict[str, Any]:
    """Begins calls and resets them at once, as fast as it goes."""
    return await _reset(address, count, None, math.inf)


async def resets_of_requests(address: str, count: int) -> dict[str, Any]:
    """The same with the whole request before the reset."""
    return await _reset(address, count, ParseCallRequest(json=ITEM), math.inf)


async def resets_at_a_pace(address: str, count: int) -> dict[str, Any]:
    """The same, some thousands in a second."""
    return await _reset(address, count, ParseCallRequest(json=ITEM), _RESETS_A_SECOND)


async def _reset(
    address: str, count: int, message: ParseCallRequest | None, a_second: float
) -> dict[str, Any]:
    left = count
    connections = 0
    start = time.monotonic()

    async def connection() -> None:
        nonlocal left, connections
        while left > 0:
            reader, writer = await asyncio.open_connection(*_place(address))
            connections += 1
            writer.write(_PREFACE + frame(_SETTINGS, 0, 0))
            reading = asyncio.create_task(_answer_frames(reader, writer))
            with suppress(ConnectionError):
                for stream in range(1, 2 * _STREAMS_OF_A_CONNECTION, 2):
                    if left <= 0 or reading.done():
                        break
                    left -= 1
                    begun = headers("/imagecall.v1.ConversionService/ParseCall", stream)
                    if message:
                        begun += request(message, stream)
                    writer.write(begun + frame(_RST_STREAM, 0, stream, struct.pack(">I", _CANCEL)))
                    await writer.drain()
                    if stream % 32 == 1:
                        due = start + (count - left) / a_second
                        await asyncio.sleep(max(0.0, due - time.monotonic()))
            reading.cancel()
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    await asyncio.gather(*(connection() for _ in range(_CONNECTIONS)))
    seconds = time.monotonic() - start
    return {"per_second": count / seconds, "connections": connections}


async def slow_grpc(address: str, count: int) -> dict[str, Any]:
    """Asks for a stream with a large image, takes it all in principle, and reads slowly."""
    wanted = ImageRequest(
        prompt="a fox",
        extra_fields=[ExtraField(name="embedded", json=f'{{"image_bytes":{_SLOW_IMAGE_BYTES}}}')],
    )
    wanted.tools.add().image_generation_tool.size = "64x64"
    window = struct.pack(">HI", _INITIAL_WINDOW_SIZE, _LARGEST_WINDOW)
    first = (
        _PREFACE
        + frame(_SETTINGS, 0, 0, window)
        + frame(_SETTINGS, _ACK, 0)
        + frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", _LARGEST_WINDOW - 65_535))
        + headers("/imagecall.v1.ImageGenerationService/StreamImage", 1)
        + request(StreamImageRequest(request=wanted), 1)
    )
    return await _read_slowly(address, count, first)


async def slow_http(address: str, count: int) -> dict[str, Any]:
    """The same at the HTTP door."""
    tools = [{"type": "image_generation", "size": "64x64"}]
    embedded = {"image_bytes": _SLOW_IMAGE_BYTES}
    asked = {"model": "m", "input": "a fox", "stream": True, "tools": tools, "embedded": embedded}
    body = json.dumps(asked)
    head = f"POST /v1/responses HTTP/1.1\r\nhost: a\r\n{_JSON}content-length: {len(body)}\r\n\r\n"
    return await _read_slowly(address, count, (head + body).encode())


async def _read_slowly(address: str, count: int, first: bytes) -> dict[str, Any]:
    read = 0

    async def one() -> None:
        nonlocal read
        loop = asyncio.get_running_loop()
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * _SLOW_BYTES)
            connection.setblocking(False)
            await loop.sock_connect(connection, _place(address))
            await loop.sock_sendall(connection, first)
            while received := await loop.sock_recv(connection, _SLOW_BYTES // 10):
                read += len(received)
                await asyncio.sleep(0.1)

    reading = [asyncio.create_task(one()) for _ in range(count)]
    await told_to_stop()
    ended = sum(task.done() for task in reading)
    for task in reading:
        task.cancel()
    await asyncio.gather(*reading, return_exceptions=True)
    return {"read": read, "ended": ended}


KINDS: Final[dict[str, Callable[[str, int], Awaitable[dict[str, Any]]]]] = {
    attack.__name__: attack
    for attack in (
        silent,
        greeting,
        stalled_head,
        stalled_body,
        resets,
        resets_of_requests,
        resets_at_a_pace,
        slow_grpc,
        slow_http,
    )
}


async def _main(kind: str, address: str, count: int) -> None:
    ready()
    told_to_go()
    report(**await KINDS[kind](address, count))


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
