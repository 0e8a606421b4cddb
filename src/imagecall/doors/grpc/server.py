"""The gRPC door: the services of proto/imagecall/v1, and the server that offers them."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import aclosing
from typing import Any, Final, TypeVar

import grpc
from grpc_channelz.v1 import channelz as grpc_channelz
from grpc_channelz.v1 import channelz_pb2_grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection as grpc_reflection
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from imagecall.conversion.batch import (
    CallStream,
    format_call,
    format_document,
    parse_call,
    parse_document,
)
from imagecall.doors.grpc.boundary import (
    REQUEST_BYTES,
    Boundary,
    Context,
    request_of,
    takes_serialized,
)
from imagecall.doors.grpc.shards import Shards
from imagecall.doors.offload import done
from imagecall.errors import damaged_answer
from imagecall.generation.backend import Backend
from imagecall.generation.call_context import CALL, CallContext
from imagecall.generation.parts import sendable
from imagecall.json.pieces import under
from imagecall.observing.observer import Observer
from imagecall.observing.request_id import HEADER
from imagecall.observing.rpc import METADATA, answer_with_id, identify
from imagecall.server.admission import Admission
from imagecall.server.certificates import Certificates
from imagecall.server.limits import Limits
from imagecall.sizes import APART
from imagecall.v1 import conversion_service_pb2 as pb
from imagecall.v1 import conversion_service_pb2_grpc as pb_grpc
from imagecall.v1 import image_generation_service_pb2 as generation_pb
from imagecall.v1 import image_generation_service_pb2_grpc as generation_pb_grpc
from imagecall.wire.splice import put_in, serialized_with, take_out, take_text

_T = TypeVar("_T")
_Parse = TypeVar("_Parse", pb.ParseCallRequest, pb.ParseDocumentRequest)
_Format = TypeVar("_Format", pb.FormatCallResponse, pb.FormatDocumentResponse)

_SERVICES: Final = [
    service.full_name
    for file in (pb.DESCRIPTOR, generation_pb.DESCRIPTOR)
    for service in file.services_by_name.values()
]
_CHANNELZ: Final = "grpc.channelz.v1.Channelz"
_REFLECTION_V1: Final = "grpc.reflection.v1.ServerReflection"
_USUAL_BYTES: Final = 4 * 1024 * 1024
"""What a request may have in any case, for batches and chunks: what gRPC takes by default."""

_OF_THE_HOP: Final = frozenset(
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
"""The metadata that is of the connection, and not of the call."""

_COMMIT_SECONDS: Final = 1.0
"""How long a backend may work before its call is one that may cost something."""

_ITEM_BYTES: Final = 512
"""What an item takes as long as, however small it is."""

_OVERHEAD_BYTES: Final = 64 * 1024
"""What a request may have around its JSON, so that a JSON past its limit is refused by us."""


_METADATA_OVERHEAD_BYTES: Final = 8 * 1024
"""What may stand beside the metadata, such as the name of the method. gRPC itself takes this, and
twice our limit, so that what is past the limit is mostly refused by us, with details."""

_HANDSHAKE_MS: Final = 20_000
"""How long a client may take for the handshakes, or to answer a ping."""

_KEEPALIVE_MS: Final = 60_000
_PINGS_MS: Final = 10_000
"""How often a client without calls may ping; gRPC's default of 5 minutes surprises many."""

_CONNECTION_MS: Final = 10 * 60_000
"""After how long a client is told to connect anew, and so finds replicas that came meanwhile."""

_CALLS_OF_A_CONNECTION: Final = 100
"""How many calls a connection may have past the limit of all, so that they are told of it, where
that limit is a small one."""

_MOST_CALLS_OF_A_CONNECTION: Final = 128
"""How many it may have in any case: further ones wait at the client. One that resets its calls at
once can keep others waiting for as many."""


