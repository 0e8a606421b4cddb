"""The services of proto/imagecall/v1 as grpcio's servicers."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Final, TypeVar

import grpc
from google.protobuf.message import Message

from imagecall.access.budget import CALL_OVERHEAD, COPIES, MEMORY
from imagecall.access.limits import Limits
from imagecall.conversion.batch import (
    CallStream,
    Count,
    batches,
    format_call,
    format_document,
    parse_call,
    parse_document,
    uncounted,
)
from imagecall.doors.grpc.messages import (
    REQUEST_BYTES,
    Context,
    accepts_serialized,
    request_of,
)
from imagecall.errors import ConversionError, ImagecallError, damaged_answer
from imagecall.generation.assembly import size_of_part
from imagecall.generation.backend import Backend, WholeAnswer
from imagecall.generation.call_context import CALL, AnswerMetadata, CallContext
from imagecall.generation.fairness import fair_turn
from imagecall.generation.offload import offloaded, run_offloaded
from imagecall.generation.parts import in_chunks, sendable
from imagecall.generation.stored_responses import stored_responses_of
from imagecall.generation.whole_image import WholeImage
from imagecall.json.pieces import under
from imagecall.observing.request_id import HEADER
from imagecall.observing.rpc import METADATA, answer_with_id, identify
from imagecall.rpc.headers import Metadata
from imagecall.sizes import APART, OFFLOAD, PIECE
from imagecall.turns import take_turn
from imagecall.v1 import conversion_service_pb2 as pb
from imagecall.v1 import conversion_service_pb2_grpc as pb_grpc
from imagecall.v1 import image_generation_service_pb2 as generation_pb
from imagecall.v1 import image_generation_service_pb2_grpc as generation_pb_grpc
from imagecall.wire.splice import attach_images, detach_images, detach_text, serialized_with

_T = TypeVar("_T")
_Parse = TypeVar("_Parse", pb.ParseCallRequest, pb.ParseDocumentRequest)
_Parsed = TypeVar("_Parsed", pb.ParseCallResponse, pb.ParseDocumentResponse)
_Format = TypeVar("_Format", pb.FormatCallResponse, pb.FormatDocumentResponse)

_HOP_BY_HOP: Final = frozenset(
    {
        "accept-encoding",
        "connection",
        "grpc-accept-encoding",
        "grpc-previous-rpc-attempts",
        "host",
        "te",
        "transfer-encoding",
        "user-agent",
    }
)
"""Hop-by-hop headers (RFC 9110, section 7.6.1), which no backend forwards."""

_COMMIT_SECONDS: Final = 1.0
"""Time after which a backend's work counts as possibly billed."""


class ConversionServicer(pb_grpc.ConversionServiceServicer):
    """imagecall.v1.ConversionService; see proto/imagecall/v1/conversion_service.proto.

    The handlers raise ConversionError, which Boundary turns into statuses. The unary ones accept
    serialized requests, and parse large ones in a worker thread, with few copies.
    """

    def __init__(self, limits: Limits, count: Count = uncounted) -> None:
        self._max_bytes = limits.json_bytes
        self._max_items = limits.stream_items
        self._count = count

    @accepts_serialized
    async def ParseCall(self, request: Any, context: Context) -> Any:
        return await run_offloaded(len(request), self._parse_call, request)

    def _parse_call(self, data: bytes) -> Any:
        request, json = _request_and_json(pb.ParseCallRequest, data)
        response = pb.ParseCallResponse()
        variant, profile = request.variant, request.profile
        images = parse_call(
            response.call, json, variant, profile, self._max_bytes, apart=True, count=self._count
        )
        return attach_images(response, images) if images else _serialized(response, len(data))

    @accepts_serialized
    async def FormatCall(self, request: Any, context: Context) -> Any:
        return await run_offloaded(len(request), self._format_call, request)

    def _format_call(self, data: bytes) -> Any:
        short, images = detach_images(data, pb.FormatCallRequest.DESCRIPTOR)
        request = request_of(pb.FormatCallRequest, short)
        json = format_call(request.call, under(images, "call"), self._max_bytes, self._count)
        return _response_with(pb.FormatCallResponse(), json)

    @accepts_serialized
    async def ParseDocument(self, request: Any, context: Context) -> Any:
        return await run_offloaded(len(request), self._parse_document, request)

    def _parse_document(self, data: bytes) -> Any:
        request, json = _request_and_json(pb.ParseDocumentRequest, data)
        document = parse_document(json, request.kind, self._max_bytes, self._count)
        return _serialized(pb.ParseDocumentResponse(document=document), len(data))

    @accepts_serialized
    async def FormatDocument(self, request: Any, context: Context) -> Any:
        return await run_offloaded(len(request), self._format_document, request)

    def _format_document(self, data: bytes) -> Any:
        request = request_of(pb.FormatDocumentRequest, data)
        json = format_document(request.document, self._max_bytes, self._count)
        return _response_with(pb.FormatDocumentResponse(), json)

    async def ConvertCalls(
        self, request_iterator: AsyncIterator[pb.ConvertCallsRequest], context: Context
    ) -> AsyncIterator[Any]:
        stream = CallStream(self._max_bytes, self._max_items, self._count)
        memory = MEMORY.get()
        async for request in request_iterator:
            try:
                for batch, size in batches(request.conversions):
                    if len(request.conversions) > 1:  # One took no longer to come.
                        await fair_turn()
                    size += stream.pending_bytes
                    answers = stream.answer(batch)
                    while full := await run_offloaded(size, next, answers, b""):
                        yield full
            except ConversionError:
                if rest := stream.take():
                    yield rest
                raise
            if rest := stream.take():
                yield rest
            pending = min(stream.pending_bytes, 2 * self._max_bytes)  # An Assembly drops the rest.
            memory.resize(CALL_OVERHEAD + COPIES * pending)
        stream.finish()


