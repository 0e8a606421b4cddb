"""A gRPC backend that answers with the bytes, the status and the metadata that a test wants."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status

from imagecall.conversion.converter import event_from_json
from imagecall.generation.assembly import StreamItem
from imagecall.generation.parts import in_parts
from imagecall.generation.response import end_of, response_from_json
from imagecall.v1.image_generation_service_pb2 import StreamImageRequest, StreamImageResponse
from imagecall.wire.chunks import RawChunk
from tests.streams import PNG, Event, happy, item, message_of, messages_of, response

Metadata = tuple[tuple[str, str | bytes], ...]
FIELD = "output_item_done_event.item.output_image_generation_call.result.image"


@dataclass
class Misbehaving:
    """Server that answers each call with messages, then a status or silence.

    `calls` counts the calls; `left` is set once a call was cancelled.
    """

    messages: Iterable[Message | bytes] = ()
    code: grpc.StatusCode = grpc.StatusCode.OK
    text: str = ""
    status: Status | None = None
    initial: Metadata = ()
    trailing: Metadata = ()
    hangs: bool = False
    address: str = ""
    calls: int = 0
    left: asyncio.Event = field(default_factory=asyncio.Event)
    metadata: Any = ()
    then: Callable[[], Awaitable[None]] | None = None

    async def answer(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        self.calls += 1
        self.metadata = context.invocation_metadata()
        if self.initial:
            await context.send_initial_metadata(self.initial)
        context.set_trailing_metadata(self.trailing)
        for message in self.messages:
            yield message if isinstance(message, bytes) else message.SerializeToString()
        if self.then:
            await self.then()
        if self.hangs:
            try:
                await asyncio.Event().wait()
            finally:
                self.left.set()
        if self.code is not grpc.StatusCode.OK:
            details: Metadata = ()
            if self.status:
                details = (("grpc-status-details-bin", self.status.SerializeToString()),)
            await context.abort(self.code, self.text, (*self.trailing, *details))


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, backend: Misbehaving) -> None:
        self._handler: Any = grpc.unary_stream_rpc_method_handler(backend.answer)

    def service(self, handler_call_details: Any) -> Any:
        return self._handler


@asynccontextmanager
async def running(backend: Misbehaving) -> AsyncIterator[Misbehaving]:
    """The backend, on a port."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Handler(backend),))
    backend.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield backend
    finally:
        await server.stop(0)


def stream(
    image: bytes = PNG, events: list[Event] | None = None, ending: int = 1
) -> list[StreamImageResponse]:
    """The messages of a stream that is right."""
    found = events or happy(image)[:-1]
    end = end_of(
        response_from_json(json.dumps(response(item(image)))),
        ending,
        StreamImageRequest(),
        lambda *_: True,
    )
    items: list[StreamItem] = [*(event_from_json(json.dumps(event)) for event in found), end]
    return [message for each in items for part in in_parts(each) for message in messages_of(part)]


def chunk(offset: int, data: bytes, **end: Any) -> StreamImageResponse:
    """A chunk; the last one if it has an end."""
    message = message_of(RawChunk(offset, data))
    for name, value in end.items():
        setattr(message.chunk.end, name, value)
    return message
