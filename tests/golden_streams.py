"""Streams of tests/cases/streams: right answers to StreamImage.

`python -m tests.golden_streams` writes the files anew, from the answers of the embedded backend.
The drawn images, and the times in the response, differ from one day and one Pillow to another: an
answer of today is compared without them.
"""

import asyncio
import io
import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import grpc
from google.protobuf import json_format
from google.protobuf.proto import parse_length_prefixed, serialize_length_prefixed

from imagecall.backends.embedded.backend import EmbeddedBackend
from imagecall.doors.grpc.server import GrpcServer
from imagecall.v1.image_generation_service_pb2 import StreamImageRequest, StreamImageResponse
from imagecall.v1.image_generation_service_pb2_grpc import ImageGenerationServiceStub

ROOT: Final = Path(__file__).parent / "cases/streams"
_TIMES: Final = re.compile(r'("(?:created|completed)_at":)\d+')
_TIME: Final = r"\g<1>1758030932"
_SMALL_CHUNK: Final = 100

Stream = Sequence[StreamImageResponse]


def _request(partial_images: int = 0, **fields: Any) -> dict[str, Any]:
    tool: dict[str, Any] = {"size": "16x16", "output_format": "png"}
    tool |= {"partial_images": partial_images} if partial_images else {}
    extra = [{"name": name, "json": text} for name, text in fields.pop("extra", {}).items()]
    request = {"prompt": "a red fox", "tools": [{"image_generation_tool": tool}]}
    return {"request": request | ({"extra_fields": extra} if extra else {})} | fields


_WHOLE: Final = {"include_document": True, "include_other_events": True}

REQUESTS: Final = {
    "one_image": _request(),
    "several_chunks": _request(),
    "partial_images": _request(2),
    "everything": _request(1, **_WHOLE),
    "failed": _request(extra={"embedded": '{"ending":"failed"}'}),
    "incomplete": _request(extra={"embedded": '{"ending":"incomplete"}'}),
    "unannounced": _request(extra={"embedded": '{"ending":"none"}'}),
    "no_image": _request(extra={"tool_choice": '"none"'}, **_WHOLE),
}
"""Request of each stream, in ProtoJSON with the names of the .proto files."""


@asynccontextmanager
async def _stub() -> AsyncIterator[Any]:
    server = GrpcServer("127.0.0.1:0", EmbeddedBackend())
    async with grpc.aio.insecure_channel(await server.start()) as channel:
        yield ImageGenerationServiceStub(channel)
    await server.stop(0)


async def answers() -> dict[str, Stream]:
    """Answers of our server to the requests today."""
    async with _stub() as stub:
        return {name: await _answer(stub, name) for name in REQUESTS}


async def _answer(stub: Any, name: str) -> Stream:
    request = json_format.ParseDict(REQUESTS[name], StreamImageRequest())
    messages = [_timeless(message) async for message in stub.StreamImage(request)]
    return list(_recut(messages)) if name == "several_chunks" else messages


def _timeless(message: StreamImageResponse) -> StreamImageResponse:
    """Replaces the times by a fixed one."""
    document, event = message.end.response.document, message.event.unknown_item
    if document.json:
        document.json = _TIMES.sub(_TIME, document.json)
    if event.json:
        event.json = _TIMES.sub(_TIME, event.json)
    return message


def _recut(messages: Stream) -> list[StreamImageResponse]:
    """Cuts chunks into smaller ones: servers choose the size."""
    cut: list[StreamImageResponse] = []
    for message in messages:
        chunk = message.chunk
        data = chunk.data
        for offset in range(0, len(data), _SMALL_CHUNK):
            part = StreamImageResponse()
            part.chunk.offset = chunk.offset + offset
            part.chunk.data = data[offset : offset + _SMALL_CHUNK]
            if offset + _SMALL_CHUNK >= len(data):
                part.chunk.end.CopyFrom(chunk.end)
            cut.append(part)
        if not data:
            cut.append(message)
    return cut


def comparable(stream: Stream) -> list[Any]:
    """The messages as ProtoJSON without the images: consecutive chunks as one, without bytes."""
    messages = [json_format.MessageToDict(message) for message in stream]
    for message in messages:
        chunk = message.get("chunk", {})
        for name in ("data", "offset"):
            chunk.pop(name, None)
        for name in ("size", "sha256"):
            chunk.get("end", {}).pop(name, None)
    return [message for message in messages if message != {"chunk": {}}]


def read(name: str) -> Stream:
    """The messages of a file."""
    source = io.BytesIO((ROOT / name / "messages.delimited").read_bytes())
    messages = []
    while (message := parse_length_prefixed(StreamImageResponse, source)) is not None:
        messages.append(message)
    return messages


def files_of(name: str, stream: Stream) -> dict[str, bytes]:
    """The files of a stream: the request, the messages, and the messages again to be read."""
    output = io.BytesIO()
    for message in stream:
        serialize_length_prefixed(message, output)
    request = json_format.ParseDict(REQUESTS[name], StreamImageRequest())
    return {
        "request.json": _shown(json_format.MessageToDict(request)),
        "messages.delimited": output.getvalue(),
        "messages.json": _shown([json_format.MessageToDict(message) for message in stream]),
    }


def _shown(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def main() -> None:
    """Writes the files anew."""
    for name, stream in asyncio.run(answers()).items():
        directory = ROOT / name
        directory.mkdir(parents=True, exist_ok=True)
        for file, data in files_of(name, stream).items():
            (directory / file).write_bytes(data)


if __name__ == "__main__":
    main()
