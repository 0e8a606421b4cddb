"""Keys of a response object: one table, for the embedded backend and for the HTTP door.

The keys are those that the Open Responses specification requires of a ResponseResource
(https://www.openresponses.org/reference). A key has its value in the request, if it is there; else
null where the specification allows null, and elsewhere the default that the APIs document.
OpenRouter's SDKs refuse null in the same places as the specification.
"""

import secrets
import time
from collections.abc import Mapping
from typing import Final

_NULL: Final = b"null"

_OF_THE_REQUEST: Final[Mapping[str, bytes]] = {
    "previous_response_id": _NULL,
    "instructions": _NULL,
    "tools": b"[]",
    "tool_choice": b'"auto"',
    "truncation": b'"disabled"',
    "parallel_tool_calls": b"true",
    "text": b'{"format":{"type":"text"}}',
    "top_p": b"1",
    "presence_penalty": b"0",
    "frequency_penalty": b"0",
    "top_logprobs": b"0",
    "temperature": b"1",
    "reasoning": _NULL,
    "user": _NULL,
    "max_output_tokens": _NULL,
    "max_tool_calls": _NULL,
    "store": b"false",
    "background": b"false",
    "service_tier": b'"default"',
    "metadata": b"{}",
    "safety_identifier": _NULL,
    "prompt_cache_key": _NULL,
}
"""Keys that a request can set, with their defaults."""

_NOTHING_USED: Final = (
    b'{"input_tokens":0,"input_tokens_details":{"cached_tokens":0},'
    b'"output_tokens":0,"output_tokens_details":{"reasoning_tokens":0},"total_tokens":0}'
)
"""Usage of a response that has just begun; null is refused there by OpenRouter's SDKs of 2025."""


def new_response_id() -> str:
    """New identifier for a response that has none."""
    return f"resp_{secrets.token_hex(16)}"


def response_keys(body: Mapping[str, bytes], name: str) -> dict[str, bytes]:
    """Keys of a response that has just begun, with their values as raw JSON text.

    Args:
        body: the body of the request: raw JSON text by key.
        name: identifier of the response.
    """
    set_keys = {key: raw for key, raw in body.items() if raw != _NULL}
    return {
        "id": b'"%b"' % name.encode(),
        "object": b'"response"',
        "created_at": str(int(time.time())).encode(),
        "completed_at": _NULL,
        "status": b'"in_progress"',
        "incomplete_details": _NULL,
        "model": set_keys.get("model", b'""'),
        "output": b"[]",
        "error": _NULL,
        "usage": _NOTHING_USED,
        **{key: set_keys.get(key, value) for key, value in _OF_THE_REQUEST.items()},
    }


def final_keys(keys: Mapping[str, bytes]) -> dict[str, bytes]:
    """Keys of the same response at its end, for an API that sent no usage."""
    return {**keys, "usage": _NULL}
