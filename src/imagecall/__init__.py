"""Converts image_generation_call items of the Responses API to protobuf and back, without loss.

>>> import imagecall
>>> call = imagecall.from_json('{"type":"image_generation_call","id":"ig_1","result":null}')
>>> imagecall.to_json(call)
b'{"type":"image_generation_call","id":"ig_1","result":null}'
"""

from imagecall.conversion.converter import (
    Profile,
    event_from_json,
    event_to_json,
    from_json,
    json_from_serialized,
    serialized_from_json,
    to_json,
    tool_from_json,
    tool_to_json,
)
from imagecall.conversion.document import document_from_json, document_to_json
from imagecall.conversion.replay import Replay, to_input
from imagecall.conversion.short_reprs import shorten_messages
from imagecall.conversion.view import CallView, view
from imagecall.errors import ConversionError, GenerationError, ImagecallError
from imagecall.formats import image_format
from imagecall.v1.document_pb2 import Document
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall

__version__ = "0.1.0"

__all__ = [
    "CallView",
    "ConversionError",
    "Document",
    "GenerationError",
    "ImageGenerationCall",
    "ImagecallError",
    "Profile",
    "Replay",
    "document_from_json",
    "document_to_json",
    "event_from_json",
    "event_to_json",
    "from_json",
    "image_format",
    "json_from_serialized",
    "serialized_from_json",
    "to_input",
    "to_json",
    "tool_from_json",
    "tool_to_json",
    "view",
]

shorten_messages()
