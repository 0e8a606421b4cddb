"""Requests of the two methods of ImageGenerationService, from a request or a prompt."""

from imagecall.v1.image_generation_service_pb2 import GenerateImageRequest, StreamImageRequest
from imagecall.v1.image_request_pb2 import ImageRequest


def image_request(request: ImageRequest | str, include_document: bool) -> GenerateImageRequest:
    """Returns the request of GenerateImage."""
    return GenerateImageRequest(request=_request(request), include_document=include_document)


def stream_request(
    request: ImageRequest | str, include_document: bool, include_other_events: bool
) -> StreamImageRequest:
    """Returns the request of StreamImage."""
    return StreamImageRequest(
        request=_request(request),
        include_document=include_document,
        include_other_events=include_other_events,
    )


def _request(request: ImageRequest | str) -> ImageRequest:
    return ImageRequest(prompt=request) if isinstance(request, str) else request
