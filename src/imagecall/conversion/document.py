"""Whole requests, responses and events: their items lifted out of the JSON, and put back.

Where an item may stand, and as which variant it is read there, are options in the schema: see
JsonPosition in proto/imagecall/v1/options.proto.
"""

import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from imagecall.conversion.converter import CALL_IMAGE_KEYS, CALLS
from imagecall.conversion.fields import refuse_unknown_fields
from imagecall.conversion.objects import TYPE, as_object
from imagecall.errors import ConversionError, pointer_to, quoted
from imagecall.json.large_strings import MIN_BYTES, NO_SPANS, Piece, Spans, join, set_aside
from imagecall.json.text import (
    MAX_BYTES,
    JsonValue,
    check_depth,
    elements,
    encode,
    join_elements,
    join_members,
    members,
    parse,
)
from imagecall.v1.document_kind_pb2 import DocumentKind
from imagecall.v1.document_pb2 import Document
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall

Kind: TypeAlias = Literal["request", "response", "event"]

_PREFIX: Final = "DOCUMENT_KIND_"
_ANY_INDEX: Final = "*"

KINDS: Final = {
    value.name.removeprefix(_PREFIX).lower(): value.number
    for value in DocumentKind.DESCRIPTOR.values
    if value.number
}
"""The kinds of documents and their numbers in DocumentKind."""

KIND_NAMES: Final[dict[int, Kind]] = {number: name for name, number in KINDS.items()}  # type: ignore[misc]  # those of Kind
"""The kinds by number."""


@dataclass(frozen=True)
class Position:
    """Where items may stand: keys, and "*" for any index; and the variant they are read as."""

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
"""Where items may stand, by the number of the kind of document."""

Visit: TypeAlias = Callable[[str, bytes, JsonValue], bytes | None]
"""Given a JSON Pointer, a raw value and what it means: the raw value to put there, or None."""


def kind_name(number: int) -> Kind:
    """The kind with a number in DocumentKind. Raises ConversionError: UNKNOWN_KIND."""
    if number in KIND_NAMES:
        return KIND_NAMES[number]
    choices = ", ".join(DocumentKind.keys()[1:])
    message = f"{number} is no kind of document; choose one of {choices}"
    raise ConversionError("UNKNOWN_KIND", "", message)


def document_from_json(text: bytes | str, *, kind: Kind, max_bytes: int = MAX_BYTES) -> Document:
    """Reads a request, a response or a stream event, a JSON object, and lifts its items out.

    An object at a place for items is one if its "type" is that of an image generation call. All
    else stays in the document's JSON, its values untouched. Items are read in the WIRE profile.

    Raises ConversionError; its pointer is that of the culprit in the document.
    """
    if kind not in KINDS:
        message = f"there is no kind of document {quoted(kind)}; choose one of {', '.join(KINDS)}"
        raise ConversionError("UNKNOWN_KIND", "", message)
    data = encode(text, max_bytes)
    if len(data) >= MIN_BYTES:
        for short, spans in set_aside(data, CALL_IMAGE_KEYS):
            document = _try_lift(KINDS[kind], short, spans)
            if document is not None:
                return document
    return _lift(KINDS[kind], data, NO_SPANS)


def _try_lift(kind: int, short: bytes, spans: Spans) -> Document | None:
    """Reads a text with large strings set aside. None: read the whole text instead."""
    try:
        document = _lift(kind, short, spans)
    except ConversionError:
        return None
    return None if spans else document


