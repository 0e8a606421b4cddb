"""Interface of a backend, which generates images."""

from collections.abc import AsyncGenerator
from typing import Protocol, TypeAlias

from imagecall.v1.image_generation_service_pb2 import (
    GenerateImageRequest,
    GenerateImageResponse,
    StreamImageRequest,
    StreamImageResponse,
)
from imagecall.wire.chunks import RawChunk

Part: TypeAlias = StreamImageResponse | RawChunk | bytes
"""Part of the answer to StreamImage: the message, a chunk, or the serialized message."""


class Backend(Protocol):
    """Generator of images.

    `generate_image` and `stream_image` behave as the methods of ImageGenerationService in
    proto/imagecall/v1/image_generation_service.proto, and raise ImagecallError. Cancellation of a
    method ends the work.
    """

    async def generate_image(self, request: GenerateImageRequest) -> GenerateImageResponse:
        """Generates images and returns them when all are done."""

    def stream_image(self, request: StreamImageRequest) -> AsyncGenerator[Part, None]:
        """Generates images and yields the events of the generation."""

    async def close(self) -> None:
        """Releases connections and other resources."""
