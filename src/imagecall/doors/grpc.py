"""The gRPC door: the services of proto/imagecall/v1, and the server that offers them."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import aclosing
from typing import Any, Final, TypeVar

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from imagecall.backends import Backend
from imagecall.backends.call_context import CALL, CallContext
from imagecall.conversions import CallStream, parse_call
from imagecall.converter import to_json
from imagecall.document import document_from_json, document_to_json, kind_name
from imagecall.doors.grpc_boundary import BoundaryInterceptor, Context
from imagecall.errors import damaged_answer
from imagecall.json_text import MAX_BYTES
from imagecall.serialized import put_in
from imagecall.v1 import conversion_service_pb2 as pb
from imagecall.v1 import conversion_service_pb2_grpc as pb_grpc
from imagecall.v1 import image_generation_service_pb2 as generation_pb
from imagecall.v1 import image_generation_service_pb2_grpc as generation_pb_grpc

_T = TypeVar("_T")

_SERVICES: Final = [
    service.full_name
    for file in (pb.DESCRIPTOR, generation_pb.DESCRIPTOR)
    for service in file.services_by_name.values()
]
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

_OVERHEAD_BYTES: Final = 64 * 1024
"""What a request may have around its JSON, so that a JSON past its limit is refused by us."""


class ConversionServicer(pb_grpc.ConversionServiceServicer):
    """imagecall.v1.ConversionService; see proto/imagecall/v1/conversion_service.proto.

    The handlers raise ConversionError, which BoundaryInterceptor turns into statuses.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes

    async def ParseCall(self, request: pb.ParseCallRequest, context: Context) -> Any:
        response = pb.ParseCallResponse()
        variant, profile = request.variant, request.profile
        images = parse_call(
            response.call, request.json, variant, profile, self._max_bytes, apart=True
        )
        return put_in(response, images) if images else response

    async def FormatCall(self, request: pb.FormatCallRequest, context: Context) -> Any:
        json = to_json(request.call, max_bytes=self._max_bytes)
        return pb.FormatCallResponse(json=json.decode())

    async def ParseDocument(self, request: pb.ParseDocumentRequest, context: Context) -> Any:
        kind = kind_name(request.kind)
        document = document_from_json(request.json, kind=kind, max_bytes=self._max_bytes)
        return pb.ParseDocumentResponse(document=document)

    async def FormatDocument(self, request: pb.FormatDocumentRequest, context: Context) -> Any:
        json = document_to_json(request.document, max_bytes=self._max_bytes)
        return pb.FormatDocumentResponse(json=json.decode())

    async def ConvertCalls(
        self, request_iterator: AsyncIterator[pb.ConvertCallsRequest], context: Context
    ) -> AsyncIterator[pb.ConvertCallsResponse]:
        stream = CallStream(self._max_bytes)
        async for request in request_iterator:
            for response in stream.answer(request):
                yield response
        stream.finish()


class GenerationServicer(generation_pb_grpc.ImageGenerationServiceServicer):
    """imagecall.v1.ImageGenerationService; see proto/imagecall/v1/image_generation_service.proto.

    While the backend works, the initial metadata goes out: from then on gRPC's own retries let the
    call be, as it may have begun to cost.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def GenerateImage(
        self, request: generation_pb.GenerateImageRequest, context: Context
    ) -> generation_pb.GenerateImageResponse:
        CALL.set(_call_context(context))
        return await _committed(context, self._backend.generate_image(request))

    async def StreamImage(
        self, request: generation_pb.StreamImageRequest, context: Context
    ) -> AsyncIterator[Any]:
        CALL.set(_call_context(context))
        async with aclosing(self._backend.stream_image(request)) as parts:
            first = await _committed(context, anext(parts, None))
            if first is None:
                raise damaged_answer("it is empty")
            yield first
            async for part in parts:
                yield part


def _call_context(context: Context) -> CallContext:
    """What a backend may pass on of a call."""
    left = context.time_remaining()
    sent: Any = context.invocation_metadata() or ()
    return CallContext(
        metadata=tuple((key, value) for key, value in sent if key not in _OF_THE_HOP),
        deadline=None if left is None else time.monotonic() + left,
    )


async def _committed(context: Context, work: Awaitable[_T]) -> _T:
    """What the work gives. If that takes a while, the initial metadata goes out meanwhile."""
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=_COMMIT_SECONDS)
        if not done:
            # Nothing else speaks to the client now: two that do at once would end in silence.
            await context.send_initial_metadata(())
        return await task
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


class GrpcServer:
    """A server of the services on one address, with health and reflection.

    Args:
        address: HOST:PORT; port 0 takes a free one.
        backend: what generates images. It is not closed with the server.
        max_bytes: the limit of a JSON text, in bytes.
    """

    def __init__(self, address: str, backend: Backend, max_bytes: int = MAX_BYTES) -> None:
        self._address = address
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(
            interceptors=[BoundaryInterceptor()],
            options=[
                ("grpc.max_receive_message_length", max(max_bytes, _USUAL_BYTES) + _OVERHEAD_BYTES),
                ("grpc.so_reuseport", 0),  # A second server on the port is an error.
            ],
        )
        pb_grpc.add_ConversionServiceServicer_to_server(ConversionServicer(max_bytes), self._server)
        generation_pb_grpc.add_ImageGenerationServiceServicer_to_server(
            GenerationServicer(backend), self._server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = [*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME]
        _add_reflection(names, self._server)

    async def start(self) -> str:
        """Listens; returns HOST:PORT with the port that it got. Raises OSError."""
        try:
            port = self._server.add_insecure_port(self._address)
        except RuntimeError:
            raise OSError(
                f"cannot listen on {self._address}: is it free, and a HOST:PORT?"
            ) from None
        await self._server.start()
        for service in _SERVICES:
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        return f"{self._address.rpartition(':')[0]}:{port}"

    async def stop(self, grace: float) -> None:
        """Reports NOT_SERVING, takes no new calls, and gives those in progress `grace` seconds."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace)


def _add_reflection(names: list[str], server: grpc.aio.Server) -> None:
    """Reflection as v1alpha, which grpcio has, and as v1, which is the same under another name."""
    reflection.enable_server_reflection(names, server)
    servicer = reflection.aio.ReflectionServicer(names)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    generic = grpc.method_handlers_generic_handler(
        _REFLECTION_V1, {"ServerReflectionInfo": handler}
    )
    server.add_generic_rpc_handlers((generic,))
