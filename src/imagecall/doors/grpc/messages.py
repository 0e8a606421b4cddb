"""Messages of a gRPC call: requests are read and answers written, within memory and time."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress
from contextvars import ContextVar
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar

import grpc
from google.protobuf.message import Message

from imagecall.access.admission import Admission
from imagecall.access.budget import CALL_OVERHEAD, COPIES, FACTOR, MEMORY
from imagecall.errors import ConversionError
from imagecall.generation.offload import run_offloaded
from imagecall.observing.rpc import note_received, note_sent
from imagecall.sizes import PIECE
from imagecall.wire.cost import parsed

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
REQUEST_BYTES: Final = ContextVar("REQUEST_BYTES", default=0)
"""Serialized size of the request of the current call; 0 if the call has a stream of them."""

_Message = TypeVar("_Message", bound=Message)
_Function = TypeVar("_Function", bound=Callable[..., Any])


def accepts_serialized(method: _Function) -> _Function:
    """Marks a servicer's method that accepts a serialized request, and parses it itself."""
    method.accepts_serialized = True  # type: ignore[attr-defined]
    return method


class Method:
    """Method of a servicer, looked up once for all its calls.

    Attributes:
        handler: handler that the servicer registered.
        behavior: function of the servicer.
        decode: decodes a request. Raises ConversionError for bytes that it cannot decode.
        accepts_serialized: True if the function parses its request itself.
        is_generator: True if the function yields its answers.
    """

    def __init__(self, handler: Any) -> None:
        self.handler = handler
        self.behavior: Any = (
            handler.stream_stream
            or handler.stream_unary
            or handler.unary_stream
            or handler.unary_unary
        )
        self.decode: Callable[[bytes], Any] = partial(
            request_of, handler.request_deserializer.__self__
        )
        self._serialize: Callable[[Any], bytes] = handler.response_serializer
        self.accepts_serialized = hasattr(self.behavior, "accepts_serialized")
        self.is_generator = inspect.isasyncgenfunction(self.behavior)

    def encode(self, response: Any) -> bytes:
        """Encodes an answer, unless it is serialized already."""
        return response if isinstance(response, bytes) else self._serialize(response)


async def read_request(method: Method, context: Context, admission: Admission) -> Any:
    """Reads the only request of a call; decodes a large one in a worker thread.

    gRPC does not reveal how much of a message has arrived, so a message that arrives slowly counts
    as one of the largest size.
    """
    memory = MEMORY.get()
    with memory.part() as part:
        add_largest = partial(part.add, admission.limits.json_bytes)
        async with admission.waits.wait(when_slow=add_largest):
            data = await read_message(context)
    note_received(len(data))
    REQUEST_BYTES.set(len(data))
    memory.add(FACTOR * len(data))
    if method.accepts_serialized:
        return data
    return await run_offloaded(len(data), method.decode, data)


async def read_requests(
    method: Method, context: Context, admission: Admission
) -> AsyncIterator[Any]:
    """Reads and decodes the requests of a stream."""
    while True:
        async with admission.waits.wait():
            data: Any = await context.read()
        if data is grpc.aio.EOF:
            return
        note_received(len(data))
        if len(data) < PIECE:
            yield method.decode(data)
            continue
        with MEMORY.get().part() as part:
            part.add(FACTOR * len(data))
            yield await run_offloaded(len(data), method.decode, data)


async def read_message(context: Context) -> bytes:
    """Reads the only request of a call. Raises ConversionError if there is none."""
    data: Any = await context.read()
    if data is grpc.aio.EOF:
        raise ConversionError("MALFORMED_PROTOBUF", "", "the call ended without a request")
    serialized: bytes = data
    return serialized


async def answer(
    method: Method, request: Any, context: Context, admission: Admission
) -> bytes | None:
    """Runs a method; returns its serialized answer, or writes a stream of answers."""
    if not method.is_generator:
        response = await method.behavior(request, context)
        if response is None:  # The method wrote its answers itself.
            return None
        data = method.encode(response)
        memory = MEMORY.get()
        await memory.grow(CALL_OVERHEAD + COPIES * len(data) - memory.size)
        return data
    async with aclosing(method.behavior(request, context)) as responses:
        async for response in responses:
            await _write(context, method.encode(response), admission)
    return None


async def drop_rest(context: Context, seconds: float) -> None:
    """Reads and drops the remaining requests of a client, for at most `seconds`.

    A client of grpc.aio that is sending when its call ends gets INTERNAL in place of the status.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while await context.read() is not grpc.aio.EOF:
                pass


def request_of(kind: type[_Message], data: bytes) -> _Message:
    """Parses a request of a type. Raises ConversionError, such as for malformed bytes."""
    return parsed(kind, data, "request")


async def _write(context: Context, data: bytes, admission: Admission) -> None:
    """Sends an answer of a stream: waits until it fits into memory, and until the client has it.

    If the client has disconnected, the call ends as cancelled instead of failed.
    """
    note_sent(len(data))
    try:
        with MEMORY.get().part() as part:
            if len(data) >= PIECE:
                await part.grow(COPIES * len(data))
            async with admission.waits.wait(answered=True):
                await context.write(data)
    except grpc.aio.InternalError:
        raise asyncio.CancelledError from None
