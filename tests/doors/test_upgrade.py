"""Upgrades at the HTTP door: WebSocket is refused in words, others are not taken."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from imagecall.backends.embedded.backend import EmbeddedBackend
from imagecall.doors.http.app import http_app
from imagecall.doors.http.paths import PATHS
from tests.doors.test_http import SMALL, door_before

HANDSHAKE = {
    "host": "x",
    "connection": "Upgrade",
    "upgrade": "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
}
ANSWER = ("HTTP/1.1", "Upgrade")


@pytest.fixture
async def door() -> AsyncIterator[str]:
    async with door_before(EmbeddedBackend()) as address:
        yield address


async def answers(
    address: str, *requests: tuple[str, dict[str, str]], body: bytes = b""
) -> list[tuple[int, dict[str, str], bytes]]:
    """Answers to requests on one connection: status, headers, body."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    found = []
    for line, headers in requests:
        lines = [f"{name}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([f"{line} HTTP/1.1", *lines, "", ""]).encode() + body)
        first, *rest = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        said = {k.lower(): v for k, _, v in (line.partition(": ") for line in rest)}
        content = await reader.readexactly(int(said["content-length"]))
        found.append((int(first.split()[1]), said, content))
    writer.close()
    return found


@pytest.mark.parametrize("path", [*PATHS, "/", "/nothing"])
@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"connection": "keep-alive, upgrade", "upgrade": "WebSocket"},
        {"upgrade": "h2c, websocket"},
    ],
)
async def test_a_websocket_is_refused_as_http_has_it_and_not_logged(
    door: str, path: str, asked: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    [(status, headers, body), (again, _, _)] = await answers(
        door, (f"GET {path}", HANDSHAKE | asked), ("GET /health", {"host": "x"})
    )
    assert (status, headers["upgrade"], headers["connection"]) == (426, *ANSWER)
    error = json.loads(body)["error"]
    assert (error["code"], error["type"]) == (426, "invalid_request")
    assert "POST /v1/responses" in error["message"]
    assert headers["x-request-id"]
    assert again == 200
    assert not caplog.records


@pytest.mark.parametrize(
    "asked",
    [
        {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2-settings": "AAMAAABk"},
        {"upgrade": "websocket"},
    ],
)
async def test_another_upgrade_is_passed_over(
    door: str, asked: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    body = json.dumps({"input": "a", "tools": [SMALL]}).encode()
    headers = {"host": "x", "content-type": "application/json", "content-length": str(len(body))}
    [(status, _, _)] = await answers(door, ("POST /v1/responses", headers | asked), body=body)
    assert status == 200
    assert not caplog.records


@pytest.mark.parametrize(
    ("extensions", "kind"),
    [({"websocket.http.response": {}}, "websocket.http.response.start"), ({}, "websocket.close")],
    ids=["a server that can answer", "a server that can only close"],
)
async def test_inside_another_server_a_websocket_is_refused_as_that_can(
    extensions: dict[str, Any], kind: str
) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope: Any = {"type": "websocket", "path": "/v1/responses", "headers": [], "query_string": b""}
    app: Any = http_app(EmbeddedBackend())
    await app(scope | {"extensions": extensions}, asyncio.Event().wait, send)
    assert sent[0]["type"] == kind
    if extensions:
        assert sent[0]["status"] == 426
        assert (b"upgrade", b"HTTP/1.1") in sent[0]["headers"]
