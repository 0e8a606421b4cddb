"""Items of a response's output, followed through the events of the response's stream.

The id identifies an item. Some APIs change the id in the response at the end, or give one id to
several items: then the index in the output identifies the item, and if both differ, the type.
"""

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from io import StringIO
from itertools import chain
from typing import Any, Final, NamedTuple, TypeAlias

from imagecall.conversion.converter import CALLS, call_pieces
from imagecall.conversion.objects import TYPE
from imagecall.generation.chunked_fields import image_fields, text_fields
from imagecall.json.pieces import Apart, Piece, join, under_each
from imagecall.json.text import join_members, members, parse, quote
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall
from imagecall.v1.image_response_pb2 import ImageResponse

_RESULT: Final = "result"


@dataclass
class OutputItem:
    """Item, with its large images set apart."""

    call: ImageGenerationCall
    apart: Apart = field(default_factory=dict)
    _raws: Mapping[str, bytes] | None = field(default=None, init=False)

    @property
    def is_image(self) -> bool:
        """True for an image generation call."""
        return not CALLS.chosen(self.call).option.fallback

    @property
    def has_result(self) -> bool:
        """True for an image generation call whose result is an image or a text."""
        has_text = any(place.value for place in text_fields(self.call) if _RESULT in place.path)
        return has_text or bool(self.apart) or any(place.value for place in image_fields(self.call))

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
        """Value of "type"."""
        tag: str = CALLS.chosen(self.call).plan.tag or self._fields.type
        return tag

    @property
    def id(self) -> str:
        """Value of "id"; empty if the item has none."""
        if self.is_image:
            name: str = self._fields.id
            return name
        value = parse(self.raws().get("id", b"null"))
        return value if isinstance(value, str) else ""

    def pieces(self) -> list[Piece]:
        """Returns the item as JSON. Raises ConversionError."""
        return call_pieces(self.call, self.apart)

    def raws(self) -> Mapping[str, bytes]:
        """Returns the item's values as raw JSON text, without the images of a call.

        Raises ConversionError.
        """
        if self._raws is None:
            short = ImageGenerationCall()
            short.CopyFrom(self.call)
            for place in image_fields(short):
                place.value = b""
            self._raws = members(join(call_pieces(short)))
        return self._raws

    def complete(self, name: str) -> None:
        """Gives the item the id of its events, and an image generation call a result."""
        if self.is_image and not self._fields.HasField(_RESULT):
            self._fields.result.null_value = 0
            self.drop_raws()
        if not name or name == self.id:
            return
        if self.is_image:
            self._fields.id = name
        else:
            self._fields.json = join_members({**self.raws(), "id": quote(name)}).decode()
        self.drop_raws()

    def drop_raws(self) -> None:
        """Drops the cached values of `raws`, which take as much memory as the item."""
        self._raws = None

    @property
    def _fields(self) -> Any:
        return getattr(self.call, CALLS.chosen(self.call).name)


def calls_of(response: ImageResponse, apart: Apart) -> Iterator[OutputItem]:
    """Yields the calls of a response, with the images that are kept beside it."""
    images = under_each(apart, "calls")
    for number, call in enumerate(response.calls):
        yield OutputItem(call, images[number])


def item_of(raw: bytes) -> OutputItem | None:
    """Reads an element of an output other than an image generation call; None without a type."""
    value = parse(raw)
    tag = value.get(TYPE) if isinstance(value, dict) else None
    if not isinstance(tag, str) or tag in CALLS.by_type:
        return None
    call = ImageGenerationCall()
    call.unknown_item.type, call.unknown_item.json = tag, raw.decode().strip()
    return OutputItem(call)


@dataclass
class Part:
    """Part of an item's content, from the events so far."""

    text: StringIO = field(default_factory=StringIO)
    events: set[str] = field(default_factory=set)


@dataclass
class Followed:
    """Item of a stream, from the events so far.

    Attributes:
        index: the item's index in the output, from its events.
        id: the item's id, from its events.
        type: the item's type; empty until an event shows the type.
        added: response.output_item.added was sent.
        done: response.output_item.done was sent.
        final: the item of response.output_item.done, even if that event was held back.
        added_item: the item of response.output_item.added.
        events: the types of the further events of the item.
        parts: the parts of its content, by their index.
    """

    index: int
    id: str = ""
    type: str = ""
    added: bool = False
    done: bool = False
    final: OutputItem | None = None
    added_item: OutputItem | None = None
    events: set[str] = field(default_factory=set)
    parts: dict[int, Part] = field(default_factory=dict)


