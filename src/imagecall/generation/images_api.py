"""Names of the Images API, which a door and a backend share.

The settings of an image have the names of the image tool: they come from the schema.
"""

from collections.abc import Sequence
from typing import Final

from imagecall.conversion.fields import key_of
from imagecall.v1.image_generation_tool_pb2 import ImageGenerationTool

GENERATION: Final = "image_generation"
"""First word of the types of the events of POST /images/generations."""

EDIT: Final = "image_edit"
"""First word of the types of the events of POST /images/edits."""

PARTIAL_IMAGE: Final = ".partial_image"
COMPLETED: Final = ".completed"

SETTINGS: Final = {
    key: field
    for field in ImageGenerationTool.DESCRIPTOR.fields
    if (key := key_of(field).name) and key != "input_image_mask"
}
"""Fields of the image tool that are keys of the Images API, by JSON key."""

REPEATED: Final[Sequence[str]] = ("background", "output_format", "quality", "size")
"""Settings that an answer repeats."""

MAX_IMAGES: Final = 10
"""Most images of a request: the highest "n"."""
