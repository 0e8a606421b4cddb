"""Edits of the Images API at the HTTP door: forms and JSON, right ones and hostile ones."""

import asyncio
import base64
import gzip
import io
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from imagecall.access.admission import Admission
from imagecall.access.limits import Limits
from imagecall.backends.embedded.backend import EmbeddedBackend
from imagecall.backends.responses_api.backend import HttpBackend
from imagecall.doors.http.images.door import EDIT_PATHS
from imagecall.doors.http.images.form import MAX_PARTS
from tests.doors.test_http import door_before, post, sdk
from tests.doors.test_images_generations import answers, png_of, stream_of
from tests.streams import PNG, item, response
from tests.until import until
from tests.upstream import upstream

DATA_URL = "data:image/png;base64," + base64.b64encode(PNG).decode()
BOUNDARY = "-----boundary1234"
TYPE = f"multipart/form-data; boundary={BOUNDARY}"
SMALL: Any = {"prompt": "bluer", "size": "64x64"}


def part(name: str, content: bytes, filename: str | None = None, headers: bytes = b"") -> bytes:
    """A part of a form, with the boundary before it."""
    disposition = f'Content-Disposition: form-data; name="{name}"'
    if filename is not None:
        disposition += f'; filename="{filename}"'
    head = f"--{BOUNDARY}\r\n{disposition}\r\n".encode()
    return head + headers + b"\r\n" + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


PROMPT = part("prompt", b"bluer")
IMAGE = part("image", PNG, "a.png")


async def post_form(address: str, body: Any, content_type: str = TYPE, **headers: str) -> Any:
    """The status of the answer, and its JSON."""
    headers = {"content-type": content_type} | headers
    body = io.BytesIO(body) if isinstance(body, bytes) else body  # aiohttp warns of large bytes.
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://{address}{EDIT_PATHS[0]}", data=body, headers=headers) as answer,
    ):
        return answer.status, json.loads(await answer.read())


async def test_the_sdk_of_openai_edits_images_plain_and_streamed(tmp_path: Path) -> None:
    (tmp_path / "fox.png").write_bytes(PNG)
    async with door_before(EmbeddedBackend()) as address, sdk(address) as client:
        images = [("a.png", PNG), ("b.png", PNG + b"b")]
        plain = await client.images.edit(image=images, n=2, **SMALL)
        one = await client.images.edit(image=tmp_path / "fox.png", **SMALL)
        stream = await client.images.edit(image=images, stream=True, partial_images=1, **SMALL)
        events = [event async for event in stream]
    assert plain.data is not None
    assert one.data is not None
    first, second = map(png_of, plain.data)
    assert first == second
    assert png_of(one.data[0])
    assert [event.type for event in events] == ["image_edit.partial_image", "image_edit.completed"]
    assert png_of(events[-1]) == first


EDITED = {
    "input": [
        {
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_text", "text": "bluer"},
                {"type": "input_image", "detail": "auto", "image_url": DATA_URL},
                {"type": "input_image", "detail": "auto", "image_url": DATA_URL},
            ],
        }
    ],
    "tools": [
        {
            "type": "image_generation",
            "model": "gpt-image-1",
            "size": "1024x1024",
            "output_compression": 50,
            "input_fidelity": "high",
            "partial_images": 1,
            "svg": {"model": "m", "reasoning": {"effort": "low"}},
            "input_image_mask": {"image_url": DATA_URL},
        }
    ],
    "user": "me",
}
"""Body of the request that the Responses API gets for the same edit in each form."""


async def edit_as_form(address: str) -> Any:
    fields = {
        "prompt": "bluer",
        "model": "gpt-image-1",
        "size": "1024x1024",
        "output_compression": "50",
        "input_fidelity": "high",
        "partial_images": "1",
        "svg[model]": "m",
        "svg[reasoning][effort]": "low",
        "user": "me",
        "n": "1",
        "stream": "false",
        "response_format": "b64_json",
    }
    texts = [part(name, value.encode()) for name, value in fields.items()]
    files = [part("image[]", PNG, name) for name in ("a.png", "../../etc/passwd")]
    return await post_form(address, form(*texts[:3], *files, part("mask", PNG, "m"), *texts[3:]))


