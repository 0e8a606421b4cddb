"""The output of the programs of this directory: the images that a framework gave, as JSON."""

import json
from base64 import b64encode
from collections.abc import Iterable

ONE_TOOL = {"type": "image_generation", "size": "64x64"}
FUNCTION = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}


def report(**turns: tuple[Iterable[bytes | str | None], str]) -> None:
    """Prints the images (files, or their base64) and the text of each turn."""
    found = {}
    for name, (images, text) in turns.items():
        encoded = [b64encode(i).decode() if isinstance(i, bytes) else i for i in images]
        found[name] = {"images": encoded, "text": text}
    print(json.dumps(found))
