"""Every pair of a door and a backend answers the same requests alike.

All backends draw with the embedded backend at their end, so that their images can be compared. To
add a door: a client of the door in DOORS. A client returns None for a request that the door's API
cannot express.
"""

import io
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

import imagecall
from imagecall.backends.choice import backend_from_uri
from imagecall.backends.embedded.backend import EmbeddedBackend
from imagecall.client import AsyncImageClient
from imagecall.doors.grpc.server import GrpcServer
from imagecall.doors.http.server import HttpServer
from imagecall.errors import ImagecallError
from imagecall.generation.backend import Backend
from imagecall.generation.request import request_from_json
from imagecall.v1.stream_event_pb2 import StreamEvent
from tests.doors.test_generation import serving
from tests.images_api import B64, b64, drawing_api
from tests.streams import PNG

TABLE: Final = Path(__file__).parents[2] / "src/imagecall/backends/README.md"
_ROW: Final = re.compile(r"^\| (?P<name>[^|]+) \|(?P<cells>(?: [^|]+ \|){4})$", re.MULTILINE)

Body = Mapping[str, Any]


@dataclass(frozen=True)
class Refusal:
    """Refusal of a request, with its reason and JSON Pointer."""

    reason: str
    pointer: str


@dataclass(frozen=True)
class Outcome:
    """Answer to a request: the calls, and the number of partial images; or the refusal."""

    calls: tuple[Body, ...] = ()
    partial_images: int = 0
    refusal: Refusal | None = None


# The doors.


async def by_grpc(address: str, body: Body, stream: bool) -> Outcome:
    """Answer at the gRPC door."""
    request = request_from_json(json.dumps(body)).request
    async with AsyncImageClient(address) as client:
        try:
            if not stream:
                response = await client.generate_image(request)
                return Outcome(tuple(_compared(imagecall.to_json(c)) for c in response.calls))
            events = [event async for event in client.stream_image(request)]
        except ImagecallError as error:
            return Outcome(refusal=Refusal(error.reason, error.pointer))
    messages = [event.message for event in events]
    return _of_events(imagecall.event_to_json(m) for m in messages if isinstance(m, StreamEvent))


async def by_responses(address: str, body: Body, stream: bool) -> Outcome:
    """Answer of POST /v1/responses at the HTTP door."""
    url = f"http://{address}/v1/responses"
    data = io.BytesIO(json.dumps({**body, "stream": stream}).encode())
    headers = {"content-type": "application/json"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=data, headers=headers) as answer,
    ):
        text = await answer.text()
    if answer.status != 200:
        error = json.loads(text)["error"]
        return Outcome(refusal=Refusal(error["type"].upper(), error.get("param") or ""))
    if not stream:
        output = json.loads(text)["output"]
        return Outcome(tuple(_compared(json.dumps(item)) for item in output if _is_call(item)))
    lines = re.findall(r"^data: (\{.*)$", text, re.MULTILINE)
    return _of_events(lines)


async def by_images(address: str, body: Body, stream: bool) -> Outcome | None:
    """Answer of the Images API at the HTTP door. None: that API has no such request."""
    asked = _in_images_api(body)
    if asked is None:
        return None
    url = f"http://{address}/v1/images/{'edits' if 'images' in asked else 'generations'}"
    data = io.BytesIO(json.dumps({**asked, "stream": stream}).encode())
    headers = {"content-type": "application/json"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=data, headers=headers) as answer,
    ):
        text = await answer.text()
    if answer.status != 200:
        error = json.loads(text)["error"]
        pointer = _in_responses_api(error.get("param") or "")
        return Outcome(refusal=Refusal(error["type"].upper(), pointer))
    if not stream:
        whole = json.loads(text)
        return Outcome(tuple(_item_of(whole | image) for image in whole["data"]))
    events = [json.loads(line) for line in re.findall(r"^data: (\{.*)$", text, re.MULTILINE)]
    done = [event for event in events if event["type"].endswith(".completed")]
    return Outcome(tuple(map(_item_of, done)), len(events) - len(done))


def _in_images_api(body: Body) -> Body | None:
    """Body of the Images API for a body of the Responses API."""
    tools = body.get("tools", [{"type": "image_generation"}])
    if body.keys() - {"input", "tools", "user"} or len(tools) > 1 or "n" in tools[0]:
        return None
    match body["input"]:
        case str(prompt):
            images = []
        case [{"role": "user", "content": [{"text": prompt}, *parts]}]:
            images = [{"image_url": part["image_url"]} for part in parts]
        case _:
            return None
    settings = dict(tools[0])
    if settings.pop("type") != "image_generation":
        return None
    mask = settings.pop("input_image_mask", None)
    return {
        "prompt": prompt,
        **settings,
        **({"images": images} if images else {}),
        **({"mask": mask} if mask else {}),
    }


