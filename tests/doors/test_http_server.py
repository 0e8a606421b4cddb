"""The connections of the HTTP door: how they begin."""

import asyncio
import socket
from collections import Counter
from typing import Any

from starlette.responses import PlainTextResponse

from imagecall.backends.embedded.backend import EmbeddedBackend
from imagecall.doors.http.server import HttpServer

HEAD = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
MANY = 100


async def test_many_that_send_at_once_begin_a_few_in_a_round_of_the_event_loop() -> None:
    """Or what else the server does would wait for all of them."""
    rounds, begun = 0, Counter[int]()

    async def count() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await asyncio.sleep(0)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        begun[rounds] += 1
        await PlainTextResponse("ok")(scope, receive, send)

    server = HttpServer("127.0.0.1:0", EmbeddedBackend(), app=app)
    host, _, port = (await server.start()).rpartition(":")
    counting = asyncio.create_task(count())
    clients = [await asyncio.open_connection(host, int(port)) for _ in range(MANY)]
    await asyncio.sleep(0.1)  # All are accepted.
    for _, writer in clients:
        writer.write(HEAD)
    answers = await asyncio.gather(*(reader.read() for reader, _ in clients))
    for _, writer in clients:
        writer.close()
    counting.cancel()
    await server.stop(1)
    assert all(answer.endswith(b"ok") for answer in answers)
    assert begun.total() == MANY
    assert max(begun.values()) <= 4


async def test_a_request_in_pieces_is_read_whole() -> None:
    """What comes first waits for its turn, and what comes after it waits, too."""

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
