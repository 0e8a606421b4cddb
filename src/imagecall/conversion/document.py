"""Whole requests, responses and events: takes items out of their JSON, and puts them back.

The schema's options define where an item may be, and as which variant it is read there: see
JsonPosition in proto/imagecall/v1/options.proto.
"""

import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from imagecall.conversion.converter import CALLS, call_pieces
from imagecall.conversion.fields import refuse_unknown_fields
from imagecall.conversion.objects import TYPE, as_object
from imagecall.errors import ConversionError, pointer_to, quoted
from imagecall.json.large_strings import NO_SPANS, Spans, set_aside
from imagecall.json.pieces import (
    NOTHING_APART,
    Apart,
    Piece,
    check_depth_of,
    join,
    join_element_pieces,
    join_member_pieces,
    under,
    under_each,
)
from imagecall.json.text import MAX_BYTES, JsonValue, elements, encode, members, parse
from imagecall.turns import take_turn
from imagecall.v1.document_kind_pb2 import DocumentKind
from imagecall.v1.document_pb2 import Document
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall

PlacedCall: TypeAlias = tuple[ImageGenerationCall, Apart]
"""Call, and its images that are set apart."""

Elsewhere: TypeAlias = Mapping[str, PlacedCall]
"""Calls of a document that are not in the document, by their pointers."""

_NOWHERE: Final[Elsewhere] = {}

Kind: TypeAlias = Literal["request", "response", "event", "batch_request", "batch_response"]

_PREFIX: Final = "DOCUMENT_KIND_"
_ANY_INDEX: Final = "*"

KINDS: Final[dict[Kind, int]] = {
    value.name.removeprefix(_PREFIX).lower(): value.number  # type: ignore[misc]  # those of Kind
    for value in DocumentKind.DESCRIPTOR.values
    if value.number
}
"""Numbers in DocumentKind of the kinds of documents, by name."""


class Position(NamedTuple):
    """Path at which items may be ("*" is any index), and the variant as which they are read."""

    path: tuple[str, ...]
    variant: str


POSITIONS: Final = {
    kind: tuple(
        Position(tuple(position.path.split("/")[1:]), variant.name)
        for variant in CALLS.variants.values()
        for position in variant.option.positions
        if position.kind == kind and not position.named
    )
    for kind in KINDS.values()
}
"""Positions of items, by the number of the kind of document."""


_Places: TypeAlias = "Position | dict[str, _Places]"
"""Places for items in a JSON value: the value's own position, or the places within by key."""


def _places(positions: Iterable[Position]) -> dict[str, _Places]:
    """Tree of the places of these positions."""
    tree: dict[str, _Places] = {}
    for position in positions:
        within: _Places = tree
        *keys, last = position.path
        for key in keys:
            within = within.setdefault(key, {}) if isinstance(within, dict) else within
        if not isinstance(within, dict) or within.setdefault(last, position) is not position:
            raise TypeError(f"{position.path} is twice a place for items, or is within one")
    return tree


_PLACES: Final = {kind: _places(positions) for kind, positions in POSITIONS.items()}

Visit: TypeAlias = Callable[[Position, str, bytes, JsonValue], list[Piece] | None]
"""Maps a position, a JSON Pointer, a raw value and its parsed value to the pieces that replace the
value. None: the value stays."""


def kind_name(number: int) -> Kind:
    """Name of the kind with a number in DocumentKind. Raises ConversionError: UNKNOWN_KIND."""
    for name, kind in KINDS.items():
        if kind == number:
            return name
    choices = ", ".join(DocumentKind.keys()[1:])
    message = f"{number} is not a kind of document; choose one of {choices}"
    raise ConversionError("UNKNOWN_KIND", "", message)


