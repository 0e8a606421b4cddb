"""The backend that is another server of our schema: a hop between clusters, or a team's service.

What goes through is not looked into: chunks are passed on as the bytes that came. The caller's
metadata and deadline go along, and errors come back with their details.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

from imagecall.errors import GenerationError, ImagecallError, damaged_answer
from imagecall.generation.backend import Part
from imagecall.generation.call_context import CALL
from imagecall.observing.observer import Upstream, rpc_called, upstream
from imagecall.rpc.addresses import ServerAddress
from imagecall.rpc.channel import aio_channel, bearer, credentials_of
from imagecall.rpc.headers import Header, by_name, check_metadata_name
from imagecall.rpc.status import NOT_SENT, error_of, is_of_the_connection
from imagecall.v1.image_generation_service_pb2 import (
    DESCRIPTOR,
    GenerateImageRequest,
    GenerateImageResponse,
    StreamImageRequest,
)

_MAX_BACKOFF_MS: Final = 5000
_CONNECTIONS: Final = 8
"""Number of connections, since a server limits the calls on each: this package's own to 64."""

_SERVICE: Final = f"/{DESCRIPTOR.services_by_name['ImageGenerationService'].full_name}"


class GrpcBackend:
    """See the module.

    Args:
        address: of the other server.
        token: the bearer token that it asks for, instead of what the caller sent. "": none.
        headers: metadata of each call, instead of what the caller sent.

    Raises ValueError for a header that is no metadata.
    """

    def __init__(
        self, address: ServerAddress, token: str = "", headers: Sequence[Header] = ()
    ) -> None:
        self._address = address
        own = by_name(headers, token)
        for name in own:
            check_metadata_name(name)
        self._own = {name: header.value for name, header in own.items()} | dict(bearer(token))
        self._channels: list[grpc.aio.Channel] = []
        self._calls = 0

    async def generate_image(self, request: GenerateImageRequest) -> GenerateImageResponse:
        method: Any = self._next_channel().unary_unary(
            f"{_SERVICE}/GenerateImage",
            request_serializer=GenerateImageRequest.SerializeToString,
        )
        with self._hop("GenerateImage") as hop:
            try:
                return GenerateImageResponse.FromString(await method(request, **self._options(hop)))
            except grpc.RpcError as error:
                raise _error(error) from None
            except DecodeError:
                raise damaged_answer("it is no GenerateImageResponse") from None

    async def stream_image(self, request: StreamImageRequest) -> AsyncGenerator[Part, None]:
        method: Any = self._next_channel().unary_stream(
            f"{_SERVICE}/StreamImage", request_serializer=StreamImageRequest.SerializeToString
        )
        with self._hop("StreamImage") as hop:
            call = method(request, **self._options(hop))
            try:
                async for part in call:
                    yield part
            except grpc.RpcError as error:
                raise _error(error) from None
            finally:
                call.cancel()

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()

    def _hop(self, method: str) -> AbstractContextManager[Upstream]:
        return upstream(rpc_called(f"{_SERVICE.removeprefix('/')}/{method}", self._address.target))

    def _options(self, hop: Upstream) -> dict[str, Any]:
        context = CALL.get()
        own = self._own | hop.headers
        kept = [(key, value) for key, value in context.metadata if key not in own]
        return {"metadata": [*kept, *own.items()] or None, "timeout": context.seconds_left}

    def _next_channel(self) -> grpc.aio.Channel:
        """The channels in turn; each is made when it is needed."""
        number = self._calls % _CONNECTIONS
        self._calls += 1
        if number == len(self._channels):
            self._channels.append(self._new_channel())
        return self._channels[number]

    def _new_channel(self) -> grpc.aio.Channel:
        options = [
            ("grpc.max_receive_message_length", -1),
            ("grpc.enable_retries", 0),  # The caller's are enough.
            ("grpc.max_reconnect_backoff_ms", _MAX_BACKOFF_MS),
            ("grpc.use_local_subchannel_pool", 1),  # If not, all channels share a connection.
        ]
        return aio_channel(self._address.target, credentials_of(self._address), options)


def _error(error: grpc.RpcError) -> ImagecallError:
    """The error of the other server; a failure to reach it is one of the upstream."""
    known = error_of(error)
    if not known.reason and known.code == "UNAVAILABLE":
        if NOT_SENT in str(known):
            return GenerationError("UPSTREAM_UNREACHABLE", "the gRPC backend is not reachable")
        if is_of_the_connection(str(known)):
            message = "the connection to the gRPC backend was lost"
            return GenerationError("UPSTREAM_DISCONNECTED", message, may_be_billed=True)
    return known
