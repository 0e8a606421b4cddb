"""Request keys that change the answer of an API, which the embedded backend supports or refuses.

The backend stores nothing between requests, so it refuses a key that refers to an earlier request,
as an API refuses an unknown identifier.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from imagecall.conversion.converter import TOOLS
from imagecall.errors import ConversionError, pointer_to, quoted
from imagecall.json.text import JsonValue, parse

_NULL: Final = b"null"
_UNSUPPORTED_KEYS: Final = {
    "background": "the embedded backend answers at once, not in the background: omit the key",
    "previous_response_id": "the embedded backend stores no responses: "
    "send the earlier items in the input",
    "conversation": "the embedded backend stores no conversations: "
    "send the earlier items in the input",
}


def refuse_unsupported(values: Mapping[str, bytes]) -> None:
    """Refuses request keys, as raw JSON text, that request stored or background responses.

    Raises ConversionError: UNSUPPORTED, with the pointer of the key.
    """
    for key, reason in _UNSUPPORTED_KEYS.items():
        if values.get(key, _NULL) not in (_NULL, b"false"):
            raise ConversionError("UNSUPPORTED", pointer_to(key), f"{quoted(key)}: {reason}")


def allows_image(values: Mapping[str, bytes]) -> bool:
    """Returns true if the "tool_choice" of a request, as raw JSON text, allows an image.

    Raises ConversionError: UNSUPPORTED for a choice of a tool that is not for images.
    """
    match parse(values.get("tool_choice", _NULL)):
        case "none":
            return False
        case {"type": "allowed_tools", "tools": list(allowed)}:
            return any(_types(allowed))
        case {"type": str(name)} if name not in (*TOOLS.by_type, "allowed_tools"):
            text = f"the embedded backend cannot call the tool {quoted(name)}; it only draws images"
            raise ConversionError("UNSUPPORTED", pointer_to("tool_choice"), text)
    return True


def _types(tools: Iterable[JsonValue]) -> Iterable[bool]:
    return (isinstance(tool, dict) and tool.get("type") in TOOLS.by_type for tool in tools)