def document_from_json(text: bytes | str, *, kind: Kind, max_bytes: int = MAX_BYTES) -> Document:
    """Reads a request, a response, an event or a Batch line, and takes its items out.

    An object at a position for items is an item if its "type" is that of an image generation call.
    Everything else stays in the document's JSON unchanged. Items are read in the WIRE profile.

    Raises ConversionError, with the JSON Pointer of the culprit in the document.
    """
    if kind not in KINDS:
        message = f"there is no kind of document {quoted(kind)}; choose one of {', '.join(KINDS)}"
        raise ConversionError("UNKNOWN_KIND", "", message)
    data = encode(text, max_bytes)
    short, spans = set_aside(data, CALLS.image_pattern)
    if spans:
        with suppress(ConversionError):
            document = _lift(KINDS[kind], short, spans)
            if not spans:
                return document
    return _lift(KINDS[kind], data, NO_SPANS)


class _PlacedItem(NamedTuple):
    """Item of a document, and its place."""

    position: Position
    pointer: str
    raw: bytes
    value: JsonValue


def _lift(kind: int, data: bytes, spans: Spans) -> Document:
    items: list[_PlacedItem] = []

    def lift(position: Position, pointer: str, raw: bytes, value: JsonValue) -> list[Piece] | None:
        if not _is_item(value):
            return None
        items.append(_PlacedItem(position, pointer, raw, value))
        return [b"null"]

    document = Document(kind=kind)  # type: ignore[arg-type]  # a number of DocumentKind
    edited = _edited(data, as_object(parse(data)), _PLACES[kind], "", lift)
    for position, pointer, raw, value in _in_order(kind, items):
        target = document.calls.add(pointer=pointer).call
        _read_item(target, pointer, raw, value, spans, position.variant)
    raw = join(join_member_pieces(edited)) if edited else data
    take_turn()
    text = raw.decode()
    take_turn()
    document.json = text
    take_turn()
    return document


def _in_order(kind: int, items: list[_PlacedItem]) -> list[_PlacedItem]:
    """Sorts items into the order of Document.calls: by position, then by place in the text."""
    return sorted(items, key=lambda item: POSITIONS[kind].index(item.position))


def _read_item(
    target: ImageGenerationCall,
    pointer: str,
    raw: bytes,
    item: JsonValue,
    spans: Spans,
    variant: str,
) -> None:
    try:
        CALLS.read(target, raw, item, spans, False, variant)
    except ConversionError as error:
        raise error.under(pointer) from None


def document_to_json(document: Document, *, max_bytes: int = MAX_BYTES) -> bytes:
    """Writes a document, with its items put back, as JSON in UTF-8.

    The inverse of `document_from_json`. Items that are in the JSON already are checked. Raises
    ConversionError, also if the pointer of an item is not a position for items, or is not null.
    """
    return whole_document(document, max_bytes=max_bytes)


def whole_document(
    document: Document, elsewhere: Elsewhere = _NOWHERE, *, max_bytes: int = MAX_BYTES
) -> bytes:
    """Writes a document as `document_to_json` does, with items of which some are elsewhere."""
    data, edited = _put_back(document, NOTHING_APART, max_bytes, elsewhere)
    return join(check_depth_of(join_member_pieces(edited) if edited else [data]), max_bytes)


def document_members(
    document: Document, apart: Apart = NOTHING_APART, elsewhere: Elsewhere = _NOWHERE
) -> dict[str, Sequence[Piece]]:
    """Pieces of each value of a document's object, by key. Checks no limit of the whole text.

    Raises ConversionError.
    """
    data, edited = _put_back(document, apart, sys.maxsize, elsewhere)
    return dict(edited) or {key: [raw] for key, raw in members(data).items()}


