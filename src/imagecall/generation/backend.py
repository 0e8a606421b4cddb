"""What generates images: the interface of every backend."""

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
"""A part of the answer to StreamImage: the message, a chunk, or the message serialized."""


class Backend(Protocol):
    """What generates images.

    Both methods do what the methods of ImageGenerationService do, see
    proto/imagecall/v1/image_generation_service.proto, and raise ImagecallError. Cancelling them
    ends the work.
    """

    async def generate_image(self, request: GenerateImageRequest) -> GenerateImageResponse:
        """Generates images and answers when they are done."""

    def stream_image(self, request: StreamImageRequest) -> AsyncGenerator[Part, None]:
        """Generates images and tells what happens."""

    async def close(self) -> None:
        """Gives back connections and the like."""
