"""Guards every gRPC method: admission, memory, and the status of failures.

Each method is registered with gRPC as client-streaming, which is the same on the wire: so the
boundary reads a request only after admission, and gRPC's core buffers at most 64 KiB of the request
of a refused call.

A request that cannot be decoded, and every exception of the package, becomes a status by
imagecall.rpc.status. Every other exception becomes INTERNAL with a number that the log line has
too; no class name, path or traceback leaves the server, and no exception's message reaches the log.
"""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Final, NoReturn, TypeAlias

import grpc

from imagecall.access.admission import Admission
from imagecall.access.budget import CALL_OVERHEAD, MEMORY, Memory
from imagecall.access.waits import Waits
from imagecall.doors.grpc.messages import (
    Context,
    Method,
    answer,
    drop_rest,
    read_message,
    read_request,
    read_requests,
)
from imagecall.doors.grpc.watches import Watches
from imagecall.doors.internal_error import internal_error
from imagecall.errors import ConversionError, GenerationError, ImagecallError
from imagecall.observing.observer import Observer, note_caller, note_failure, note_refusal
from imagecall.observing.request_id import HEADER
from imagecall.observing.rpc import METADATA, identify, is_generation, observed
from imagecall.rpc.headers import Metadata
from imagecall.rpc.status import code_of, trailers_of

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
"""Handler of a method. None: the method does not exist."""

_REST_SECONDS: Final = 0.5
"""Longest time for reading the rest of a request stream that is refused in its middle."""

_REFUSED_SECONDS: Final = 0.02
"""Longest time for reading the requests of a call that admission refused."""

_OPEN_SECONDS: Final = 5.0
_MAX_OPEN_BYTES: Final = 64 * 1024
"""Longest wait for the request of a method without admission, and its largest size."""

_OPEN_METHODS: Final = "/grpc.health.v1.Health/"
"""Prefix of the methods that need no admission, even if the server is busy."""


async def _abort(context: Context, error: ImagecallError) -> NoReturn:
    try:
        trailers = trailers_of(error)
    except Exception as fault:  # grpcio would send the text of any exception to the client.
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
    if isinstance(error, NotImplementedError):  # grpcio raises it for Health.List, and the like.
        await _end(context, grpc.StatusCode.UNIMPLEMENTED, "the method is not implemented")
    failure = error if isinstance(error, ImagecallError) else internal_error(error)
    _clear_tracebacks(error)
    await _abort(context, failure)


def _clear_tracebacks(error: BaseException) -> None:
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


class Boundary(grpc.GenericRpcHandler):
    """Handles every method of a server with the handlers that servicers have added.

    The generated functions add servicers to a boundary as they do to a server. A boundary is no
    interceptor, as grpcio builds new handlers for each call of a server that has interceptors.
    """

    def __init__(self, admission: Admission, observer: Observer | None = None) -> None:
        self._admission = admission
        self._observer = observer
        self._handlers: dict[str, Handler] = {}
        self._watches = Watches()
        self._open_waits = Waits(_OPEN_SECONDS)
        self.stopping = asyncio.Event()
        """Ends, once set, the calls that watch the health, which never end by themselves."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Adds the handlers of a service, by the names of its methods."""
        for name, handler in handlers.items():
            path, method = f"/{service}/{name}", Method(handler)
            if path.startswith(_OPEN_METHODS):
                self._handlers[path] = self._without_admission(method)
            else:
                self._handlers[path] = _with_admission(
                    method, path, self._admission, self._observer
                )

    def _without_admission(self, method: Method) -> Handler:
        """Guards a method without admission; its calls end when the server stops."""
        is_watch = method.handler.response_streaming

        async def guarded(_: Any, context: Context) -> Any:
            try:
                with self._watches.watch(context) if is_watch else nullcontext():
                    work = self._open_work(method, context)
                    return await _until(self.stopping, work, context)
            except grpc.aio.InternalError:  # grpcio's servicer answers a client that has left.
                raise asyncio.CancelledError from None
            except Exception as error:  # grpcio would send the text of any exception.
                await _refuse(context, error)

        return _rebuilt(method, guarded)

    async def _open_work(self, method: Method, context: Context) -> Any:
        """Reads the request of a call without admission, of a low size limit, and answers it."""
        async with self._open_waits.wait():
            data = await read_message(context)
        if len(data) > _MAX_OPEN_BYTES:
            message = f"the request has {len(data):,} bytes; the limit is {_MAX_OPEN_BYTES:,}"
            raise ConversionError("TOO_LARGE", "", message)
        return await answer(method, method.decode(data), context, self._admission)

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Adds nothing: generated functions also register each handler by method."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler:
        """Returns the handler of a call that begins in this task; None for an unknown method."""
        details: Any = handler_call_details
        METADATA.set(details.invocation_metadata or ())
        return self._handlers.get(details.method)


def _with_admission(
    method: Method, path: str, admission: Admission, observer: Observer | None
) -> Handler:
    """Guards a method with admission, and records its calls with the observer."""

    async def guarded(_: Any, context: Context) -> Any:
        MEMORY.set(_memory(admission, context))
        rest_seconds = _REFUSED_SECONDS
        try:
            _enter(admission)
            rest_seconds = _REST_SECONDS
            return await _in_progress(method, context, admission)
        except Exception as error:  # grpcio would send the text of any exception.
            if isinstance(error, GenerationError) and not is_generation(path):
                error.may_be_billed = False  # A conversion, or a stored response, costs nothing.
            if method.handler.request_streaming:
                await drop_rest(context, rest_seconds)
            await _refuse(context, error)

    return _rebuilt(method, observed(path, guarded, observer) if observer else guarded)


def _memory(admission: Admission, context: Context) -> Memory:
    """Returns the memory of a call, which is released once the call ends."""
    memory = admission.budget.memory()

    release: Any = lambda _: memory.release()  # noqa: E731  # grpcio's type for it is wrong
    context.add_done_callback(release)
    return memory


def _enter(admission: Admission) -> None:
    """Admits the current call. Raises ImagecallError if admission refuses the call."""
    try:
        admission.check_metadata(METADATA.get())
        note_caller(admission.enter(_authorization() if admission.needs_token else ""))
    except ImagecallError as error:
        note_refusal(error)
        raise


async def _in_progress(method: Method, context: Context, admission: Admission) -> bytes | None:
    """Answers an admitted call within the time limit, then releases its admission.

    Returns the serialized answer; None for a stream of answers, which is written.
    """
    try:
        async with asyncio.timeout(None) as limit:
            admission.time_limits.start(limit)
            MEMORY.get().add(CALL_OVERHEAD)
            if method.handler.request_streaming:
                request: Any = read_requests(method, context, admission)
            else:
                request = await read_request(method, context, admission)
            return await answer(method, request, context, admission)
    except TimeoutError:
        if limit.expired():
            raise admission.too_long() from None
        raise
    finally:
        admission.time_limits.stop(limit)
        admission.leave()


def _rebuilt(method: Method, behavior: Any) -> Handler:
    """Returns a handler whose behavior reads and writes serialized messages itself."""
    if method.handler.response_streaming:
        return grpc.stream_stream_rpc_method_handler(behavior, None, method.encode)
    return grpc.stream_unary_rpc_method_handler(behavior)


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


def _authorization() -> str:
    metadata: Any = METADATA.get()
    return next((value for key, value in metadata if key == "authorization"), "")
