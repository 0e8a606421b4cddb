"""Interface of a backend, which generates images."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeAlias, TypeVar

from imagecall.generation.chunked_fields import image_fields
from imagecall.generation.whole_image import WholeImage
from imagecall.json.pieces import Apart
from imagecall.sizes import OFFLOAD
from imagecall.v1.image_generation_service_pb2 import (
    CancelImageResponseResponse,
    GenerateImageRequest,
    GenerateImageResponse,
    GetImageResponseResponse,
    StreamImageRequest,
    StreamImageResponse,
)
from imagecall.wire.chunks import RawChunk
from imagecall.wire.splice import attach_apart

WithResponse = TypeVar(
    "WithResponse", GenerateImageResponse, GetImageResponseResponse, CancelImageResponseResponse
)
"""Answer that is one message with a response."""


@dataclass(frozen=True)
class WholeAnswer(Generic[WithResponse]):
    """Answer whose images are kept beside its message, so that they are not copied.

    Attributes:
        message: the message; the fields of the images beside it are set and empty.
        images: the images by the paths of their fields, such as
            "response.calls[0].output_image_generation_call.result.image".
        size: number of bytes of the message, without these images, that decides where work on the
            message runs. The default: not known, so that the work is offloaded.
    """

    message: WithResponse
    images: Apart = field(default_factory=dict)
    size: int = OFFLOAD

    def __post_init__(self) -> None:
        """Raises ValueError unless each image is of a field that is set and empty."""
        places = {place.path: place for place in image_fields(self.message) if self.images}
        for path in self.images:
            if path not in places or places[path].value:
                raise ValueError(f"{path} is not an image of the message that is set and empty")

    @classmethod
    def of(cls, answer: "UnaryAnswer[WithResponse]") -> "WholeAnswer[WithResponse]":
        """Wraps a message that holds its images; returns a WholeAnswer unchanged."""
        return answer if isinstance(answer, WholeAnswer) else WholeAnswer(answer)

    def serialized(self) -> bytes:
        """Serializes the message with its images."""
        if self.images:
            return attach_apart(self.message, self.images)
        return self.message.SerializeToString()

    def whole(self) -> WithResponse:
        """Returns the message with its images."""
        return self.message.FromString(self.serialized()) if self.images else self.message


UnaryAnswer: TypeAlias = WithResponse | WholeAnswer[WithResponse]
"""Answer to a unary method: a message that holds its images, or a WholeAnswer."""

SmallPart: TypeAlias = StreamImageResponse | RawChunk | bytes
"""Part that is one message of the answer to StreamImage: the message, its chunk, or its bytes."""

Part: TypeAlias = SmallPart | WholeImage
"""Part of the answer to StreamImage: a message, or an image in place of its chunks."""


class Backend(Protocol):
    """Generator of images.

    `generate_image` and `stream_image` behave as the methods of ImageGenerationService in
    proto/imagecall/v1/image_generation_service.proto, and raise ImagecallError. Cancellation of a
    method ends the work. `WholeAnswer.of(answer).whole()` is the message of either kind of answer.
    """

    async def generate_image(
        self, request: GenerateImageRequest
    ) -> UnaryAnswer[GenerateImageResponse]:
        """Generates images and returns them when all are done."""

    def stream_image(self, request: StreamImageRequest) -> AsyncGenerator[Part, None]:
        """Generates images and yields the events of the generation."""

    async def close(self) -> None:
        """Releases connections and other resources."""
