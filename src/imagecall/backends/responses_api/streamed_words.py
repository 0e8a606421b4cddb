"""Words of a model, collected from the events of a stream, for an end without them.

A stream has the words as deltas, then whole in a "done" event, and last in the item of the message.
A surrogate pair that an API splits between two deltas becomes one character again.
"""

import io
from typing import Any, Final, TypeAlias

from imagecall.backends.responses_api.items import Key, is_same
from imagecall.generation.words import KEYS, MAX_WORDS, Words, words_of
from imagecall.json.text import JsonValue

_ITEM_DONE: Final = "response.output_item.done"
_EVENTS: Final = {
    f"response.{kind}.{suffix}": (kind, key, suffix == "done")
    for kind, text_key in KEYS.items()
    for suffix, key in (("delta", "delta"), ("done", text_key))
}
"""Kind of words, their key, and true for the whole text, by the type of an event."""

_MAX_PARTS: Final = 1000
_MAX_LETTERS: Final = 4 * MAX_WORDS
"""Most characters that are collected, repetitions included."""

_Place: TypeAlias = tuple[Key, str, str]
"""Key of an item, index of a part in its content, and kind of words."""


class StreamedWords:
    """Words of a stream: `note` its events, then take the `words`."""

    def __init__(self) -> None:
        self._parts: dict[_Place, io.StringIO] = {}
        self._size = 0

    def note(self, tag: str, event: dict[str, JsonValue]) -> None:
        """Collects the words of an event."""
        if tag == _ITEM_DONE:
            self._note_item(event)
        elif tag in _EVENTS:
            kind, key, is_whole = _EVENTS[tag]
            place = (_item_of(event), str(event.get("content_index")), kind)
            self._put(place, event.get(key), is_whole)

    @property
    def words(self) -> Words:
        """Words collected so far."""
        return Words(*(self._joined(kind) for kind in KEYS))

    def _note_item(self, event: dict[str, JsonValue]) -> None:
        words = words_of([event.get("item")])
        if not any(words):
            return
        item = _item_of(event)
        self._parts = {p: part for p, part in self._parts.items() if not is_same(p[0], item)}
        for kind, text in words._asdict().items():
            self._put((item, "", kind), text, True)

    def _put(self, place: _Place, text: Any, is_whole: bool) -> None:
        if not isinstance(text, str) or not text:
            return
        if self._size > _MAX_LETTERS or len(self._parts) > _MAX_PARTS:
            return
        if is_whole:
            self._parts[place] = io.StringIO()
        part = self._parts.setdefault(place, io.StringIO())
        self._size += part.write(text[:MAX_WORDS])

    def _joined(self, kind: str) -> str:
        parts = [part.getvalue() for place, part in self._parts.items() if place[2] == kind]
        pairs = "".join(parts).encode("utf-16-le", "surrogatepass")
        return pairs.decode("utf-16-le", "replace")


def _item_of(event: dict[str, JsonValue]) -> Key:
    """Key of the item that an event concerns."""
    item = event.get("item")
    name = item.get("id") if isinstance(item, dict) else event.get("item_id")
    index = event.get("output_index")
    return (
        index if isinstance(index, int) else None,
        name if isinstance(name, str) else None,
    )
