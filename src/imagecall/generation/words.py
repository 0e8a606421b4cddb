"""Words of a model: the texts and refusals in the messages of a response."""

from typing import Final, NamedTuple

from imagecall.errors import cut_by_bytes
from imagecall.json.text import JsonValue
from imagecall.v1.image_response_pb2 import ImageResponse

MAX_WORDS: Final = 1024 * 1024
"""Most bytes of the words of a response in UTF-8; the rest is cut off."""

KEYS: Final = {"output_text": "text", "refusal": "refusal"}
"""Key of the text of a message's part, by the type of the part."""


class Words(NamedTuple):
    """Words of a response, named as the fields of ImageResponse."""

    output_text: str = ""
    refusal: str = ""


def words_of(output: JsonValue) -> Words:
    """Words of the messages among the items of an output."""
    items = output if isinstance(output, list) else []
    contents = [
        item.get("content")
        for item in items
        if isinstance(item, dict) and item.get("type") == "message"
    ]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    return Words(*(_joined(parts, kind) for kind in KEYS))


def _joined(parts: list[JsonValue], kind: str) -> str:
    parts_of_kind = [part for part in parts if isinstance(part, dict) and part.get("type") == kind]
    texts = [part.get(KEYS[kind]) for part in parts_of_kind]
    return "".join(text for text in texts if isinstance(text, str))


def put_words(response: ImageResponse, words: Words) -> None:
    """Puts words into a response that has none."""
    if response.HasField("output_text") or response.HasField("refusal"):
        return
    for name, text in words._asdict().items():
        if text:
            setattr(response, name, cut_by_bytes(text, MAX_WORDS))