def _lift(kind: int, data: bytes, spans: Spans) -> Document:
    document = Document(kind=kind)  # type: ignore[arg-type]  # a number of DocumentKind
    value = as_object(parse(data))
    for position in POSITIONS[kind]:

        def lift(
            pointer: str, raw: bytes, item: JsonValue, variant: str = position.variant
        ) -> bytes | None:
            if not _is_item(item):
                return None
            target = document.calls.add(pointer=pointer).call
            _read_item(target, pointer, raw, item, spans, variant)
            return b"null"

        data = _edit(data, value, position.path, "", lift) or data
    document.json = data.decode()
    return document


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
    """Writes a document as JSON in UTF-8, its items put back. The inverse of `document_from_json`.

    An item may also have been left in the JSON, where it is checked. Raises ConversionError, also
    if the pointer of an item is not a place for it, or holds no null.
    """
    refuse_unknown_fields(document, "")
    kind_name(document.kind)
    data = encode(document.json, max_bytes)
    value = as_object(parse(data))
    calls = {}
    for call in document.calls:
        refuse_unknown_fields(call, call.pointer)
        calls[call.pointer] = call.call
    put: dict[str, None] = {}
    large: dict[bytes, Piece] = {}
    for position in POSITIONS[document.kind]:

        def put_back(
            pointer: str, raw: bytes, item: JsonValue, variant: str = position.variant
        ) -> bytes | None:
            if _is_item(item):
                _read_item(ImageGenerationCall(), pointer, raw, item, NO_SPANS, variant)
            if item is not None or pointer not in calls:
                return None
            put[pointer] = None
            return _item_text(pointer, calls[pointer], variant, large)

        data = _edit(data, value, position.path, "", put_back) or data
    _check_order([call.pointer for call in document.calls], put)
    return join(_put_large(check_depth(data), large), max_bytes)


def _put_large(text: bytes, large: Mapping[bytes, Piece]) -> list[Piece]:
    """The pieces of a text in which markers stand for large images, in their order."""
    pieces: list[Piece] = []
    for marker, image in large.items():
        before, _, text = text.partition(marker)
        pieces += before, image
    return [*pieces, text]


def _item_text(
    pointer: str, call: ImageGenerationCall, variant: str, large: dict[bytes, Piece]
) -> bytes:
    """The JSON of an item, which must be what is read at a place for the variant.

    A large image is put into `large`, and its marker into the text.
    """
    pieces: list[Piece] = []
    try:
        CALLS.write(call, pieces)
        CALLS.refuse_misplaced(call, variant)
        if CALLS.chosen(call).option.fallback:
            message = "an item of another type stays in the JSON, and is none of the calls"
            raise ConversionError("NOT_CANONICAL", "", message)
    except ConversionError as error:
        raise error.under(pointer) from None
    texts: list[bytes] = []
    for piece in pieces:
        if not isinstance(piece, bytes):
            marker = secrets.token_hex(16).encode()
            large[marker] = piece
            piece = marker
        texts.append(piece)
    return b"".join(texts)


def _check_order(pointers: Sequence[str], put: Collection[str]) -> None:
    """Raises ConversionError unless each item was put back, in this order."""
    for pointer in pointers:
        if pointer not in put:
            message = f"{quoted(pointer)} is not a place for an item, or does not hold null"
            raise ConversionError("BAD_POINTER", pointer, message)
    for pointer, expected in zip(pointers, put, strict=False):
        if pointer != expected:
            message = f"the items are not in order: {quoted(pointer)} comes before its turn"
            raise ConversionError("NOT_CANONICAL", pointer, message)
    if len(pointers) > len(put):
        message = "two items have the same pointer"
        raise ConversionError("NOT_CANONICAL", pointers[-1], message)


def _is_item(value: JsonValue) -> bool:
    tag = value.get(TYPE) if isinstance(value, dict) else None
    return isinstance(tag, str) and tag in CALLS.by_type


def _edit(
    raw: bytes, value: JsonValue, path: Sequence[str], pointer: str, visit: Visit
) -> bytes | None:
    """Visits the values that a path leads to; the edited raw value, or None if nothing changed."""
    if not path:
        return visit(pointer, raw, value)
    if isinstance(value, list) and path[0] == _ANY_INDEX:
        items = elements(raw)
        edits = [
            _edit(item, value[index], path[1:], pointer + pointer_to(index), visit)
            for index, item in enumerate(items)
        ]
        if any(edits):
            return join_elements(new or old for new, old in zip(edits, items, strict=True))
    elif isinstance(value, dict) and path[0] != _ANY_INDEX and path[0] in value:
        key, raws = path[0], members(raw)
        edit = _edit(raws[key], value[key], path[1:], pointer + pointer_to(key), visit)
        if edit:
            return join_members(raws | {key: edit})
    return None
