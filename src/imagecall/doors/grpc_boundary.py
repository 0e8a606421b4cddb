"""What is true of every gRPC method: how requests are decoded, and how failures become statuses.

A request that is no message of its type, and every exception of the package, becomes a status as
imagecall.grpc_status says. What nobody foresaw becomes INTERNAL with a number that stands in the
log too; no class name, path or traceback leaves the server, and no message reaches the log.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any, NoReturn, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from imagecall.doors.unforeseen import unforeseen
from imagecall.errors import ImagecallError, malformed
from imagecall.grpc_status import code_of, trailers_of

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
"""What handles a method. None: there is no such method."""


async def _abort(context: Context, error: ImagecallError) -> NoReturn:
    try:
        trailers = trailers_of(error)
    except Exception as fault:  # So that nothing of it is told to the client.
        error = unforeseen(fault)
        trailers = trailers_of(error)
    await context.abort(code_of(error), str(error), trailers)


@asynccontextmanager
async def _failures_as_statuses(context: Context) -> AsyncIterator[None]:
    try:
        yield
    except ImagecallError as error:
        await _abort(context, error)
    except grpc.aio.AbortError:
        raise
    except NotImplementedError:  # What grpcio's own servicers raise, such as Health for List.
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "the method is not implemented")
    except Exception as error:  # So that nothing of it is told to the client.
        await _abort(context, unforeseen(error))


class BoundaryInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler of the server; see the module."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        handler = await continuation(handler_call_details)
        return handler and _wrap(handler)


def _wrap(handler: Any) -> Handler:
    decode = _decoder(handler)
    requests = _decoded if handler.request_streaming else _decoded_one
    make: Any = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[handler.request_streaming, handler.response_streaming]
    behavior: Any = (
        handler.stream_stream or handler.stream_unary or handler.unary_stream or handler.unary_unary
    )

    async def one(data: Any, context: Context) -> Any:
        async with _failures_as_statuses(context):
            return await behavior(requests(data, decode), context)

    async def many(data: Any, context: Context) -> None:
        async with _failures_as_statuses(context), AsyncExitStack() as stack:
            responses = behavior(requests(data, decode), context)
            await stack.enter_async_context(aclosing(responses))
            async for response in responses:
                await _write(context, response)

    wrapped = many if inspect.isasyncgenfunction(behavior) else one
    rebuilt: Handler = make(wrapped, None, _encoder(handler))
    return rebuilt


def _decoder(handler: Any) -> Callable[[bytes], Any]:
    """The handler's own decoding, with a ConversionError for bytes that are not its message."""
    own = handler.request_deserializer

    def decode(data: bytes) -> Any:
        try:
            return own(data) if own else data
        except DecodeError:
            raise malformed("request") from None

    return decode


async def _write(context: Context, response: Any) -> None:
    """Sends a response. If the client has gone, the call is cancelled: no fault of ours."""
    try:
        await context.write(response)
    except grpc.aio.InternalError:
        raise asyncio.CancelledError from None


def _encoder(handler: Any) -> Callable[[Any], bytes]:
    """The handler's own encoding, for responses that are not serialized already."""
    own = handler.response_serializer

    def encode(response: Any) -> bytes:
        data: bytes = response if isinstance(response, bytes) else own(response)
        return data

    return encode


def _decoded_one(data: bytes, decode: Callable[[bytes], Any]) -> Any:
    return decode(data)


async def _decoded(
    data: AsyncIterator[bytes], decode: Callable[[bytes], Any]
) -> AsyncIterator[Any]:
    async for message in data:
        yield decode(message)