def _in_responses_api(pointer: str) -> str:
    """Pointer of a key of the Images API in a body of the Responses API."""
    special = {"/prompt": "/input", "/mask": "/tools/0/input_image_mask", "": ""}
    return special.get(pointer, f"/tools/0{pointer}")


def _item_of(values: Body) -> Body:
    """Item with the values of an image of the Images API."""
    keys = ("revised_prompt", "size", "quality", "background", "output_format")
    item = {"type": "image_generation_call", "status": "completed", "result": values["b64_json"]}
    return item | {key: values[key] for key in keys if key in values}


DOORS: Final[Mapping[str, Callable[[str, Body, bool], Awaitable[Outcome | None]]]] = {
    "gRPC": by_grpc,
    "Responses": by_responses,
    "Images": by_images,
}
"""Clients of the doors: address, body of a POST /responses, True for a stream."""


def address_of(door: str, servers: Mapping[str, str]) -> str:
    """Address of the server that has a door."""
    return servers["grpc" if door == "gRPC" else "http"]


def _is_call(item: Body) -> bool:
    return bool(item["type"] == "image_generation_call")


def _compared(item: bytes | str) -> Body:
    """Keys of an item that are the same at every backend."""
    value: dict[str, Any] = json.loads(item)
    assert value.pop("id").startswith("ig_")
    return value


def _of_events(lines: Any) -> Outcome:
    events = [json.loads(line) for line in lines]
    kinds = [event["type"].removeprefix("response.") for event in events]
    done = [
        event["item"]
        for event, kind in zip(events, kinds, strict=True)
        if kind == "output_item.done" and _is_call(event["item"])
    ]
    partials = kinds.count("image_generation_call.partial_image")
    return Outcome(tuple(_compared(json.dumps(item)) for item in done), partials)


# The backends.


@asynccontextmanager
async def doors_before(backend: Backend) -> AsyncIterator[dict[str, str]]:
    """Addresses of both servers before a backend."""
    grpc, http = GrpcServer("127.0.0.1:0", backend), HttpServer("127.0.0.1:0", backend)
    try:
        yield {"grpc": await grpc.start(), "http": await http.start()}
    finally:
        await http.stop(1)
        await grpc.stop(0)
        await backend.close()


@asynccontextmanager
async def uri_of(name: str) -> AsyncIterator[str]:
    """URI of a backend that draws in the end with the embedded backend."""
    async with AsyncExitStack() as stack:
        match name:
            case "embedded":
                yield "embedded"
            case "Images API":
                yield "images+" + await stack.enter_async_context(drawing_api(EmbeddedBackend()))
            case _:
                inner = await stack.enter_async_context(doors_before(EmbeddedBackend()))
                is_grpc = name == "gRPC"
                yield f"grpc://{inner['grpc']}" if is_grpc else f"http://{inner['http']}/v1"


BACKENDS: Final = ("embedded", "Responses API", "Images API", "gRPC")


@pytest.fixture(params=BACKENDS)
async def servers(request: pytest.FixtureRequest) -> AsyncIterator[tuple[str, dict[str, str]]]:
    """Name of a backend, and the addresses of the doors before the backend."""
    async with uri_of(request.param) as uri, doors_before(backend_from_uri(uri)) as addresses:
        yield request.param, addresses


# The requests.

TOOL: Final[Body] = {"type": "image_generation", "size": "64x64"}
CALL: Final[Body] = {
    "type": "image_generation_call",
    "id": "ig_1",
    "status": "completed",
    "result": B64,
}


def user(*images: str) -> dict[str, Any]:
    parts = [{"type": "input_image", "image_url": image} for image in images]
    return {"role": "user", "content": [{"type": "input_text", "text": "blue"}, *parts]}


DATA_URL: Final = f"data:image/png;base64,{B64}"
LARGE_URL: Final = f"data:image/png;base64,{b64(PNG + bytes(2_000_000))}"

ANSWERED: Final[Mapping[str, Body]] = {
    "a prompt": {"input": "a red fox", "tools": [TOOL]},
    "no tool": {"input": "a red fox"},
    "settings": {
        "input": "a red fox",
        "tools": [{**TOOL, "quality": "low", "output_format": "webp", "output_compression": 50}],
    },
    "a transparent background": {
        "input": "a red fox",
        "tools": [{**TOOL, "background": "transparent"}],
    },
    "partial images": {"input": "a red fox", "tools": [{**TOOL, "partial_images": 2}]},
    "the tool of OpenRouter": {
        "input": "a red fox",
        "tools": [{"type": "openrouter:image_generation", "parameters": {"size": "64x32"}}],
    },
    "an input image": {"input": [user(DATA_URL)], "tools": [TOOL]},
    "two input images, one large": {"input": [user(DATA_URL, LARGE_URL)], "tools": [TOOL]},
    "an earlier call": {"input": [CALL, user()], "tools": [TOOL]},
    "an earlier call and an input image": {"input": [CALL, user(DATA_URL)], "tools": [TOOL]},
    "an edit with a mask": {
        "input": [user(DATA_URL)],
        "tools": [{**TOOL, "input_image_mask": {"image_url": DATA_URL}, "partial_images": 1}],
    },
    "keys that change no image": {
        "input": "a red fox",
        "tools": [TOOL],
        "tool_choice": {"type": "image_generation"},
        "model": "m",
        "user": "u1",
        "store": False,
        "temperature": 0.5,
    },
}

