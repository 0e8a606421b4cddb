"""Message with which a model ends its answer, and the events that stream the message.

Agent frameworks repeat a request until an answer has a message, so an image alone does not suffice.
"""

from collections.abc import Iterator

from imagecall.json.text import JsonValue

Fields = dict[str, JsonValue]


def message_item(name: str, text: str) -> Fields:
    """Finished message of the assistant, with the id `name`."""
    return _item(name, "completed", [_part(text)])


def message_events(name: str, text: str, output_index: int) -> Iterator[Fields]:
    """Yields the events of a message, at an index of the output, in the order of the APIs.

    The whole text is known, so it comes in one delta.
    """
    item: Fields = {"output_index": output_index}
    part: Fields = {"item_id": name, "output_index": output_index, "content_index": 0}
    tag = "response.output_item"
    yield {"type": f"{tag}.added", **item, "item": _item(name, "in_progress", [])}
    yield {"type": "response.content_part.added", **part, "part": _part("")}
    if text:
        yield {"type": "response.output_text.delta", **part, "delta": text, "logprobs": []}
    yield {"type": "response.output_text.done", **part, "text": text, "logprobs": []}
    yield {"type": "response.content_part.done", **part, "part": _part(text)}
    yield {"type": f"{tag}.done", **item, "item": message_item(name, text)}


def _item(name: str, status: str, content: list[JsonValue]) -> Fields:
    head: Fields = {"type": "message", "id": name, "status": status, "role": "assistant"}
    return head | {"content": content}


def _part(text: str) -> Fields:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
