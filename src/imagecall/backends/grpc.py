"""The backend that is another server of our schema: a hop between clusters, or a team's service.

What goes through is not looked into: chunks are passed on as the bytes that came. The caller's
metadata and deadline go along, and errors come back with their details.
"""

from collections.abc import AsyncGenerator
from typing import Any, Final

import grpc

from imagecall.backends import Part
from imagecall.backends.call_context import CALL
from imagecall.errors import GenerationError, ImagecallError
from imagecall.grpc_status import error_of
from imagecall.v1.image_generation_service_pb2 import (
    DESCRIPTOR,
    GenerateImageRequest,
    GenerateImageResponse,
    StreamImageRequest,
)

_SERVICE: Final = f"/{DESCRIPTOR.services_by_name['ImageGenerationService'].full_name}"


class GrpcBackend:
    """See the module. `address` is HOST:PORT; the hop has no TLS."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._channel: grpc.aio.Channel | None = None

    async def generate_image(self, request: GenerateImageRequest) -> GenerateImageResponse:
        method = self._opened().unary_unary(
            f"{_SERVICE}/GenerateImage",
            request_serializer=GenerateImageRequest.SerializeToString,
            response_deserializer=GenerateImageResponse.FromString,
        )
        try:
            response: GenerateImageResponse = await method(request, **_options())
        except grpc.RpcError as error:
            raise _error(error) from None
        return response

    async def stream_image(self, request: StreamImageRequest) -> AsyncGenerator[Part, None]:
        method: Any = self._opened().unary_stream(
            f"{_SERVICE}/StreamImage", request_serializer=StreamImageRequest.SerializeToString
        )
        call = method(request, **_options())
        try:
            async for part in call:
                yield part
        except grpc.RpcError as error:
            raise _error(error) from None
        finally:
            call.cancel()

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()

    def _opened(self) -> grpc.aio.Channel:
        if self._channel is None:
            unlimited = [("grpc.max_receive_message_length", -1), ("grpc.enable_retries", 0)]
            self._channel = grpc.aio.insecure_channel(self._address, unlimited)
        return self._channel


def _options() -> dict[str, Any]:
    context = CALL.get()
    return {"metadata": context.metadata or None, "timeout": context.seconds_left}


def _error(error: grpc.RpcError) -> ImagecallError:
    """The error of the other server; a failure to reach it is one of the upstream."""
    known = error_of(error)
    if isinstance(known, GenerationError) and not known.reason and known.code == "UNAVAILABLE":
        reason = "UPSTREAM_DISCONNECTED" if known.begun else "UPSTREAM_UNREACHABLE"
        return GenerationError(reason, "the gRPC backend is not reachable", begun=known.begun)
    return known
