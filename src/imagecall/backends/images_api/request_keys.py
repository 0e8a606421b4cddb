"""Keys of a request beside its prompt, images and tools: which an Images API takes.

A key is passed on, has no effect where no model of text answers, or is refused: a request that an
Images API cannot fulfil costs nothing.
"""

from collections.abc import Mapping
from typing import Final

from imagecall.conversion.converter import TOOLS
from imagecall.errors import ConversionError, pointer_to, quoted
from imagecall.json.text import JsonValue, parse

_NULL: Final = b"null"
_PASSED_ON: Final = ("user", "safety_identifier", "provider", "session_id", "trace")
_WITHOUT_EFFECT: Final = frozenset(
    {
        "cache_control",
        "context_management",
        "frequency_penalty",
        "include",
        "max_output_tokens",
        "max_tool_calls",
        "metadata",
        "modalities",
        "parallel_tool_calls",
        "presence_penalty",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "reasoning",
        "service_tier",
        "stop_server_tools_when",
        "store",
        "stream_options",
        "temperature",
        "text",
        "top_k",
        "top_logprobs",
        "top_p",
        "truncation",
    }
)
"""Keys that concern a model of text, a stored response, or the price."""

_REFUSED: Final = {
    "background": "an Images API answers at once, not in the background: omit the key",
    "conversation": "an Images API stores no conversations: send the earlier calls in the input",
    "instructions": "an Images API has only a prompt: put the instructions into the prompt",
    "previous_response_id": "an Images API stores no responses: "
    "send the earlier calls in the input",
    "prompt": "an Images API has no stored prompts: put the text into the input",
}
_ABSENT: Final = (_NULL, b"false", b'""')
"""Values of refused keys that mean the same as no key."""


def passed_on(values: Mapping[str, bytes]) -> dict[str, bytes]:
    """Returns the keys that an Images API has too, of keys with raw JSON text.

    Raises ConversionError: UNSUPPORTED, with the pointer of a key that cannot be mapped.
    """
    for key, raw in values.items():
        if raw not in _ABSENT and (reason := _reason(key, raw)):
            raise ConversionError("UNSUPPORTED", pointer_to(key), f"{quoted(key)}: {reason}")
    return {key: values[key] for key in _PASSED_ON if values.get(key, _NULL) != _NULL}


def _reason(key: str, raw: bytes) -> str:
    """Reason for which a key is refused; "" for a key that is not."""
    if key in _PASSED_ON or key in _WITHOUT_EFFECT:
        return ""
    if key == "tool_choice":
        return "" if _allows_image(parse(raw)) else "an Images API can only make an image"
    known = _REFUSED.get(key)
    return known or "an Images API has no such key; settings of an image are keys of the image tool"


def _allows_image(choice: JsonValue) -> bool:
    match choice:
        case "auto" | "required":
            return True
        case {"type": "allowed_tools", "tools": list(tools)}:
            return any(map(_allows_image, tools))
        case {"type": str(name)}:
            return name in TOOLS.by_type
    return False