class ConversionServicer(pb_grpc.ConversionServiceServicer):
    """imagecall.v1.ConversionService; see proto/imagecall/v1/conversion_service.proto.

    The handlers raise ConversionError, which Boundary turns into statuses. The unary ones take
    their requests serialized, and parse large ones beside the event loop, with few copies.
    """

    def __init__(self, limits: Limits) -> None:
        self._max_bytes = limits.json_bytes
        self._max_items = limits.stream_items

    @takes_serialized
    async def ParseCall(self, request: Any, context: Context) -> Any:
        return await done(len(request), self._parse_call, request)

    def _parse_call(self, data: bytes) -> Any:
        request, json = _request_and_json(pb.ParseCallRequest, data)
        response = pb.ParseCallResponse()
        variant, profile = request.variant, request.profile
        images = parse_call(response.call, json, variant, profile, self._max_bytes, apart=True)
        return put_in(response, images) if images else response

    @takes_serialized
    async def FormatCall(self, request: Any, context: Context) -> Any:
        return await done(len(request), self._format_call, request)

    def _format_call(self, data: bytes) -> Any:
        short, images = take_out(data, pb.FormatCallRequest.DESCRIPTOR)
        request = request_of(pb.FormatCallRequest, short)
        json = format_call(request.call, under(images, "call"), self._max_bytes)
        return _response_with(pb.FormatCallResponse(), json)

    @takes_serialized
    async def ParseDocument(self, request: Any, context: Context) -> Any:
        return await done(len(request), self._parse_document, request)

    def _parse_document(self, data: bytes) -> Any:
        request, json = _request_and_json(pb.ParseDocumentRequest, data)
        document = parse_document(json, request.kind, self._max_bytes)
        return pb.ParseDocumentResponse(document=document)

    @takes_serialized
    async def FormatDocument(self, request: Any, context: Context) -> Any:
        return await done(len(request), self._format_document, request)

    def _format_document(self, data: bytes) -> Any:
        request = request_of(pb.FormatDocumentRequest, data)
        json = format_document(request.document, self._max_bytes)
        return _response_with(pb.FormatDocumentResponse(), json)

    async def ConvertCalls(
        self, request_iterator: AsyncIterator[pb.ConvertCallsRequest], context: Context
    ) -> AsyncIterator[pb.ConvertCallsResponse]:
        stream = CallStream(self._max_bytes, self._max_items)
        async for request in request_iterator:
            of_items = len(request.conversions) * _ITEM_BYTES
            size = max(stream.pending_bytes + REQUEST_BYTES.get(), of_items)
            answers = stream.answer(request)
            while (response := await done(size, next, answers, None)) is not None:
                yield response
        stream.finish()


def _request_and_json(kind: type[_Parse], data: bytes) -> tuple[_Parse, bytes]:
    """A request to parse JSON, and the JSON, which is copied once if it is large."""
    short, text = take_text(data, kind.DESCRIPTOR, "json")
    request = request_of(kind, short)
    return request, request.json.encode() if text is None else text


def _response_with(response: _Format, json: bytes) -> _Format | bytes:
    """A response with its JSON; serialized, if it is large."""
    if len(json) < APART:
        response.json = json.decode()
        return response
    return serialized_with(response, "json", json)


class GenerationServicer(generation_pb_grpc.ImageGenerationServiceServicer):
    """imagecall.v1.ImageGenerationService; see proto/imagecall/v1/image_generation_service.proto.

    While the backend works, the initial metadata goes out: from then on gRPC's own retries let the
    call be, as it may have begun to cost.
    """

    def __init__(self, backend: Backend, asks: bool) -> None:
        self._backend = backend
        # A token that is for us is not for others.
        self._kept = _OF_THE_HOP | {"authorization"} if asks else _OF_THE_HOP

    async def GenerateImage(
        self, request: generation_pb.GenerateImageRequest, context: Context
    ) -> generation_pb.GenerateImageResponse:
        CALL.set(self._call_context(context))
        return await _committed(context, self._backend.generate_image(request))

    def _call_context(self, context: Context) -> CallContext:
        """What a backend may pass on of a call."""
        answer_with_id(context)
        left = context.time_remaining()
        sent = METADATA.get()
        return CallContext(
            metadata=tuple((key, value) for key, value in sent if key not in self._kept),
            deadline=None if left is None else time.monotonic() + left,
        )

    async def StreamImage(
        self, request: generation_pb.StreamImageRequest, context: Context
    ) -> AsyncIterator[Any]:
        CALL.set(self._call_context(context))
        async with aclosing(self._backend.stream_image(request)) as parts:
            first = await _committed(context, anext(parts, None))
            if first is None:
                raise damaged_answer("it is empty")
            yield sendable(first)
            async for part in parts:
                yield sendable(part)


