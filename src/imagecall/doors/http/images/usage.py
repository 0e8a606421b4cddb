"""Usage of the answers to one request of the Images API."""

from collections.abc import Sequence
from typing import Final

import msgspec

from imagecall.generation.response import response_to_json
from imagecall.json.text import JsonValue, join_members, members, parse
from imagecall.v1.image_response_pb2 import ImageResponse

_COST: Final = "cost"
_INPUT_TOKENS: Final = "input_tokens"
_DETAILS: Final = "input_tokens_details"
_IMAGE_TOKENS: Final = "image_tokens"
_TEXT_TOKENS: Final = "text_tokens"
_OPENROUTER: Final = {"prompt_tokens": "input_tokens", "completion_tokens": "output_tokens"}
"""Keys of OpenRouter's usage, which its SDKs require, and those that have the same values."""


def usage_of(responses: Sequence[ImageResponse], openrouter: bool) -> bytes | None:
    """Returns the usage of all responses together, as raw JSON text. None: no response has one.

    Where an API counts the tokens of the image model separately, as the Responses API does, they
    are the usage, and "response_usage" has the tokens of the model that called the image tool.
    """
    usages = [usage for response in responses if (usage := _usage(response)) is not None]
    if not usages:
        return None
    if len(usages) == 1:
        [usage] = usages
    else:
        usage = members(msgspec.json.encode(_sum([parse(join_members(each)) for each in usages])))
    usage = _with_kinds(usage)
    if openrouter:
        same = {key: usage[other] for key, other in _OPENROUTER.items() if other in usage}
        usage = same | usage
    return join_members(usage)


def _with_kinds(usage: dict[str, bytes]) -> dict[str, bytes]:
    """Adds the kinds of the input's tokens, which SDKs require: unknown tokens count as text."""
    details = parse(usage.get(_DETAILS, b"{}"))
    tokens = parse(usage.get(_INPUT_TOKENS, b"null"))
    if not isinstance(details, dict) or type(tokens) is not int:
        return usage
    images = details.get(_IMAGE_TOKENS)
    images = images if type(images) is int else 0
    kinds = {_IMAGE_TOKENS: images, _TEXT_TOKENS: max(0, tokens - images)}
    sent = {key: value for key, value in details.items() if value is not None}
    return usage | {_DETAILS: msgspec.json.encode(kinds | sent)}


def _usage(response: ImageResponse) -> dict[str, bytes] | None:
    raws = members(
        response_to_json(ImageResponse(usage=response.usage, tool_usage=response.tool_usage))
    )
    of_response = members(raws["usage"]) if response.HasField("usage") else None
    if not response.tool_usage.HasField("image_gen"):
        return of_response
    usage = members(members(raws["tool_usage"])["image_gen"])
    if of_response is not None:
        usage |= {_COST: of_response[_COST]} if _COST in of_response else {}
        usage["response_usage"] = raws["usage"]
    return usage


def _sum(values: Sequence[JsonValue]) -> JsonValue:
    """Adds numbers, and the members of objects; of other values the first is kept."""
    first = values[0]
    if all(isinstance(value, dict) for value in values):
        keys = dict.fromkeys(key for value in values for key in value)
        return {key: _sum([value[key] for value in values if key in value]) for key in keys}
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return sum(values)
    return first
