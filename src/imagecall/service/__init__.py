"""Image service of your own in Python: a class with one generator.

>>> from collections.abc import AsyncIterator
>>> class FoxService(ImageService):
...     async def generate(self, request: ImageRequest) -> AsyncIterator[Event]:
...         yield FinalImage(draw(request.prompt))  # bytes of a PNG

The README in this folder shows how to serve it.
"""

from imagecall.errors import ConversionError, GenerationError
from imagecall.generation.backend import Backend, WholeAnswer
from imagecall.generation.image_events import Event, FinalImage, Message, PartialImage
from imagecall.generation.whole_image import WholeImage
from imagecall.service.base import ImageService
from imagecall.service.options import ImageOptions, image_options
from imagecall.service.plain_server import SERVER_OPTIONS, add_to_server
from imagecall.v1.image_request_pb2 import ImageRequest
from imagecall.v1.image_response_pb2 import Usage

__all__ = [
    "SERVER_OPTIONS",
    "Backend",
    "ConversionError",
    "Event",
    "FinalImage",
    "GenerationError",
    "ImageOptions",
    "ImageRequest",
    "ImageService",
    "Message",
    "PartialImage",
    "Usage",
    "WholeAnswer",
    "WholeImage",
    "add_to_server",
    "image_options",
]
