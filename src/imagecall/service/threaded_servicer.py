"""Servicer for a server with threads; the backend runs on an event loop in a thread of its own."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import CancelledError
from functools import cache
from threading import Thread
from typing import Any, NoReturn, TypeVar

import grpc

from imagecall.doors.grpc.services import call_context
from imagecall.doors.internal_error import internal_error
from imagecall.errors import ImagecallError
from imagecall.generation.backend import (
    Backend,
    SmallPart,
    UnaryAnswer,
    WholeAnswer,
    WithResponse,
)
from imagecall.generation.call_context import CALL
from imagecall.generation.own_task import in_own_task
from imagecall.generation.parts import in_chunks
from imagecall.generation.stored_responses import stored_responses_of
from imagecall.rpc.status import code_of, trailers_of
from imagecall.v1.image_generation_service_pb2 import (
    CancelImageResponseRequest,
    CancelImageResponseResponse,
    DeleteImageResponseRequest,
    DeleteImageResponseResponse,
    GenerateImageRequest,
    GenerateImageResponse,
    GetImageResponseRequest,
    GetImageResponseResponse,
    StreamImageRequest,
    StreamImageResponse,
)
from imagecall.v1.image_generation_service_pb2_grpc import ImageGenerationServiceServicer
from imagecall.wire.chunks import RawChunk

_T = TypeVar("_T")


class ThreadedServicer(ImageGenerationServiceServicer):
    """imagecall.v1.ImageGenerationService for grpc.server()."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._stored = stored_responses_of(backend)

    def GenerateImage(
        self, request: GenerateImageRequest, context: grpc.ServicerContext
    ) -> GenerateImageResponse:
        return _message_of(context, lambda: self._backend.generate_image(request))

    def GetImageResponse(
        self, request: GetImageResponseRequest, context: grpc.ServicerContext
    ) -> GetImageResponseResponse:
        return _message_of(context, lambda: self._stored.get_image_response(request))

    def CancelImageResponse(
        self, request: CancelImageResponseRequest, context: grpc.ServicerContext
    ) -> CancelImageResponseResponse:
        return _message_of(context, lambda: self._stored.cancel_image_response(request))

    def DeleteImageResponse(
        self, request: DeleteImageResponseRequest, context: grpc.ServicerContext
    ) -> DeleteImageResponseResponse:
        return _answer(context, lambda: self._stored.delete_image_response(request))

    def StreamImage(
        self, request: StreamImageRequest, context: grpc.ServicerContext
    ) -> Iterator[StreamImageResponse]:
        call = _Call(context)
        parts = in_own_task(self._backend.stream_image(request))
        try:
            while (part := call.run(lambda: anext(parts, None))) is not None:
                yield from map(_message, in_chunks(part))
        except Exception as error:
            _abort(context, error)
        finally:
            asyncio.run_coroutine_threadsafe(parts.aclose(), _loop())


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """Event loop of this process for the backends of servers with threads."""
    loop = asyncio.new_event_loop()
    Thread(target=loop.run_forever, name="imagecall-backends", daemon=True).start()
    return loop


class _Call:
    """Call that a thread serves, and whose work runs on the loop."""

    def __init__(self, context: grpc.ServicerContext) -> None:
        metadata: Any = context.invocation_metadata()
        self._context = call_context(metadata, context.time_remaining())
        self._task: asyncio.Task[Any] | None = None
        self._is_over = not context.add_callback(self._end)

    def run(self, work: Callable[[], Awaitable[_T]]) -> _T:
        """Awaits work on the loop; the end of the call, such as its deadline, cancels the work."""
        return asyncio.run_coroutine_threadsafe(self._run(work), _loop()).result()

    async def _run(self, work: Callable[[], Awaitable[_T]]) -> _T:
        if self._is_over:
            raise asyncio.CancelledError
        self._task = asyncio.current_task()
        CALL.set(self._context)
        return await work()

    def _end(self) -> None:
        _loop().call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        self._is_over = True
        if self._task is not None:
            self._task.cancel()


def _answer(context: grpc.ServicerContext, work: Callable[[], Awaitable[_T]]) -> _T:
    """Returns the answer of a unary method, or ends its call with a status."""
    try:
        return _Call(context).run(work)
    except Exception as error:
        _abort(context, error)


def _message_of(
    context: grpc.ServicerContext, work: Callable[[], Awaitable[UnaryAnswer[WithResponse]]]
) -> WithResponse:
    """Returns the answer as a message, in which the thread of the call puts the images."""
    return WholeAnswer.of(_answer(context, work)).whole()


def _message(part: SmallPart) -> StreamImageResponse:
    if isinstance(part, RawChunk):
        return StreamImageResponse(chunk=part.message())
    return StreamImageResponse.FromString(part) if isinstance(part, bytes) else part


def _abort(context: grpc.ServicerContext, error: Exception) -> NoReturn:
    """Ends a call with the status of an exception of its work."""
    if isinstance(error, CancelledError):
        context.abort(grpc.StatusCode.CANCELLED, "the call was cancelled")
    known = error if isinstance(error, ImagecallError) else internal_error(error)
    context.set_trailing_metadata(trailers_of(known))
    context.abort(code_of(known), str(known))
