"""An Images API on a real port, which replays what engines document, byte for byte.

The answers are those that the documentation and the sources of each engine show; none of the
engines runs here.
"""

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from functools import partial
from typing import Any, Final

import aiohttp.web

from imagecall.conversion.converter import event_to_json, tool_from_json
from imagecall.errors import ImagecallError
from imagecall.generation.assembly import reassemble
from imagecall.generation.backend import Backend
from imagecall.v1.image_generation_service_pb2 import StreamEnd, StreamImageRequest
from imagecall.v1.image_request_pb2 import ImageRequest
from tests.streams import PNG
from tests.upstream import Request, Upstream

B64: Final = b64encode(PNG).decode()
JPEG: Final = b"\xff\xd8\xff\xe0" + b"j" * 40
WEBP: Final = b"RIFF\x24\0\0\0WEBPVP8 " + b"w" * 24
SVG: Final = b'<svg xmlns="http://www.w3.org/2000/svg"></svg>'


@dataclass
class Field:
    """Field of a form that came."""

    name: str
    data: bytes
    filename: str | None = None
    content_type: str | None = None


class ImagesApi(Upstream):
    """The server: an Upstream that also takes forms, and requests without a body."""

    async def _read(self, head: str, reader: asyncio.StreamReader) -> None:
        first, *lines = head.strip().split("\r\n")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines)}
        raw = await reader.readexactly(int(headers.get("content-length", 0)))
        content_type = headers.get("content-type", "")
        body: Any = None
        if content_type.startswith("multipart/form-data"):
            body = fields_of(content_type, raw)
        elif raw:
            body = json.loads(raw)
        self.requests.append(Request(first.split()[1], headers, body))
        self.arrived.set()


def fields_of(content_type: str, raw: bytes) -> list[Field]:
    """Fields of a form, in order."""
    message = message_from_bytes(f"Content-Type: {content_type}\r\n\r\n".encode() + raw)
    fields = []
    for part in message.get_payload():
        data = part.get_payload(decode=True)  # type: ignore[union-attr]  # the parts are messages
        name = part.get_param("name", header="content-disposition")  # type: ignore[union-attr]
        has_file = part.get_filename() is not None  # type: ignore[union-attr]
        kind = part.get_content_type() if has_file else None  # type: ignore[union-attr]
        fields.append(Field(str(name), bytes(data), part.get_filename(), kind))  # type: ignore[union-attr]
    return fields


@asynccontextmanager
async def images_api() -> AsyncIterator[ImagesApi]:
    """A server that runs."""
    server = ImagesApi()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, limit=2**30)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
    try:
        yield server
    finally:
        listening.close()
        await server.close()


def b64(image: bytes) -> str:
    return b64encode(image).decode()


USAGE: Final = {
    "input_tokens": 50,
    "output_tokens": 272,
    "total_tokens": 322,
    "input_tokens_details": {"text_tokens": 10, "image_tokens": 40},
}
OPENROUTER_USAGE: Final = {
    "prompt_tokens": 16,
    "completion_tokens": 272,
    "total_tokens": 288,
    "cost": 0.011,
}


@dataclass(frozen=True)
class Engine:
    """Answer of an engine.

    Attributes:
        answer: the JSON of an answer with one image.
        image: bytes of the image.
        item: keys of the item that the answer makes, beside id, type, status and result.
        usage: usage of the response that the answer makes.
        path: end of the base URL.
        error: status and body of a refusal.
        sentence: the sentence of the refusal.
    """

    answer: Mapping[str, Any]
    image: bytes = PNG
    item: Mapping[str, Any] = field(default_factory=dict)
    usage: Mapping[str, Any] = field(default_factory=dict)
    path: str = ""
    error: tuple[int, Any] = (400, {})
    sentence: str = ""


