"""Asyncio client of ImageGenerationService.

>>> async with ImageClient("127.0.0.1:50051") as client:  # doctest: +SKIP
...     response = await client.generate_image(ImageRequest(prompt="a red fox in the snow"))

With TLS, and a certificate of the client's own:

>>> files = ClientTls(ca="ca.pem", cert="client.pem", key="client.key")
>>> client = ImageClient("grpcs://images.example:50051", tls=files)  # doctest: +SKIP
"""

import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Final

import grpc

from imagecall.errors import ImagecallError
from imagecall.generation.assembly import MAX_IMAGE_BYTES, StreamItem, reassemble
from imagecall.rpc.channel import aio_channel, bearer, credentials_of, name_options, server_of
from imagecall.rpc.client_tls import WITHOUT_FILES, ClientTls
from imagecall.rpc.handshake import call_error
from imagecall.v1.image_generation_service_pb2 import (
    DESCRIPTOR,
    GenerateImageRequest,
    StreamImageRequest,
)
from imagecall.v1.image_generation_service_pb2_grpc import ImageGenerationServiceStub
from imagecall.v1.image_request_pb2 import ImageRequest
from imagecall.v1.image_response_pb2 import ImageResponse

__all__ = ["SERVICE_CONFIG", "ClientTls", "ImageClient"]

_RETRY_BYTES: Final = 64 * 1024 * 1024
"""Largest request that gRPC keeps for a retry, in bytes."""

_SERVICE: Final = DESCRIPTOR.services_by_name["ImageGenerationService"].full_name

SERVICE_CONFIG: Final = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{"service": _SERVICE}],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.2s",
                    "maxBackoff": "5s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
                },
            }
        ]
    }
)
"""gRPC service config (gRFC A6): retries of calls that failed before they could cost anything.

CANCELLED is the status in gRPC's core of a call that a server had not begun when it stopped.
"""


class ImageClient:
    """Client of ImageGenerationService at an address.

    Args:
        address: HOST:PORT of the server, or grpcs://HOST:PORT for TLS; or another target of gRPC,
            such as dns:///HOST:PORT.
        tls: TLS with these files, which are read once. None: TLS only for grpcs://.
        credentials: credentials of the channel, in place of `tls`.
        token: bearer token that the server requires. "": the server requires none.
        max_image_bytes: limit of an image, and of any other value that comes in chunks.
        options: further options of the channel, placed before the client's own.

    Raises OSError with a sentence for a faulty file of TLS, ValueError for a faulty address.
    """

    def __init__(
        self,
        address: str,
        *,
        tls: ClientTls | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        token: str = "",
        max_image_bytes: int = MAX_IMAGE_BYTES,
        options: Sequence[tuple[str, Any]] = (),
    ) -> None:
        server = server_of(address, tls)
        credentials = credentials or credentials_of(server, tls or WITHOUT_FILES)
        channel_options = [
            *options,
            *name_options(tls or WITHOUT_FILES),
            ("grpc.service_config", SERVICE_CONFIG),
            ("grpc.max_receive_message_length", -1),  # GenerateImage answers in one message.
            ("grpc.per_rpc_retry_buffer_size", _RETRY_BYTES),  # Requests may contain images.
        ]
        self._target, self._secure = server.target, credentials is not None
        self._channel = aio_channel(server.target, credentials, channel_options)
        self._metadata = bearer(token)
        self._stub: Any = ImageGenerationServiceStub(self._channel)
        self._max_image_bytes = max_image_bytes

    async def __aenter__(self) -> "ImageClient":
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the channel and cancels calls in progress."""
        await self._channel.close()

    async def generate_image(
        self,
        request: ImageRequest,
        *,
        timeout: float | None = None,  # noqa: ASYNC109  # It is the deadline of the call.
        include_document: bool = False,
    ) -> ImageResponse:
        """Generates images and returns them when all are done.

        `timeout` is the deadline, in seconds. Raises GenerationError, or ConversionError for a
        request that is refused.
        """
        message = GenerateImageRequest(request=request, include_document=include_document)
        try:
            response = await self._stub.GenerateImage(
                message, timeout=timeout, metadata=self._metadata
            )
        except grpc.RpcError as error:
            raise self._error(error) from None
        answer: ImageResponse = response.response
        return answer

    async def stream_image(
        self,
        request: ImageRequest,
        *,
        timeout: float | None = None,  # noqa: ASYNC109  # It is the deadline of the call.
        include_document: bool = False,
        include_other_events: bool = False,
    ) -> AsyncGenerator[StreamItem, None]:
        """Generates images and yields events with their images, then the end.

        `timeout` is the deadline, in seconds. Raises GenerationError; ConversionError for a request
        that is refused, and with the reason CHUNKS_DAMAGED (DATA_LOSS) for chunks that are lost,
        repeated, reordered or cut. Closing the generator cancels the call.
        """
        message = StreamImageRequest(
            request=request,
            include_document=include_document,
            include_other_events=include_other_events,
        )
        call = self._stub.StreamImage(message, timeout=timeout, metadata=self._metadata)
        try:
            async for item in reassemble(call, self._max_image_bytes):
                yield item
        except grpc.RpcError as error:
            raise self._error(error) from None
        finally:
            call.cancel()

    def _error(self, error: grpc.RpcError) -> ImagecallError:
        return call_error(error, self._target, tls=self._secure)