def _request_and_json(kind: type[_Parse], data: bytes) -> tuple[_Parse, bytes]:
    """Parses a request that holds JSON; a large JSON is copied once."""
    short, text = detach_text(data, kind.DESCRIPTOR, "json")
    request = request_of(kind, short)
    return request, request.json.encode() if text is None else text


def _serialized(response: _Parsed, size: int) -> _Parsed | bytes:
    """Serializes the response to a large request, in the thread that made it."""
    if size < OFFLOAD:
        return response
    take_turn()
    return response.SerializeToString()


def _response_with(response: _Format, json: bytes) -> _Format | bytes:
    """Puts JSON into a response, which is returned serialized if the JSON is large."""
    if len(json) < APART:
        response.json = json.decode()
        return response
    return serialized_with(response, "json", json)


class GenerationServicer(generation_pb_grpc.ImageGenerationServiceServicer):
    """imagecall.v1.ImageGenerationService; see proto/imagecall/v1/image_generation_service.proto.

    The server sends the initial metadata while the backend works. From then on gRPC does not retry
    the call, which may be billed.
    """

    def __init__(self, backend: Backend, needs_token: bool) -> None:
        self._backend = backend
        self._stored = stored_responses_of(backend)
        # The token of this server is not for the upstream API.
        self._not_forwarded = frozenset({"authorization"} if needs_token else ())

    async def GenerateImage(
        self, request: generation_pb.GenerateImageRequest, context: Context
    ) -> Any:
        answer = self._enter(context)
        response = await _committed(context, answer, self._backend.generate_image(request))
        answer_with_id(context, answer.trailing)
        return await offloaded(WholeAnswer.of(response).serialized)

    async def GetImageResponse(
        self, request: generation_pb.GetImageResponseRequest, context: Context
    ) -> Any:
        return await self._answer_stored(context, self._stored.get_image_response, request)

    async def CancelImageResponse(
        self, request: generation_pb.CancelImageResponseRequest, context: Context
    ) -> Any:
        return await self._answer_stored(context, self._stored.cancel_image_response, request)

    async def DeleteImageResponse(
        self, request: generation_pb.DeleteImageResponseRequest, context: Context
    ) -> Any:
        return await self._answer_stored(context, self._stored.delete_image_response, request)

    async def _answer_stored(
        self, context: Context, method: Callable[[Any], Awaitable[Any]], request: Message
    ) -> bytes:
        """Answers a call that concerns a stored response, and that gRPC may retry until its end."""
        answer = self._enter(context)
        response = await method(request)
        await _send_initial(context, answer.initial)
        answer_with_id(context, answer.trailing)
        return await offloaded(WholeAnswer.of(response).serialized)

    def _enter(self, context: Context) -> AnswerMetadata:
        """Sets the context of the call for the backend; returns the metadata of the answer."""
        answer_with_id(context)
        answer = AnswerMetadata()
        seconds_left = context.time_remaining()
        called = call_context(METADATA.get(), seconds_left, self._not_forwarded, answer)
        CALL.set(replace(called, request_bytes=REQUEST_BYTES.get() or None))
        return answer

    async def StreamImage(
        self, request: generation_pb.StreamImageRequest, context: Context
    ) -> AsyncIterator[Any]:
        answer = self._enter(context)
        async with aclosing(self._backend.stream_image(request)) as parts:
            part = await _committed(context, answer, anext(parts, None))
            if part is None:
                raise damaged_answer("it is empty")
            while part is not None:
                for small in in_chunks(part):
                    # Before any other part, its backend has taken the turn.
                    if isinstance(part, WholeImage) and size_of_part(small) >= PIECE:
                        await fair_turn()
                    yield sendable(small)
                part = await anext(parts, None)
            answer_with_id(context, answer.trailing)


def call_context(
    metadata: Metadata,
    seconds_left: float | None,
    not_forwarded: Collection[str] = (),
    answer: AnswerMetadata | None = None,
) -> CallContext:
    """Makes the context of a call, without the metadata that is hop-by-hop or `not_forwarded`.

    `seconds_left` is the time until the deadline of the call. None: no deadline.
    """
    hidden = _HOP_BY_HOP.union(not_forwarded)
    return CallContext(
        metadata=tuple((key, value) for key, value in metadata if key not in hidden),
        deadline=None if seconds_left is None else time.monotonic() + seconds_left,
        answer=answer,
    )


async def _committed(context: Context, answer: AnswerMetadata, work: Awaitable[_T]) -> _T:
    """Awaits the work of a backend, and sends the initial metadata of the answer.

    After _COMMIT_SECONDS the initial metadata goes out before the work is done; metadata that the
    backend adds later then goes into the trailing metadata.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=_COMMIT_SECONDS)
        # No other task writes to this call now: with two writers the client would get no answer.
        if task.done():
            await _send_initial(context, answer.initial)
            return await task
        initial = answer.initial
        await _send_initial(context, (*initial, (HEADER, identify())))
        await asyncio.wait({task})
        late = answer.initial if answer.initial != initial else ()
        answer.trailing = (*late, *answer.trailing)
        if isinstance(error := task.exception(), ImagecallError):
            error.trailers = (*late, *error.trailers)
        return await task
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # Retrieved, or asyncio logs a failure during cancellation.


async def _send_initial(context: Context, metadata: Metadata) -> None:
    """Sends the initial metadata, if there is any."""
    if metadata:
        try:
            await context.send_initial_metadata(metadata)
        except grpc.aio.InternalError:  # The client has disconnected.
            raise asyncio.CancelledError from None
