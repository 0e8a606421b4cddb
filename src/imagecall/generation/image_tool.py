"""The image tool of a request, of whichever API it is."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from imagecall.conversion.converter import TOOLS
from imagecall.v1.image_generation_tool_pb2 import Tool


class ImageTool(NamedTuple):
    """Message with the settings of an image tool, and the tokens of its JSON Pointer."""

    settings: Any
    tokens: tuple[str | int, ...]

    def value(self, name: str) -> Any:
        """Value of a setting. None: the setting is not set, or the tool has none of that name."""
        has = name in self.settings.DESCRIPTOR.fields_by_name and self.settings.HasField(name)
        return getattr(self.settings, name) if has else None


def image_tool(tools: Sequence[Tool]) -> ImageTool | None:
    """Returns the first image tool; None if there is none."""
    for index, tool in enumerate(tools):
        chosen = TOOLS.chosen(tool)
        if not chosen.option.fallback:
            return _with_settings(getattr(tool, chosen.name), ("tools", index))
    return None


def _with_settings(tool: Any, tokens: tuple[str | int, ...]) -> ImageTool:
    if "parameters" in tool.DESCRIPTOR.fields_by_name:
        return ImageTool(tool.parameters, (*tokens, "parameters"))
    return ImageTool(tool, tokens)
