"""The connections of the HTTP door."""

import asyncio
import json
import signal
import socket
from typing import Any

import pytest
from starlette.responses import PlainTextResponse

from imagecall.access.admission import Admission
from imagecall.access.limits import Limits
from imagecall.backends.embedded.backend import EmbeddedBackend
from imagecall.doors.http.server import HttpServer


async def test_a_request_in_pieces_is_read_whole() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        await PlainTextResponse(body)(scope, receive, send)

    server = HttpServer("127.0.0.1:0", EmbeddedBackend(), app=app)
    host, _, port = (await server.start()).rpartition(":")
    body = bytes(range(256)) * 8192
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    head = f"POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
    for byte in head.encode():
        writer.write(bytes([byte]))
        await asyncio.sleep(0)
    writer.write(body)
    answer = await reader.read()
    writer.close()
    await server.stop(1)
    assert answer.endswith(b"\r\n\r\n" + body)


async def exchange(*requests: bytes) -> bytes:
    """All that a door with a limit of 1,024 bytes of head answers on one connection."""
    limits = Limits(metadata_bytes=1024)
    server = HttpServer("127.0.0.1:0", EmbeddedBackend(), Admission(limits))
    host, _, port = (await server.start()).rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    for request in requests:
        writer.write(request)
        await asyncio.sleep(0.05)
    answer = await reader.read()
    writer.close()
    await server.stop(1)
    return answer


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize("where", ["x-a: {}", "x-{}: a", "?{}"])
async def test_a_head_past_the_limit_is_refused_at_once_or_in_pieces(
    where: str, pieces: int
) -> None:
    for size, status in ((600, b"200"), (1100, b"4")):
        filled = where.format("y" * size)
        path = "/health" + (filled if where.startswith("?") else "")
        header = "" if where.startswith("?") else filled + "\r\n"
        head = f"GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{header}\r\n".encode()
        middle = len(head) - 3 if pieces == 2 else len(head)
        answer = await exchange(head[:middle], head[middle:])
        assert answer.startswith(b"HTTP/1.1 " + status)
        if status == b"4" and pieces == 1:
            assert answer.startswith(b"HTTP/1.1 431 ")
            error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
            assert (error["code"], error["type"]) == (431, "invalid_request")
            assert "the limit is 1,024" in error["message"]


async def test_two_kinds_of_framing_close_the_connection() -> None:
    """RFC 9112, section 6.3: what follows could be a request for another server."""
    body = b'{"type":"image_generation_call"}'
    head = b"POST /convert HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    smuggled = b"GET /health HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
    for order in (b"", b"content-length: 5\r\n"):
        framing = order + b"transfer-encoding: chunked\r\n"
        answer = await exchange(head + framing + b"\r\n" + chunked + smuggled)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.count(b"HTTP/1.1") == (1 if order else 2)
        assert (b"connection: close" in answer.split(b"HTTP/1.1 ")[1]) == bool(order)


async def test_signals_are_left_to_the_program() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    server = HttpServer("127.0.0.1:0", EmbeddedBackend())
    await server.start()
    during = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    await server.stop(1)
    assert before == during
    assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


async def test_a_port_in_use_is_an_error_with_a_sentence_and_shared_only_if_asked_for() -> None:
    first = HttpServer("127.0.0.1:0", EmbeddedBackend(), share_port=True)
    address = await first.start()
    with pytest.raises(OSError, match=f"cannot listen on {address}: it is in use"):
        await HttpServer(address, EmbeddedBackend()).start()
    second = HttpServer(address, EmbeddedBackend(), share_port=True)
    assert await second.start() == address
    await asyncio.gather(first.stop(0), second.stop(0))
    host, _, port = address.rpartition(":")
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(host, int(port))


async def test_a_server_that_never_answered_stops_at_once() -> None:
    server = HttpServer("127.0.0.1:0", EmbeddedBackend())
    await server.stop(1)
    host, _, port = (await server.start()).rpartition(":")
    _, silent = await asyncio.open_connection(host, int(port))
    await asyncio.wait_for(server.stop(60), 30)
    silent.close()