MESSAGE: Final[Body] = {"type": "message", "role": "system", "content": "hello"}
IN_THE_TABLE: Final[Mapping[str, Body]] = {
    "a message before the prompt": {"input": [MESSAGE, user()], "tools": [TOOL]},
    "an item of another type": {
        "input": [{"type": "item_reference", "id": "ig_1"}, user()],
        "tools": [TOOL],
    },
    "an earlier call without its image": {
        "input": [{**CALL, "result": None}, user()],
        "tools": [TOOL],
    },
    "instructions": {"input": "a fox", "tools": [TOOL], "instructions": "Be kind."},
    "an unknown key": {"input": "a fox", "tools": [TOOL], "wishes": 3},
    "a tool beside the image tool": {"input": "a fox", "tools": [TOOL, {"type": "web_search"}]},
    "a second image tool": {"input": "a fox", "tools": [TOOL, TOOL]},
    "a stored response": {"input": "a fox", "tools": [TOOL], "previous_response_id": "resp_1"},
    "a conversation": {"input": "a fox", "tools": [TOOL], "conversation": "conv_1"},
    "an answer in the background": {"input": "a fox", "tools": [TOOL], "background": True},
    "another tool chosen": {
        "input": "a fox",
        "tools": [TOOL],
        "tool_choice": {"type": "web_search"},
    },
    "a mask without an input image": {
        "input": "a fox",
        "tools": [{**TOOL, "input_image_mask": {"image_url": DATA_URL}}],
    },
    "an edit without an input image": {"input": "a fox", "tools": [{**TOOL, "action": "edit"}]},
    "no prompt beside an earlier call": {"input": [CALL], "tools": [TOOL]},
    "no prompt": {"input": " ", "tools": [TOOL]},
    "an earlier call without an id": {
        "input": [{key: value for key, value in CALL.items() if key != "id"}, user()],
        "tools": [TOOL],
    },
    "several images": {"input": "a fox", "tools": [{**TOOL, "n": 2}]},
}


def _table() -> dict[str, dict[str, str]]:
    """Entries of the table, by the names of the request and the backend."""
    _, _, text = TABLE.read_text().partition("## Pairs")
    rows = {m["name"].strip(): m["cells"].strip("| ").split(" | ") for m in _ROW.finditer(text)}
    head = rows.pop("request")
    return {name: dict(zip(head, cells, strict=True)) for name, cells in rows.items()}


def test_the_table_has_every_request_and_backend() -> None:
    rows = _table()
    assert [*rows] == [*IN_THE_TABLE]
    assert all([*cells] == [*BACKENDS] for cells in rows.values())


@pytest.mark.parametrize("door", DOORS)
async def test_every_pair_has_the_same_images(
    servers: tuple[str, dict[str, str]], door: str
) -> None:
    ask = DOORS[door]
    for name, body in ANSWERED.items():
        for stream in (False, True):
            outcome = await ask(address_of(door, servers[1]), body, stream)
            expected = await _expected(body, stream)
            assert outcome in (expected, None), f"{name}, stream {stream}"


async def _expected(body: Body, stream: bool) -> Outcome:
    """Answer of the embedded backend itself."""
    key = json.dumps([body, stream])
    if key not in _EXPECTED:
        async with serving(EmbeddedBackend()) as address:
            _EXPECTED[key] = await by_grpc(address, body, stream)
            assert len(_EXPECTED[key].calls) == 1
    return _EXPECTED[key]


_EXPECTED: Final[dict[str, Outcome]] = {}


@pytest.mark.parametrize("door", DOORS)
async def test_a_request_that_a_backend_cannot_take_is_refused_as_the_table_has_it(
    servers: tuple[str, dict[str, str]], door: str
) -> None:
    backend, addresses = servers
    table = _table()
    for name, body in IN_THE_TABLE.items():
        entry = table[name][backend]
        for stream in (False, True):
            outcome = await DOORS[door](address_of(door, addresses), body, stream)
            if outcome is not None:
                _check(entry, outcome, f"{name}, stream {stream}")


def _check(entry: str, outcome: Outcome, where: str) -> None:
    if entry == "yes":
        assert outcome.calls, where
    elif entry == "passed on":  # The embedded backend at the end refuses the request.
        assert outcome.refusal, where
        assert outcome.refusal.reason in ("UNSUPPORTED", "UPSTREAM_INVALID_REQUEST"), where
    else:
        reason, pointer = entry.replace("`", "").split()
        assert outcome.refusal == Refusal(reason, pointer), where
