"""Prompt and input images of a request, from its fields and its earlier items."""

import json
from collections.abc import Iterator
from typing import Any, Final

from imagecall.conversion.converter import from_json
from imagecall.conversion.view import view
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall
from imagecall.v1.image_request_pb2 import ImageRequest

_USER: Final = "user"


def prompt_of(request: ImageRequest) -> str:
    """Prompt; if blank, the text of the last message of a user, else of any last message."""
    if request.prompt.strip():
        return request.prompt
    messages = [_object(item) for item in request.input_items]
    texts = [(message.get("role"), _text(message)) for message in messages]
    users = [text for role, text in texts if text and role == _USER]
    others = [text for _, text in texts if text]
    return [request.prompt, *others, *users][-1]


def input_images(request: ImageRequest) -> Iterator[bytes]:
    """Yields the files of the input images; empty bytes for an image not in the request."""
    for item in request.input_items:
        if item.WhichOneof("variant") != "unknown_item":
            yield view(item).image or b""
        for part in _parts(_object(item)):
            if isinstance(part.get("image_url"), str):
                yield _bytes_at(part["image_url"])
    for image in request.input_images:
        yield _bytes_at(image.url) if image.url else image.image


def _object(item: ImageGenerationCall) -> dict[str, Any]:
    """JSON object of an item of another type, such as a message; empty for a call."""
    value: dict[str, Any] = json.loads(item.unknown_item.json or "{}")
    return value


def _parts(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    content = message.get("content")
    if isinstance(content, str):
        yield {"text": content}
    for part in content if isinstance(content, list) else ():
        if isinstance(part, dict):
            yield part


def _text(message: dict[str, Any]) -> str:
    texts = (part.get("text") for part in _parts(message))
    return "\n".join(text for text in texts if isinstance(text, str))


def _bytes_at(url: str) -> bytes:
    """Bytes in a data: URL; empty for any other URL."""
    if not url.startswith("data:"):
        return b""
    item = json.dumps({"type": "image_generation_call", "result": url})
    return view(from_json(item)).image or b""