async def edit_as_json(address: str, **images: Any) -> Any:
    tool = {key: value for key, value in EDITED["tools"][0].items() if key != "type"}  # type: ignore[index]
    del tool["input_image_mask"]
    body = {"prompt": "bluer", "user": "me", "mask": {"image_url": DATA_URL}} | tool | images
    answer, said = await post(address, body, EDIT_PATHS[1])
    return answer.status, said


async def edit_with_the_sdk(address: str) -> Any:
    async with sdk(address) as client:
        edit: Any = client.images.edit
        got = await edit(
            prompt="bluer",
            model="gpt-image-1",
            size="1024x1024",
            output_compression=50,
            input_fidelity="high",
            partial_images=1,
            svg={"model": "m", "reasoning": {"effort": "low"}},
            user="me",
            image=[("a.png", PNG), ("b.png", PNG)],
            mask=("m.png", PNG),
        )
    return 200, got.model_dump()


EDITS: dict[str, Any] = {
    "a form": edit_as_form,
    "the SDK": edit_with_the_sdk,
    "OpenAI's JSON": lambda address: edit_as_json(address, images=[{"image_url": DATA_URL}] * 2),
    "URLs": lambda address: edit_as_json(address, image=[DATA_URL, DATA_URL]),
    "OpenRouter's JSON": lambda address: edit_as_json(
        address, input_references=[{"type": "image_url", "image_url": {"url": DATA_URL}}] * 2
    ),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
async def test_an_edit_is_the_same_request_in_every_form(edit: Any) -> None:
    async with upstream() as api, door_before(HttpBackend(api.url)) as address:
        answers(api, response(item()))
        status, said = await edit(address)
    assert (status, len(said["data"])) == (200, 1)
    assert api.requests[0].body == EDITED


async def test_a_file_of_the_api_is_named_by_its_id() -> None:
    async with upstream() as api, door_before(HttpBackend(api.url)) as address:
        answers(api, response(item()))
        body = {"prompt": "a", "images": [{"file_id": "file-1"}], "mask": {"file_id": "file-2"}}
        await post(address, body, EDIT_PATHS[0])
    [request] = api.requests
    assert request.body["input"][0]["content"][1]["file_id"] == "file-1"
    assert request.body["tools"][0]["input_image_mask"] == {"file_id": "file-2"}


async def test_a_stream_of_edits_has_its_own_types_of_events() -> None:
    async with door_before(EmbeddedBackend()) as address:
        found = await stream_of(
            address, SMALL | {"images": [{"image_url": DATA_URL}]}, EDIT_PATHS[0]
        )
    assert [event["type"] for event in found] == ["image_edit.completed"]


async def test_a_compressed_form_is_read() -> None:
    async with door_before(EmbeddedBackend()) as address:
        body = gzip.compress(form(PROMPT, IMAGE, part("size", b"64x64")))
        status, _ = await post_form(address, body, **{"content-encoding": "gzip"})
    assert status == 200


async def test_a_compressed_bomb_is_refused() -> None:
    admission = Admission(Limits(json_bytes=2**20))
    async with door_before(EmbeddedBackend(), admission=admission) as address:
        body = gzip.compress(form(PROMPT, part("image", bytes(64 * 2**20), "a")))
        status, said = await post_form(address, body, **{"content-encoding": "gzip"})
    assert (status, said["error"]["type"]) == (413, "too_large")
    assert admission.budget.held == 0


HEADER = b"X-Filler: " + b"x" * 1000 + b"\r\n"
REFUSED: dict[str, tuple[bytes, str, int]] = {
    "empty": (b"", TYPE, 400),
    "no boundary": (form(PROMPT, IMAGE), "multipart/form-data", 400),
    "an empty boundary": (form(PROMPT, IMAGE), 'multipart/form-data; boundary=""', 400),
    "a long boundary": (form(PROMPT), f"multipart/form-data; boundary={'b' * 71}", 400),
    "a wrong boundary": (form(PROMPT, IMAGE), "multipart/form-data; boundary=other", 400),
    "no boundary in the body": (b"x" * 100_000, TYPE, 400),
    "no end": (PROMPT + IMAGE, TYPE, 400),
    "an end within a part": ((PROMPT + IMAGE)[:-20], TYPE, 400),
    "an end within a head": (PROMPT + IMAGE[:40], TYPE, 400),
    "10,000 parts": (form(PROMPT, IMAGE, *[part("user", b"")] * 10_000), TYPE, 413),
    "10,000 files": (form(PROMPT, *[IMAGE] * 10_000), TYPE, 413),
    "10,000 boundaries that end no part": (
        form(PROMPT, part("image", f"\r\n--{BOUNDARY}x".encode() * 10_000, "a")),
        TYPE,
        413,
    ),
    "a flood of headers": (form(PROMPT, part("image", PNG, "a", HEADER * 1000)), TYPE, 400),
    "a long header": (form(PROMPT, part("image", PNG, "a" * 100_000)), TYPE, 400),
    "a header without an end": (PROMPT + b"--" + BOUNDARY.encode() + b"\r\nX: " * 9, TYPE, 400),
    "bytes that are no header": (form(b"--" + BOUNDARY.encode() + b"\r\n\x00\x01\r\n"), TYPE, 400),
    "a part without a head": (form(f"--{BOUNDARY}\r\n\r\nx\r\n".encode()), TYPE, 400),
    "a part without a name": (
        form(f"--{BOUNDARY}\r\nContent-Disposition: form-data\r\n\r\nx\r\n".encode()),
        TYPE,
        400,
    ),
    "a path as a name": (form(PROMPT, IMAGE, part("../../etc/passwd", b"x")), TYPE, 400),
    "a name that is not UTF-8": (
        form(PROMPT.replace(b"prompt", b"\xff\xfe"), IMAGE),
        TYPE,
        400,
    ),
    "a text that is not UTF-8": (form(part("prompt", b"\xff\xfe"), IMAGE), TYPE, 400),
    "a field twice": (form(PROMPT, PROMPT, IMAGE), TYPE, 400),
    "a nested field twice": (form(PROMPT, IMAGE, *[part("svg[model]", b"m")] * 2), TYPE, 400),
    "a file of no use": (form(PROMPT, IMAGE, part("markup", PNG, "m.png")), TYPE, 400),
    "an encoded file": (
        form(
            PROMPT,
            part("image", base64.b64encode(PNG), "a", b"Content-Transfer-Encoding: base64\r\n"),
        ),
        TYPE,
        400,
    ),
    "two masks": (form(PROMPT, IMAGE, *[part("mask", PNG, "m")] * 2), TYPE, 400),
    "no image": (form(PROMPT), TYPE, 400),
    "an empty image": (form(PROMPT, part("image", b"", "a.png")), TYPE, 400),
    "no prompt": (form(IMAGE), TYPE, 400),
    "a number that is none": (form(PROMPT, IMAGE, part("n", b"two")), TYPE, 400),
    "a number too high": (form(PROMPT, IMAGE, part("n", b"11")), TYPE, 400),
    "a boolean that is none": (form(PROMPT, IMAGE, part("stream", b"1")), TYPE, 400),
    "a URL wanted": (form(PROMPT, IMAGE, part("response_format", b"url")), TYPE, 400),
    "another type": (b"prompt=a", "application/x-www-form-urlencoded", 415),
    "a form of another kind": (form(PROMPT), f"multipart/mixed; boundary={BOUNDARY}", 415),
}


async def test_a_form_is_refused_in_words() -> None:
    admission, found = Admission(), {}
    async with door_before(EmbeddedBackend(), admission=admission) as address:
        for name, (body, content_type, _) in REFUSED.items():
            got, said = await post_form(address, body, content_type)
            again, _ = await post_form(address, form(PROMPT, IMAGE, part("size", b"64x64")))
            found[name] = (got, bool(said["error"]["message"]), again)
    assert found == {name: (status, True, 200) for name, (*_, status) in REFUSED.items()}
    assert (admission.in_progress, admission.budget.held) == (0, 0)


async def test_as_many_parts_as_the_limit_are_taken() -> None:
    images = [IMAGE] * (MAX_PARTS - 2)
    async with door_before(EmbeddedBackend()) as address:
        status, _ = await post_form(address, form(PROMPT, part("size", b"64x64"), *images))
    assert status == 200


def flood() -> Iterator[bytes]:
    yield PROMPT
    while True:
        yield IMAGE


async def sent_until_answered(
    address: str, head: bytes, pieces: Iterator[bytes]
) -> tuple[int, bytes]:
    """Sends pieces of a body until the server answers; returns their size, and the answer."""
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    size = 0
    writer.write(head)
    answer = asyncio.create_task(reader.read(4096))
    while not answer.done():
        piece = next(pieces)
        size += len(piece)
        writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        await asyncio.sleep(0)
        try:
            await writer.drain()
        except ConnectionError:
            break
    text = await answer
    writer.close()
    return size, text


@pytest.mark.parametrize(
    "pieces",
    [
        lambda: flood(),
        lambda: iter([PROMPT, *[part("image", bytes(60_000), "a")] * 100_000]),
        lambda: iter([PROMPT, IMAGE[:-2], *[bytes(60_000)] * 100_000]),
        lambda: iter([PROMPT[:30], *[b"x" * 60_000] * 100_000]),
    ],
    ids=["many parts", "many large parts", "one large part", "a head without an end"],
)
async def test_a_bomb_is_refused_long_before_its_end(pieces: Any) -> None:
    admission = Admission(Limits(json_bytes=2**20))
    async with door_before(EmbeddedBackend(), admission=admission) as address:
        head = (
            f"POST {EDIT_PATHS[0]} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {TYPE}\r\n"
            "transfer-encoding: chunked\r\n\r\n"
        )
        size, answer = await sent_until_answered(address, head.encode(), pieces())
    assert answer.startswith((b"HTTP/1.1 413", b"HTTP/1.1 400"))
    assert size < 16 * 2**20
    assert admission.budget.held == 0


async def test_a_length_above_the_limit_is_refused_at_once() -> None:
    admission = Admission(Limits(json_bytes=1000))
    async with door_before(EmbeddedBackend(), admission=admission) as address:
        status, said = await post_form(address, form(PROMPT, part("image", bytes(1000), "a")))
    assert (status, said["error"]["type"]) == (413, "too_large")


async def test_a_large_image_is_read_from_a_form_in_pieces_of_any_size() -> None:
    image = PNG + bytes(range(256)) * 2500
    body = form(PROMPT, part("image", image, "a.png"), part("size", b"64x64"))

    async def pieces() -> Any:
        for start in range(0, len(body), 33_333):
            yield body[start : start + 33_333]

    async with upstream() as api, door_before(HttpBackend(api.url)) as address:
        answers(api, response(item()))
        status, _ = await post_form(address, pieces())
    assert status == 200
    [url] = [each["image_url"] for each in api.requests[0].body["input"][0]["content"][1:]]
    assert base64.b64decode(url.partition(",")[2]) == image


async def test_an_sdk_sends_an_edit_again_only_where_it_cost_nothing() -> None:
    async with upstream() as api, door_before(HttpBackend(api.url)) as address:
        answers(api, b"<html>")
        async with openai.AsyncOpenAI(base_url=f"http://{address}/v1", api_key="none") as client:
            with pytest.raises(openai.APIStatusError) as caught:
                await client.images.edit(image=PNG, prompt="a")
    assert caught.value.status_code == 424
    assert len(api.requests) == 1


async def test_a_connection_that_breaks_within_a_form_leaves_nothing_behind() -> None:
    admission = Admission()
    async with door_before(EmbeddedBackend(), admission=admission) as address:
        host, port = address.split(":")
        with socket.create_connection((host, int(port))) as connection:
            head = f"POST {EDIT_PATHS[0]} HTTP/1.1\r\nhost: a\r\ncontent-type: {TYPE}\r\n"
            connection.sendall(head.encode() + b"content-length: 100000\r\n\r\n" + PROMPT)
            await until(lambda: admission.budget.held > 0)
        await until(lambda: admission.budget.held == 0)
    assert admission.in_progress == 0
