"""Guards every gRPC method: admission, decoding of requests, and the status of failures.

A request that cannot be decoded, and every exception of the package, becomes a status by
imagecall.rpc.status. Every other exception becomes INTERNAL with a number that the log has too;
no class name, path or traceback leaves the server, and no exception's message reaches the log.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from contextvars import ContextVar
from functools import partial
from typing import Any, Final, NoReturn, TypeAlias, TypeVar

import grpc
from google.protobuf.message import Message

from imagecall.access.admission import Admission
from imagecall.doors.internal_error import internal_error
from imagecall.doors.offload import run_offloaded
from imagecall.errors import ImagecallError
from imagecall.observing.observer import Observer, note_caller, note_failure, note_refusal
from imagecall.observing.request_id import HEADER
from imagecall.observing.rpc import (
    METADATA,
    counted_in,
    counted_out,
    identify,
    observed,
)
from imagecall.rpc.headers import Metadata
from imagecall.rpc.status import code_of, trailers_of
from imagecall.wire.cost import parsed

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
REQUEST_BYTES: Final = ContextVar("REQUEST_BYTES", default=0)
"""Serialized size of the latest request of the current call, if the call has a stream of them."""

_Message = TypeVar("_Message", bound=Message)
_Method = TypeVar("_Method", bound=Callable[..., Any])

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
"""Handler of a method. None: the method does not exist."""

_REST_SECONDS: Final = 0.5
"""Longest time for reading the rest of a request stream that is refused in its middle."""

_UNSEEN_SECONDS: Final = 0.02
"""Longest time for reading the requests of a call that admission refused."""

_OPEN_METHODS: Final = "/grpc.health.v1.Health/"
"""Prefix of the methods that need no admission, even if the server is busy."""


async def _abort(context: Context, error: ImagecallError) -> NoReturn:
    try:
        trailers = trailers_of(error)
    except Exception as fault:  # grpcio would send its text to the client.
        error = internal_error(fault)
        trailers = trailers_of(error)
    note_failure(error)
    trailers = (*trailers, (HEADER, identify()))
    await _end(context, code_of(error), str(error), trailers)


async def _end(
    context: Context, code: grpc.StatusCode, details: str, trailers: Metadata = ()
) -> NoReturn:
    """Ends a call with a status; cancels the call if the client has disconnected."""
    try:
        await context.abort(code, details, trailers)
    except grpc.aio.InternalError:
        raise asyncio.CancelledError from None


async def _refuse(context: Context, error: Exception) -> NoReturn:
    """Ends a call with the status of an exception that its handler raised."""
    if isinstance(error, grpc.aio.AbortError):
        raise error
    identify()
    if isinstance(error, NotImplementedError):  # Such as Health.List of grpcio.
        await _end(context, grpc.StatusCode.UNIMPLEMENTED, "the method is not implemented")
    failure = error if isinstance(error, ImagecallError) else internal_error(error)
    _let_go(error)
    await _abort(context, failure)


def _let_go(error: BaseException) -> None:
    """Clears the frames of an error's traceback, which may hold a large request.

    An exception that ends a call is part of a reference cycle, and would keep the frames' objects
    until the next garbage collection.
    """
    pending: list[BaseException | None] = [error]
    cleared: set[int] = set()
    while pending:
        exception = pending.pop()
        if exception is not None and id(exception) not in cleared:
            cleared.add(id(exception))
            exception.__traceback__ = None
            pending += exception.__cause__, exception.__context__


def accepts_serialized(method: _Method) -> _Method:
    """Marks a servicer's method that accepts a serialized request, and parses it itself."""
    method.accepts_serialized = True  # type: ignore[attr-defined]
    return method


class Boundary(grpc.GenericRpcHandler):
    """Handles every method of a server with the handlers that servicers have added.

    The generated functions add servicers to a boundary as they do to a server. A boundary is no
    interceptor, as grpcio builds new handlers for each call of a server that has interceptors.
    """

    def __init__(self, admission: Admission, observer: Observer | None = None) -> None:
        self._admission = admission
        self._observer = observer
        self._handlers: dict[str, Handler] = {}
        self.stopping = asyncio.Event()
        """Ends, once set, the calls that have no end of their own: those that watch the health."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Adds the handlers of a service, by the names of its methods."""
        for name, handler in handlers.items():
            method = f"/{service}/{name}"
            if method.startswith(_OPEN_METHODS):
                self._handlers[method] = _open(handler, self.stopping)
            else:
                self._handlers[method] = _admitted(handler, method, self._admission, self._observer)

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Adds nothing: generated functions also register each handler by method."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler:
        """Returns the handler of a call that begins in this task; None for an unknown method."""
        details: Any = handler_call_details
        METADATA.set(details.invocation_metadata or ())
        return self._handlers.get(details.method)


def _open(handler: Any, stopping: asyncio.Event) -> Handler:
    """Guards a method without admission; its calls end when the server stops."""
    work = _work(handler, counts=False)

    async def guarded(data: Any, context: Context) -> Any:
        try:
            return await _until(stopping, work(data, context), context)
        except Exception as error:  # Each becomes a status; an unforeseen one reveals nothing.
            await _refuse(context, error)

    return _rebuilt(handler, guarded, _encoder(handler))