class Placed(NamedTuple):
    """Item of the final output, with its index there. None: the index is unknown."""

    at: int | None
    item: OutputItem


_Rule: TypeAlias = Callable[[Placed], Iterator[Followed]]
"""Maps an item of an output to the items of the stream that may be the same."""


class OutputItems:
    """Items of one stream, in the order of their first events."""

    def __init__(self) -> None:
        self._items: list[Followed] = []
        self._by_id: dict[str, Followed] = {}
        self._by_index: dict[int, Followed] = {}
        self._next = 0

    def __iter__(self) -> Iterator[Followed]:
        return iter(sorted(self._items, key=lambda item: item.index))

    def find(self, index: int | None, name: str, begins: bool = False) -> Followed | None:
        """Returns the item of an event, by the event's id and index.

        Another id at a known index means the same item, unless that item is done or the event
        begins an item.
        """
        if name in self._by_id:
            return self._by_id[name]
        item = None if index is None else self._by_index.get(index)
        if item is not None and name and item.id and (item.done or begins):
            return None
        return item

    def add(self, index: int | None, name: str, tag: str) -> Followed:
        """Adds an item, at the next index if `index` is None."""
        item = Followed(self.free(None) if index is None else index, name, tag)
        self._items.append(item)
        self._by_index[item.index] = item
        if name:
            self._by_id[name] = item
        return item

    def free(self, index: int | None) -> int:
        """Returns an index that no item has: the preferred one if possible."""
        if index is not None and index not in self._by_index:
            return index
        while self._next in self._by_index:
            self._next += 1
        return self._next

    def name(self, item: Followed, name: str, tag: str) -> None:
        """Gives an item its type, and an id if it had none."""
        item.type = tag
        if name and not item.id:
            item.id = name
            self._by_id.setdefault(name, item)

    def matched(self, output: Sequence[Placed]) -> list[Followed | None]:
        """Returns the stream's item for each item of an output; None for a new item."""
        matches: list[Followed | None] = [None] * len(output)
        unmatched = {id(item): item for item in self}
        for rule in self._rules(output, unmatched):
            if None not in matches:
                break
            for number, placed in enumerate(output):
                if matches[number] is None:
                    match = next((item for item in rule(placed) if id(item) in unmatched), None)
                    if match is not None:
                        matches[number] = unmatched.pop(id(match))
        return matches

    def _rules(
        self, output: Sequence[Placed], unmatched: Mapping[int, Followed]
    ) -> Iterator[_Rule]:
        """Yields the rules in turn; the last one reads the images of what is still unmatched."""
        yield self._with_ids(output)
        yield self._at_indexes()
        yield _of_types(unmatched)

    def _with_ids(self, output: Sequence[Placed]) -> _Rule:
        occurrences = Counter(placed.item.id for placed in output)

        def same(placed: Placed) -> Iterator[Followed]:
            name = placed.item.id
            if occurrences[name] == 1 and name in self._by_id:
                yield self._by_id[name]

        return same

    def _at_indexes(self) -> _Rule:
        def same(placed: Placed) -> Iterator[Followed]:
            item = None if placed.at is None else self._by_index.get(placed.at)
            if item is not None and item.type == placed.item.type:
                yield item

        return same


def _of_types(items: Mapping[int, Followed]) -> _Rule:
    """Returns a rule for items of the same type, in order; if both have an image, equal ones."""
    by_image: dict[tuple[str, bytes], deque[Followed]] = {}
    for item in items.values():
        by_image.setdefault(_type_and_image(item.type, item.final), deque()).append(item)

    def same(placed: Placed) -> Iterator[Followed]:
        tag = placed.item.type
        for key in {_type_and_image(tag, placed.item): 0, (tag, b""): 0}:
            queue = by_image.get(key, deque())
            while queue:
                item = queue.popleft()
                if not (item.done and placed.at is None):
                    yield item

    return same


def _type_and_image(tag: str, item: OutputItem | None) -> tuple[str, bytes]:
    return tag, item.digest if item is not None and item.has_result else b""