async def _committed(context: Context, work: Awaitable[_T]) -> _T:
    """What the work gives. If that takes a while, the initial metadata goes out meanwhile."""
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=_COMMIT_SECONDS)
        if not done:
            # Nothing else speaks to the client now: two that do at once would end in silence.
            try:
                await context.send_initial_metadata(((HEADER, identify()),))
            except grpc.aio.InternalError:  # The client has gone.
                raise asyncio.CancelledError from None
        return await task
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # If it failed as we were cancelled: asked for, or asyncio logs it.


class GrpcServer:
    """A server of the services on one address, with health.

    Args:
        address: HOST:PORT; port 0 takes a free one.
        backend: what generates images. It is not closed with the server.
        admission: which calls are taken, and with which limits.
        certificates: for TLS. None: there is none.
        reflection: whether clients are told the schema.
        channelz: whether clients are told of connections.
        share_port: whether others may listen on the same port already; see Shards.
        observer: what sees the calls. None: nobody wants to know.
    """

    def __init__(
        self,
        address: str,
        backend: Backend,
        admission: Admission | None = None,
        *,
        certificates: Certificates | None = None,
        reflection: bool = True,
        channelz: bool = False,
        share_port: bool = False,
        observer: Observer | None = None,
    ) -> None:
        admission = admission or Admission()
        self._address = address
        self._credentials = certificates.for_grpc if certificates else None
        self._health = health.aio.HealthServicer()
        self._boundary = Boundary(admission, observer)
        limits = admission.limits
        self._shards = Shards(self._boundary, _options(limits), limits.connections, share_port)
        boundary: Any = self._boundary  # The generated functions declare a server.
        conversion = ConversionServicer(limits)
        generation = GenerationServicer(backend, admission.asks)
        pb_grpc.add_ConversionServiceServicer_to_server(conversion, boundary)
        generation_pb_grpc.add_ImageGenerationServiceServicer_to_server(generation, boundary)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, boundary)
        names = [*_SERVICES, health.SERVICE_NAME]
        if channelz:
            servicer = grpc_channelz.aio.ChannelzServicer()
            channelz_pb2_grpc.add_ChannelzServicer_to_server(servicer, boundary)
            names.append(_CHANNELZ)
        if reflection:
            _add_reflection([*names, grpc_reflection.SERVICE_NAME], boundary)

    async def start(self) -> str:
        """Listens; returns HOST:PORT with the port that it got. Raises OSError."""
        bound = await self._shards.start(self._address, self._credentials)
        for service in _SERVICES:
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        return bound

    async def drain(self) -> None:
        """Reports NOT_SERVING. Calls are still taken."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace: float) -> None:
        """Reports NOT_SERVING, takes no new connections and then no new calls, and gives those in
        progress `grace` seconds."""
        await self.drain()
        await self._shards.close(grace)
        self._boundary.stopping.set()
        await self._shards.stop(grace)


def _options(limits: Limits) -> list[tuple[str, int]]:
    """What the server asks of gRPC's core; see grpc/impl/channel_arg_names.h there."""
    metadata = 2 * limits.metadata_bytes + _METADATA_OVERHEAD_BYTES
    streams = min(limits.calls + _CALLS_OF_A_CONNECTION, _MOST_CALLS_OF_A_CONNECTION)
    return [
        ("grpc.max_receive_message_length", max(limits.json_bytes, _USUAL_BYTES) + _OVERHEAD_BYTES),
        ("grpc.max_concurrent_streams", streams),
        ("grpc.max_metadata_size", metadata),
        ("grpc.absolute_max_metadata_size", metadata),
        ("grpc.max_connection_idle_ms", round(limits.idle_seconds * 1000)),
        # Calls in progress end on the old connection, however long they take.
        ("grpc.max_connection_age_ms", _CONNECTION_MS),
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
        # A connection whose other end is gone without a word is noticed.
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", _HANDSHAKE_MS),
        ("grpc.http2.min_ping_interval_without_data_ms", _PINGS_MS),
        ("grpc.keepalive_permit_without_calls", 1),  # If not, that is two hours without calls.
    ]


def _add_reflection(names: list[str], boundary: Any) -> None:
    """Reflection as v1alpha, which grpcio has, and as v1, which is the same under another name."""
    servicer = grpc_reflection.aio.ReflectionServicer(names)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, boundary)  # type: ignore[no-untyped-call]
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    boundary.add_registered_method_handlers(_REFLECTION_V1, {"ServerReflectionInfo": handler})