ENGINES: Final = {
    "openai": Engine(
        answer={
            "created": 1713833628,
            "background": "transparent",
            "data": [{"b64_json": b64(WEBP)}],
            "output_format": "webp",
            "quality": "high",
            "size": "1024x1024",
            "usage": USAGE,
        },
        image=WEBP,
        item={
            "size": "1024x1024",
            "quality": "high",
            "background": "transparent",
            "output_format": "webp",
        },
        usage=USAGE,
        error=(
            400,
            {
                "error": {
                    "message": "Your request was rejected by the safety system.",
                    "type": "image_generation_user_error",
                    "param": None,
                    "code": "moderation_blocked",
                }
            },
        ),
        sentence="Your request was rejected by the safety system.",
    ),
    "openai-dall-e": Engine(
        answer={"created": 1589478378, "data": [{"b64_json": B64, "revised_prompt": "A red fox"}]},
        item={"revised_prompt": "A red fox", "output_format": "png"},
    ),
    "openrouter": Engine(
        answer={
            "created": 1748372400,
            "data": [{"b64_json": b64(JPEG), "media_type": "image/jpeg"}],
            "usage": OPENROUTER_USAGE,
        },
        image=JPEG,
        item={"output_format": "jpeg"},
        usage={"input_tokens": 16, "output_tokens": 272, "total_tokens": 288, "cost": 0.011},
        path="/images",
        error=(402, {"error": {"code": 402, "message": "Insufficient credits"}}),
        sentence="Insufficient credits",
    ),
    "vllm-omni": Engine(
        answer={
            "created": 1701234567,
            "data": [{"b64_json": B64, "url": None, "revised_prompt": None}],
            "output_format": None,
            "size": None,
            "cot_output": None,
            "metrics": {"stage": 1},
        },
        item={"output_format": "png"},
        error=(422, {"detail": [{"loc": ["body", "size"], "msg": "size must be in format"}]}),
        sentence="size must be in format",
    ),
    "sglang": Engine(
        answer={
            "id": "0a1b",
            "created": 1760000000,
            "data": [
                {
                    "b64_json": B64,
                    "url": None,
                    "revised_prompt": "a fox",
                    "file_path": "/outputs/0a1b.png",
                }
            ],
            "peak_memory_mb": 21000.5,
            "inference_time_s": 4.2,
        },
        item={"revised_prompt": "a fox", "output_format": "png"},
        error=(400, {"detail": "response_format=jpg is not supported"}),
        sentence="response_format=jpg is not supported",
    ),
    "localai": Engine(
        answer={
            "created": 1760000000,
            "id": "5e0e",
            "data": [{"embedding": None, "index": 0, "b64_json": B64}],
            "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        },
        item={"output_format": "png"},
        usage={"input_tokens": 0, "output_tokens": 0, "total_tokens": 0},
        error=(500, {"error": {"code": 500, "message": "invalid value for 'size'", "type": ""}}),
        sentence="invalid value for 'size'",
    ),
    "stable-diffusion.cpp": Engine(
        answer={"created": 1760000000, "data": [{"b64_json": B64}], "output_format": "png"},
        item={"output_format": "png"},
        error=(400, {"error": "prompt required"}),
        sentence="prompt required",
    ),
    "a-data-url": Engine(
        answer={"created": 1, "data": [{"url": f"data:image/png;base64,{B64}"}]},
        item={"output_format": "png"},
    ),
    "a-data-url-as-base64": Engine(
        answer={"created": 1, "data": [{"b64_json": f"data:image/png;base64,{B64}"}]},
        item={"output_format": "png"},
    ),
    "unpadded-base64": Engine(
        answer={"created": 1, "data": [{"b64_json": B64.rstrip("=")}]},
        item={"output_format": "png"},
    ),
    "svg": Engine(
        answer={"created": 1, "data": [{"b64_json": b64(SVG), "media_type": "image/svg+xml"}]},
        image=SVG,
        item={"output_format": "svg"},
    ),
}
"""Answer of each engine, and forms of an image that any may send."""


def openai_events(
    kind: str, image: bytes = PNG, partials: int = 2, **completed: Any
) -> list[dict[str, Any]]:
    """Events of OpenAI's stream of one image: `kind` is image_generation or image_edit."""
    settings = {
        "background": "opaque",
        "created_at": 1620000000,
        "output_format": "png",
        "quality": "high",
        "size": "1024x1024",
    }
    partial = {"type": f"{kind}.partial_image", "b64_json": b64(image), **settings}
    return [
        *({**partial, "partial_image_index": index} for index in range(partials)),
        {"type": f"{kind}.completed", "b64_json": b64(image), **settings, "usage": USAGE}
        | completed,
    ]


STREAMS: Final[Mapping[str, bytes]] = {
    "openai": b"".join(
        f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
        for event in openai_events("image_generation")
    ),
    "openai-edit": b"".join(
        f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
        for event in openai_events("image_edit")
    ),
    "openrouter": b": OPENROUTER PROCESSING\n\n"
    + b"".join(
        f"data: {json.dumps(event)}\n\n".encode()
        for event in (
            {"type": "image_generation.partial_image", "partial_image_index": 0, "b64_json": B64},
            {"type": "image_generation.text_chunk", "phase": "reasoning", "text": "a fox"},
            {
                "type": "image_generation.completed",
                "b64_json": B64,
                "created": 1748372400,
                "usage": OPENROUTER_USAGE,
            },
        )
    )
    + b"data: [DONE]\n\n",
    "vllm-omni-edit": b"".join(
        f"data: {json.dumps(event)}\n\n".encode()
        for event in (
            {"object": "image.edit.chunk", "type": "ar_delta", "delta": "A close-up", "index": 0},
            {
                "object": "image.edit.chunk",
                "type": "image",
                "data": [{"b64_json": B64, "url": None, "revised_prompt": None}],
                "output_format": "png",
                "size": "1024x1024",
            },
        )
    )
    + b"data: [DONE]\n\n",
}
"""Stream of each engine that has one."""

PARTIALS: Final = {"openai": 2, "openai-edit": 2, "openrouter": 1, "vllm-omni-edit": 0}
"""Number of partial images of each stream."""


@asynccontextmanager
async def drawing_api(backend: Backend) -> AsyncIterator[str]:
    """URL of an Images API that draws with a backend, plain and streamed, in OpenAI's form."""
    app = aiohttp.web.Application(client_max_size=2**26)
    app.router.add_post("/v1/images/generations", partial(_drawn, backend))
    app.router.add_post("/v1/images/edits", partial(_drawn, backend))
    runner = aiohttp.web.AppRunner(app)
    await runner.setup()
    site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


async def _drawn(backend: Backend, sent: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
    keys, images = await _read_call(sent)
    request = ImageRequest(prompt=keys.pop("prompt"))
    for image in images:
        request.input_images.add(image=image)
    stream, count = keys.pop("stream", False), int(keys.pop("n", 1))
    request.tools.append(tool_from_json(json.dumps({"type": "image_generation", **keys})))
    try:
        events = [
            event
            async for event in reassemble(backend.stream_image(StreamImageRequest(request=request)))
        ]
    except ImagecallError as error:
        body = {"error": {"message": str(error), "code": "invalid_value"}}
        return aiohttp.web.json_response(body, status=400)
    made = [json.loads(event_to_json(e)) for e in events if not isinstance(e, StreamEnd)]
    partials = [event for event in made if event["type"].endswith("partial_image")]
    [item] = [event["item"] for event in made if event["type"].endswith("output_item.done")]
    settings = {key: item[key] for key in ("size", "quality", "background", "output_format")}
    final = {"b64_json": item["result"], "revised_prompt": item["revised_prompt"]}
    if not stream:
        return aiohttp.web.json_response({"created": 1, "data": [final] * count, **settings})
    answer = aiohttp.web.StreamResponse(headers={"content-type": "text/event-stream"})
    await answer.prepare(sent)
    kind = "image_edit" if images else "image_generation"
    for event in (
        *({"type": f"{kind}.partial_image", "b64_json": e["partial_image_b64"]} for e in partials),
        {"type": f"{kind}.completed", **final, **settings},
    ):
        await answer.write(f"data: {json.dumps(event)}\n\n".encode())
    return answer


async def _read_call(sent: aiohttp.web.Request) -> tuple[dict[str, Any], list[bytes]]:
    """Keys of a call, and its images."""
    if sent.content_type == "application/json":
        return await sent.json(), []
    keys: dict[str, Any] = {}
    images = []
    for each in fields_of(sent.headers["content-type"], await sent.read()):
        if each.name in ("image", "image[]"):
            images.append(each.data)
        elif each.name != "mask":
            keys[each.name] = _value(each.data.decode())
    return keys, images


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
