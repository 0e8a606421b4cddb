"""Compressed bodies at the HTTP door."""

import asyncio
import gzip
import json
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from imagecall.access.admission import Admission
from imagecall.access.limits import Limits
from imagecall.backends.embedded.backend import EmbeddedBackend
from imagecall.doors.http.paths import PATHS
from imagecall.sizes import SLICE
from tests.doors.test_http import SMALL, door_before

# The tests share a door, and so the event loop.
pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1024 * 1024
LIMIT = 8 * MIB
BODY = json.dumps({"input": "a fox", "tools": [SMALL]}).encode()
ITEM = b'{"type":"image_generation_call","id":"ig_1","result":null}'


def raw(data: bytes) -> bytes:
    """Deflate without the zlib format around it, as some clients send."""
    encoder = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return encoder.compress(data) + encoder.flush()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def door() -> AsyncIterator[str]:
    admission = Admission(Limits(json_bytes=LIMIT))
    async with door_before(EmbeddedBackend(), admission=admission) as address:
        yield address


async def post(
    address: str, body: Any, coding: str, path: str = PATHS[0]
) -> tuple[aiohttp.ClientResponse, Any]:
    headers = {"content-type": "application/json", "content-encoding": coding}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://{address}{path}", data=body, headers=headers) as answer,
    ):
        return answer, json.loads(await answer.read())


async def in_bytes(body: bytes) -> AsyncIterator[bytes]:
    """A body of which each byte comes by itself."""
    for byte in body:
        yield bytes([byte])
        await asyncio.sleep(0)


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(BODY, mtime=0)),
        ("x-gzip", gzip.compress(BODY, 0, mtime=0)),
        (" GZIP", gzip.compress(BODY, mtime=0)),
        ("identity, gzip", gzip.compress(BODY, mtime=0)),
        ("gzip", b"".join(gzip.compress(part, mtime=0) for part in (BODY[:9], b"", BODY[9:]))),
        ("deflate", zlib.compress(BODY)),
        ("deflate", raw(BODY)),
        ("identity", BODY),
        ("", BODY),
    ],
)
async def test_a_compressed_body_is_read_as_the_other_is(
    door: str, coding: str, body: bytes, slow: bool
) -> None:
    answer, said = await post(door, in_bytes(body) if slow else body, coding)
    assert answer.status == 200
    assert said["output"][0]["result"]


@pytest.mark.parametrize("path", [*PATHS, "/convert"])
async def test_it_is_read_at_every_path(door: str, path: str) -> None:
    body = ITEM if path == "/convert" else BODY
    answer, _ = await post(door, gzip.compress(body, mtime=0), "gzip", path)
    assert answer.status == 200


@pytest.mark.parametrize(("size", "status"), [(LIMIT, 200), (LIMIT + 1, 413)])
async def test_the_limit_is_that_of_the_decoded_body(door: str, size: int, status: int) -> None:
    answer, _ = await post(door, gzip.compress(BODY + b" " * (size - len(BODY))), "gzip")
    assert answer.status == status


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_a_bomb_is_refused_before_it_is_decoded_whole(door: str, coding: str) -> None:
    """It would have 64 MiB, eight times the limit; others have their turns meanwhile."""
    encoder = zlib.compressobj(wbits=31 if coding == "gzip" else 15)
    bomb = b"".join([*(encoder.compress(bytes(MIB)) for _ in range(64)), encoder.flush()])
    rounds = 0

    async def count() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    tracemalloc.start()
    answer, said = await post(door, bomb, coding)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    counting.cancel()
    assert (answer.status, said["error"]["type"]) == (413, "too_large")
    assert peak < 4 * LIMIT
    assert rounds > 4 * LIMIT / SLICE  # Each piece waits for its turn.


async def test_a_bomb_is_refused_before_it_has_come_whole(door: str) -> None:
    bomb = gzip.compress(bytes(64 * MIB))
    host, _, port = door.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = (
        "POST /v1/responses HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        f"content-encoding: gzip\r\ncontent-length: {len(bomb)}\r\n\r\n"
    )
    writer.write(head.encode() + bomb[: len(bomb) // 2])
    line = await reader.readline()
    assert line.startswith(b"HTTP/1.1 413")
    writer.transport.abort()


@pytest.mark.parametrize("path", [PATHS[0], "/convert"])
@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize(
    ("body", "why"),
    [
        (BODY, "it "),
        (b"", "it ends in the middle"),
        (gzip.compress(BODY, mtime=0)[:-1], "it ends in the middle"),
        (gzip.compress(BODY, mtime=0)[:5], "it ends in the middle"),
        (gzip.compress(BODY, mtime=0)[:-8] + bytes(8), "it is not valid gzip or deflate"),
        (gzip.compress(BODY, mtime=0) + b"{", "bytes follow its end"),
        (zlib.compress(BODY)[:-1], "it ends in the middle"),
        (b"\x1f\x8b" + BODY, "it is not valid gzip or deflate"),
    ],
)
async def test_a_damaged_body_is_refused_in_words(
    door: str, path: str, coding: str, body: bytes, why: str
) -> None:
    answer, said = await post(door, body, coding, path)
    assert (answer.status, said["error"]["type"]) == (400, "invalid_request")
    assert f"the compressed body is damaged: {why}" in said["error"]["message"]


@pytest.mark.parametrize("coding", ["zstd", "br", "gzip, gzip", "compress", "gzip, br", "x"])
async def test_another_coding_is_a_415_that_names_those_that_are_taken(
    door: str, coding: str
) -> None:
    answer, said = await post(door, b"x", coding)
    assert (answer.status, said["error"]["code"]) == (415, 415)
    assert answer.headers["accept-encoding"] == "gzip, deflate"
    assert "gzip" in said["error"]["message"]
