"""Converts the image_generation_call items of the Responses API to protobuf and back."""

from imagecall.converter import (
    Profile,
    event_from_json,
    event_to_json,
    from_json,
    to_json,
    tool_from_json,
    tool_to_json,
)
from imagecall.errors import ConversionError
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall

__all__ = [
    "ConversionError",
    "ImageGenerationCall",
    "Profile",
    "event_from_json",
    "event_to_json",
    "from_json",
    "to_json",
    "tool_from_json",
    "tool_to_json",
]
