"""Settings of an image, as a request has them."""

from dataclasses import dataclass, fields

from imagecall.generation.image_tool import image_tool
from imagecall.v1.image_request_pb2 import ImageRequest


@dataclass(frozen=True)
class ImageOptions:
    """Settings of the image tool, in the spelling of the APIs. None: the request has none.

    Attributes:
        model: image model, such as "gpt-image-1".
        size: size in pixels such as "1024x1024", or "auto".
        aspect_ratio: such as "16:9".
        quality: such as "low", "medium", "high" or "auto".
        background: such as "transparent", "opaque" or "auto".
        output_format: file format, such as "png", "webp" or "jpeg".
        output_compression: compression of webp and jpeg in percent.
        partial_images: largest number of partial images of each image.
    """

    model: str | None = None
    size: str | None = None
    aspect_ratio: str | None = None
    quality: str | None = None
    background: str | None = None
    output_format: str | None = None
    output_compression: int | None = None
    partial_images: int | None = None


def image_options(request: ImageRequest) -> ImageOptions:
    """Returns the settings of the first image tool of a request."""
    tool = image_tool(request.tools)
    if tool is None:
        return ImageOptions()
    return ImageOptions(**{each.name: tool.value(each.name) for each in fields(ImageOptions)})
