"""Items of a response's output, followed through the events of the response's stream.

The id identifies an item. Some APIs change the id in the response at the end, or give one id to
several items: then the index in the output identifies the item, and if both differ, the type.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any, Final, NamedTuple, TypeAlias

from imagecall.conversion.converter import CALLS, call_pieces
from imagecall.conversion.objects import TYPE
from imagecall.generation.chunked_fields import image_fields, text_fields
from imagecall.json.pieces import Apart, Piece, join
from imagecall.json.text import join_members, members, parse, quote
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall

_RESULT: Final = "result"


@dataclass(frozen=True)
class OutputItem:
    """Item, with its large images set apart."""

    call: ImageGenerationCall
    apart: Apart = field(default_factory=dict)

    @property
    def is_image(self) -> bool:
        """True for an image generation call."""
        return not CALLS.chosen(self.call).option.fallback

    @property
    def has_result(self) -> bool:
        """True for an image generation call whose result is an image or a text."""
        found = any(place.value for place in text_fields(self.call) if _RESULT in place.path)
        return found or bool(self.apart) or any(place.value for place in image_fields(self.call))

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the item's images."""
        digest = hashlib.sha256()
        for place in image_fields(self.call):
            digest.update(place.value)
        for part in chain.from_iterable(self.apart.values()):
            digest.update(part)
        return digest.digest()

    @property
    def waits(self) -> bool:
        """True for a completed image generation call that lacks its image."""
        return self.is_image and not self.has_result and self.raws().get("status") != b'"failed"'

    @property
    def type(self) -> str:
        """The value of "type"."""
        tag: str = CALLS.chosen(self.call).plan.tag or self._fields.type
        return tag

    @property
    def id(self) -> str:
        """The value of "id"; empty if the item has none."""
        if self.is_image:
            name: str = self._fields.id
            return name
        value = parse(self.raws().get("id", b"null"))
        return value if isinstance(value, str) else ""

    def pieces(self) -> list[Piece]:
        """Returns the item as JSON. Raises ConversionError."""
        return call_pieces(self.call, self.apart)

    def raws(self) -> dict[str, bytes]:
        """Returns the item's values as raw JSON text, without the images of a call.

        Raises ConversionError.
        """
        if not self.is_image:
            return members(join(self.pieces()))
        short = ImageGenerationCall()
        short.CopyFrom(self.call)
        for place in image_fields(short):
            place.value = b""
        return members(join(call_pieces(short)))

    def complete(self, name: str) -> None:
        """Gives the item the id of its events, and an image generation call a result."""
        if self.is_image and not self._fields.HasField(_RESULT):
            self._fields.result.null_value = 0
        if not name or name == self.id:
            return
        if self.is_image:
            self._fields.id = name
        else:
            self._fields.json = join_members(self.raws() | {"id": quote(name)}).decode()

    @property
    def _fields(self) -> Any:
        return getattr(self.call, CALLS.chosen(self.call).name)


def item_of(raw: bytes) -> OutputItem | None:
    """Reads an output's element that is no image generation call; None if it has no type."""
    value = parse(raw)
    tag = value.get(TYPE) if isinstance(value, dict) else None
    if not isinstance(tag, str) or tag in CALLS.by_type:
        return None
    call = ImageGenerationCall()
    call.unknown_item.type, call.unknown_item.json = tag, raw.decode().strip()
    return OutputItem(call)


@dataclass
class Part:
    """Part of an item's content, as far as its events have come."""

    text: str = ""
    events: set[str] = field(default_factory=set)


@dataclass
class Followed:
    """Item of a stream, as far as its events have come.

    Attributes:
        index: the item's index in the output, from its events.
        id: the item's id, from its events.
        type: the item's type; empty until an event shows the type.
        begun: response.output_item.added was sent.
        done: response.output_item.done was sent.
        final: the item of response.output_item.done, also of one held back for lack of an image.
        shown: the item of response.output_item.added.
        events: the types of the further events of the item.
        parts: the parts of its content, by their index.
    """

    index: int
    id: str = ""
    type: str = ""
    begun: bool = False
    done: bool = False
    final: OutputItem | None = None
    shown: OutputItem | None = None
    events: set[str] = field(default_factory=set)
    parts: dict[int, Part] = field(default_factory=dict)


class Placed(NamedTuple):
    """Item of the final output, with its index there. None: the index is unknown."""

    at: int | None
    item: OutputItem


class OutputItems:
    """Items of one stream, in the order of their first events."""

    def __init__(self) -> None:
        self._items: list[Followed] = []

    def __iter__(self) -> Iterator[Followed]:
        return iter(sorted(self._items, key=lambda item: item.index))

    def find(self, index: int | None, name: str, begins: bool = False) -> Followed | None:
        """Returns the item of an event, by the event's id and index.

        Another id at a known index means the same item, unless that item is done or the event
        begins an item.
        """
        for item in reversed(self._items):
            if name and item.id == name:
                return item
        for item in reversed(self._items):
            other = name and item.id and (item.done or begins)
            if index is not None and item.index == index and not other:
                return item
        return None

    def add(self, index: int | None, name: str, tag: str) -> Followed:
        """Adds an item, at the next index if `index` is None."""
        item = Followed(self.free(None) if index is None else index, name, tag)
        self._items.append(item)
        return item

    def free(self, wanted: int | None) -> int:
        """Returns an unused index: the wanted one if possible."""
        taken = {item.index for item in self._items}
        return wanted if wanted is not None and wanted not in taken else max(taken, default=-1) + 1

    def matched(self, output: Sequence[Placed]) -> list[Followed | None]:
        """Returns the stream's item for each item of an output; None for a new item."""
        found: list[Followed | None] = [None] * len(output)
        ids = Counter(placed.item.id for placed in output)
        rules: tuple[_Same, ...] = (_same_id(ids), _same_index, _same_type)
        for same in rules:
            for number, placed in enumerate(output):
                if found[number] is None:
                    left = [one for one in self if not any(one is other for other in found)]
                    found[number] = next((one for one in left if same(one, placed)), None)
        return found


_Same: TypeAlias = Callable[[Followed, Placed], bool]
"""Predicate: an item of the stream and an item of the output are one item."""


def _same_id(ids: Counter[str]) -> _Same:
    def same(followed: Followed, placed: Placed) -> bool:
        name = placed.item.id
        return bool(name) and ids[name] == 1 and followed.id == name

    return same


def _same_index(followed: Followed, placed: Placed) -> bool:
    return followed.index == placed.at and followed.type == placed.item.type


def _same_type(followed: Followed, placed: Placed) -> bool:
    final, item = followed.final, placed.item
    if followed.type != item.type or (followed.done and placed.at is None):
        return False
    if final is None or not (final.has_result and item.has_result):
        return True
    return final.digest == item.digest
