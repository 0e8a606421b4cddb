"""Tracking of the image items of an API's stream: the open ones and the final ones.

The id identifies an item. Some APIs use another id in the response at the end, or one id for
several items; the index in the output identifies the items of these.
"""

import hashlib
from collections import Counter
from collections.abc import Callable
from typing import Final, TypeAlias

from imagecall.conversion.converter import CALLS, EVENTS
from imagecall.conversion.view import view
from imagecall.errors import quoted
from imagecall.generation.chunked_fields import image_fields, text_fields
from imagecall.turns import take_turn
from imagecall.v1.chunk_pb2 import ChunkEnd
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall
from imagecall.v1.stream_event_pb2 import StreamEvent

_ADDED: Final = "output_item_added_event"
_WITHOUT_IMAGE: Final = frozenset({"failed", "incomplete", "cancelled"})
"""Statuses of a final item that will never have a result."""

Key: TypeAlias = tuple[int | None, str | None]
"""Index of an item in the output, and id of the item; None for an unknown one."""


class Items:
    """Image items of a stream: the open ones and the final ones."""

    def __init__(self) -> None:
        self._open: dict[Key, str] = {}
        self._final: list[Key] = []
        self._empty: set[str] = set()
        self._awaited: dict[Key, str] = {}
        self._digests: dict[int, bytes] = {}

    @property
    def open(self) -> list[str]:
        """Items that have begun and are not final."""
        return list(self._open.values())

    @property
    def awaited(self) -> list[str]:
        """Items whose image has not arrived: the open ones, and the final ones without an image."""
        return [*self._open.values(), *self._awaited.values()]

    @property
    def done(self) -> int:
        """Number of final items."""
        return len(self._final)

    def note(self, event: StreamEvent, streamed: ChunkEnd | None = None) -> None:
        """Updates the items with an event, of which an image was streamed before."""
        variant = EVENTS.chosen(event)
        message = getattr(event, variant.name)
        if variant.option.fallback or "item" not in message.DESCRIPTOR.fields_by_name:
            return
        if not message.HasField("item") or CALLS.chosen(message.item).option.fallback:
            return
        name = _id(message.item)
        key = (message.output_index if message.HasField("output_index") else None, name)
        if variant.name != _ADDED:
            self._final.append(key)
            for keys in (self._open, self._awaited):
                for same in [other for other in keys if is_same(other, key)]:
                    del keys[same]
            self._note_result(message.item, key)
            if key[0] is not None:
                self._digests[key[0]] = _digest(message.item, streamed)
        elif not any(is_same(key, final) for final in self._final):
            self._open[key] = _called(name)

    def _note_result(self, call: ImageGenerationCall, key: Key) -> None:
        """Records a final item without an image; only the response may hold the image."""
        if _has_result(call):
            return
        if key[1] is not None:
            self._empty.add(key[1])
        if view(call).status not in _WITHOUT_IMAGE:
            self._awaited[key] = _called(key[1])

    def has_id(self, call: ImageGenerationCall) -> bool:
        """True if an item with the id of this one is final, and had its result then."""
        name = _id(call)
        return bool(name and name not in self._empty) and any(
            name == final for _, final in self._final
        )

    def is_sent(self, index: int, call: ImageGenerationCall) -> bool:
        """True if the last final item at an index of the output was equal to this call."""
        return self._digests.get(index) == _digest(call)

    def delivered(
        self, calls: list[ImageGenerationCall]
    ) -> Callable[[int, ImageGenerationCall], bool]:
        """Predicate of the items of a response with these calls: true if one was final before.

        `calls` are the calls of the response. The id identifies an item, else the index in the
        output, since some APIs use another id in the response. An index does not count if the item
        that was final at that index has another place in the response.
        """
        names = Counter(_id(call) or "" for call in calls)
        indexes = {index for index, name in self._final if not name or names[name] != 1}

        def has(index: int, call: ImageGenerationCall) -> bool:
            name = _id(call) or ""
            if name in self._empty:
                return not _has_result(call)
            return index in indexes or (names[name] == 1 and self.has_id(call))

        return has


def _has_result(call: ImageGenerationCall) -> bool:
    """True for an item with an image, or a text in its place."""
    return bool(image_fields(call)) or any(
        place.value for place in text_fields(call) if "result" in place.path
    )


def _digest(call: ImageGenerationCall, streamed: ChunkEnd | None = None) -> bytes:
    """Digest of an item, and of its images, of which one may have been streamed before."""
    short, digest = ImageGenerationCall(), hashlib.sha256()
    short.CopyFrom(call)
    for place in image_fields(short):
        image, place.value = place.value, b""
        take_turn()
        if streamed is not None and streamed.field.endswith(f".item.{place.path}"):
            digest.update(streamed.sha256)
        else:
            digest.update(hashlib.sha256(image).digest())
    digest.update(short.SerializeToString(deterministic=True))
    return digest.digest()


def _called(name: str | None) -> str:
    return "an item" if name is None else quoted(name)


def _id(call: ImageGenerationCall) -> str | None:
    item = getattr(call, CALLS.chosen(call).name)
    return item.id if item.HasField("id") else None


def is_same(key: Key, other: Key) -> bool:
    """True if two items may be the same: by their ids, or else by their indexes."""
    if key[1] and other[1]:
        return key[1] == other[1]
    return key[0] is None or other[0] is None or key[0] == other[0]