def _put_back(
    document: Document, apart: Apart, max_bytes: int, elsewhere: Elsewhere
) -> tuple[bytes, dict[str, list[Piece]]]:
    """Returns a document's JSON, and the pieces of each of its values by key, if it has items."""
    refuse_unknown_fields(document, "")
    kind_name(document.kind)
    data = encode(document.json, max_bytes)
    value = as_object(parse(data))
    calls = {}
    images = under_each(apart, "calls")
    for index, call in enumerate(document.calls):
        take_turn()
        refuse_unknown_fields(call, call.pointer)
        if call.pointer in elsewhere:
            calls[call.pointer] = elsewhere[call.pointer]
        elif call.HasField("call_index") or call.HasField("output_index"):
            message = "the call is elsewhere in the answer of which the document is a part"
            raise ConversionError("NOT_CANONICAL", call.pointer, message)
        else:
            calls[call.pointer] = call.call, under(images[index], "call")
    items: list[_PlacedItem] = []

    def put_back(
        position: Position, pointer: str, raw: bytes, value: JsonValue
    ) -> list[Piece] | None:
        if _is_item(value):
            _read_item(ImageGenerationCall(), pointer, raw, value, NO_SPANS, position.variant)
        if value is not None or pointer not in calls:
            return None
        items.append(_PlacedItem(position, pointer, raw, value))
        return _item_pieces(pointer, *calls[pointer], position.variant)

    edited = _edited(data, value, _PLACES[document.kind], "", put_back)
    order = {item.pointer: None for item in _in_order(document.kind, items)}
    _check_order([call.pointer for call in document.calls], order)
    return data, edited


def _item_pieces(
    pointer: str, call: ImageGenerationCall, apart: Apart, variant: str
) -> list[Piece]:
    """Pieces of an item's JSON. Raises ConversionError unless it reads back as the same item."""
    try:
        pieces = call_pieces(call, apart)
        CALLS.refuse_misplaced(call, variant)
        if CALLS.chosen(call).option.fallback:
            message = "an item of another type stays in the JSON, and must not be among the calls"
            raise ConversionError("NOT_CANONICAL", "", message)
    except ConversionError as error:
        raise error.under(pointer) from None
    return pieces


def _check_order(pointers: Sequence[str], places: Collection[str]) -> None:
    """Raises ConversionError unless each pointer was put back once, in this order."""
    for pointer in pointers:
        if pointer not in places:
            message = f"{quoted(pointer)} is not a place for an item, or is not null in the JSON"
            raise ConversionError("BAD_POINTER", pointer, message)
    for pointer, expected in zip(pointers, places, strict=False):
        if pointer != expected:
            message = f"the items are not in order: {quoted(pointer)} comes too early"
            raise ConversionError("NOT_CANONICAL", pointer, message)
    if len(pointers) > len(places):
        message = "two items have the same pointer"
        raise ConversionError("NOT_CANONICAL", pointers[-1], message)


def _is_item(value: JsonValue) -> bool:
    tag = value.get(TYPE) if isinstance(value, dict) else None
    return isinstance(tag, str) and tag in CALLS.by_type


def _edit(
    raw: bytes, value: JsonValue, places: _Places, pointer: str, visit: Visit
) -> list[Piece] | None:
    """Visits the places within a value, each once.

    Returns the pieces of the edited value; None if nothing changed.
    """
    if isinstance(places, Position):
        return visit(places, pointer, raw, value)
    if not (edited := _edited(raw, value, places, pointer, visit)):
        return None
    if isinstance(value, dict):
        return join_member_pieces(edited)
    return join_element_pieces(edited.values())


def _edited(
    raw: bytes, value: JsonValue, places: Mapping[str, _Places], pointer: str, visit: Visit
) -> dict[Any, list[Piece]]:
    """Pieces of each value of an object or array, by key or index; empty if nothing changed."""
    within: dict[Any, _Places] = {}
    if isinstance(value, dict):
        within = {key: places[key] for key in places if key in value and key != _ANY_INDEX}
    elif isinstance(value, list) and _ANY_INDEX in places:
        within = dict.fromkeys(range(len(value)), places[_ANY_INDEX])
    if not within:
        return {}
    raws: dict[Any, bytes] = (
        members(raw) if isinstance(value, dict) else dict(enumerate(elements(raw)))
    )
    edits: dict[Any, list[Piece]] = {}
    for key, inner in within.items():
        edit = _edit(raws[key], value[key], inner, pointer + pointer_to(key), visit)
        if edit is not None:
            edits[key] = edit
    return {key: edits.get(key, [raw]) for key, raw in raws.items()} if edits else {}