def _admitted(
    handler: Any, method: str, admission: Admission, observer: Observer | None
) -> Handler:
    """Guards a method with admission, and records its calls with the observer."""
    work = _work(handler, counts=bool(observer))

    async def guarded(data: Any, context: Context) -> Any:
        rest_seconds = _UNSEEN_SECONDS
        try:
            _enter(admission)
            rest_seconds = _REST_SECONDS
            return await _in_progress(admission, work(data, context))
        except Exception as error:  # Each becomes a status; an unforeseen one reveals nothing.
            if handler.request_streaming:
                await _take_rest(data, rest_seconds)
            del data  # See _let_go.
            await _refuse(context, error)

    encode = _encoder(handler)
    if not observer:
        return _rebuilt(handler, guarded, encode)
    write = counted_out(encode) if handler.response_streaming else encode
    return _rebuilt(handler, observed(method, guarded, encode, observer), write)


def _enter(admission: Admission) -> None:
    """Admits the current call. Raises ImagecallError if admission refuses the call."""
    try:
        admission.check_metadata(METADATA.get())
        note_caller(admission.enter(_authorization() if admission.asks else ""))
    except ImagecallError as error:
        note_refusal(error)
        raise


async def _in_progress(admission: Admission, work: Awaitable[Any]) -> Any:
    """Awaits the work of an admitted call within the time limit, then releases its admission."""
    try:
        async with asyncio.timeout(admission.limits.call_seconds) as limit:
            return await work
    except TimeoutError:
        if limit.expired():
            raise admission.too_long() from None
        raise
    finally:
        admission.leave()


def _work(handler: Any, counts: bool) -> Callable[[Any, Context], Awaitable[Any]]:
    """Returns a method's work: decode the request, run the handler, write a stream's answers."""
    behavior: Any = (
        handler.stream_stream or handler.stream_unary or handler.unary_stream or handler.unary_unary
    )
    read_request = _given(handler, behavior, counts)

    async def one(data: Any, context: Context) -> Any:
        return await behavior(await read_request(data), context)

    async def many(data: Any, context: Context) -> None:
        async with aclosing(behavior(await read_request(data), context)) as responses:
            async for response in responses:
                await _write(context, response)

    return many if inspect.isasyncgenfunction(behavior) else one


def _rebuilt(handler: Any, behavior: Any, encode: Callable[[Any], bytes]) -> Handler:
    """Returns a copy of the handler with another behavior, which accepts serialized requests."""
    make: Any = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[handler.request_streaming, handler.response_streaming]
    rebuilt: Handler = make(behavior, None, encode)
    return rebuilt


async def _until(stopping: asyncio.Event, work: Awaitable[Any], context: Context) -> Any:
    """Awaits the work, or cancels the work when the server stops."""
    working, stop = asyncio.ensure_future(work), asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({working, stop}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            await _end(context, grpc.StatusCode.UNAVAILABLE, "the server stops")
        return await working
    finally:
        working.cancel()
        stop.cancel()


async def _take_rest(data: AsyncIterator[bytes], seconds: float) -> None:
    """Reads and drops the remaining requests of a client, for at most `seconds`.

    A client of grpc.aio that is sending when its call ends gets INTERNAL in place of the status.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            async for _ in data:
                pass


def _authorization() -> str:
    metadata: Any = METADATA.get()
    return next((value for key, value in metadata if key == "authorization"), "")


def _decoder(handler: Any) -> Callable[[bytes], Any]:
    """Returns the handler's decoder, with a ConversionError for bytes that it cannot decode."""
    return partial(request_of, handler.request_deserializer.__self__)


def request_of(kind: type[_Message], data: bytes) -> _Message:
    """Parses a request of a type. Raises ConversionError, such as for malformed bytes."""
    return parsed(kind, data, "request")


async def _write(context: Context, response: Any) -> None:
    """Sends a response. If the client has disconnected, the call is cancelled, not failed."""
    try:
        await context.write(response)
    except grpc.aio.InternalError:
        raise asyncio.CancelledError from None


def _encoder(handler: Any) -> Callable[[Any], bytes]:
    """Returns the handler's encoder, which passes on responses that are serialized already."""
    own = handler.response_serializer

    def encode(response: Any) -> bytes:
        data: bytes = response if isinstance(response, bytes) else own(response)
        return data

    return encode


def _given(handler: Any, behavior: Any, counts: bool) -> Callable[[Any], Awaitable[Any]]:
    """Returns the function that decodes a call's request, a large one in a worker thread."""
    decode = _decoder(handler)

    async def as_it_is(data: bytes) -> bytes:
        return data

    async def one(data: bytes) -> Any:
        return await run_offloaded(len(data), decode, data)

    async def stream(data: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        return _decoded(data, counted_in(decode) if counts else decode)

    if handler.request_streaming:
        return stream
    return as_it_is if hasattr(behavior, "accepts_serialized") else one


async def _decoded(
    data: AsyncIterator[bytes], decode: Callable[[bytes], Any]
) -> AsyncIterator[Any]:
    async for message in data:
        REQUEST_BYTES.set(len(message))
        yield await run_offloaded(len(message), decode, message)
