"""Plan of a message whose oneof holds one of several objects, chosen by "type" and by the caller.

Several variants may have the same "type" and the same JSON: then the caller, or the place in a
document, selects one of them.
"""

import re
from collections.abc import Iterable
from functools import cached_property
from typing import NamedTuple

from google.protobuf.message import Message

from imagecall.conversion.fast_path import FAILURES, PlainRead, PlainWrite
from imagecall.conversion.fields import refuse_unknown_fields
from imagecall.conversion.objects import TYPE, JsonObject, ObjectPlan, RawObjectPlan, type_of
from imagecall.errors import ConversionError, pointer_to, quoted
from imagecall.json.large_strings import Spans, key_pattern
from imagecall.json.pieces import NOTHING_APART, Apart, Piece, under
from imagecall.sizes import PIECE
from imagecall.v1 import options_pb2
from imagecall.wire.varint import MAX_LENGTH_BYTES, ONE_BYTE, read_varint


class Variant(NamedTuple):
    """Member of a union."""

    name: str
    tag: int
    """Tag of its field in the oneof."""
    option: options_pb2.JsonVariant
    plan: ObjectPlan | RawObjectPlan


class UnionPlan:
    """Read and write of the objects of a union.

    Attributes:
        variants: the variants by name.
        by_type: the variants that are no fallback, by type and name.
        image_keys: the keys, at any depth, that hold images.
        default: the variant for callers that name none; empty if the type decides.
    """

    def __init__(self, oneof: str, variants: Iterable[Variant]) -> None:
        self.oneof = oneof
        self.variants = {variant.name: variant for variant in variants}
        self.by_type: dict[str, dict[str, Variant]] = {}
        for variant in self.variants.values():
            if not variant.option.fallback:
                self.by_type.setdefault(variant.plan.tag, {})[variant.name] = variant
        plans = [variant.plan for variant in self.variants.values()]
        self.image_keys = frozenset().union(*(plan.image_keys for plan in plans))
        self.default = next((v.name for v in self.variants.values() if v.option.default), "")

    @cached_property
    def image_pattern(self) -> re.Pattern[bytes]:
        """Pattern of a key that holds an image."""
        return key_pattern(self.image_keys)

    @cached_property
    def fallback(self) -> Variant:
        """Variant for every type that no other variant has."""
        return next(v for v in self.variants.values() if v.option.fallback)

    def choose(self, tag: str, name: str, strict: bool) -> Variant:
        """Chooses the variant for an object of type `tag` where the caller named `name`.

        The type decides, unless `strict`: an object of a type that no variant has is read as the
        fallback, of a type that only one variant has as that variant. Raises ConversionError:
        UNKNOWN_VARIANT, TYPE_MISMATCH.
        """
        of_type = self.by_type.get(tag, {})
        if variant := of_type.get(name):
            return variant
        if name not in self.variants and (name or self.default):
            message = (
                f"there is no variant {quoted(name)}; choose one of {', '.join(self.variants)}"
            )
            raise ConversionError("UNKNOWN_VARIANT", "", message)
        if not of_type and name == self.fallback.name:
            return self.fallback
        if len(of_type) <= 1 and not (strict and name):
            return next(iter(of_type.values()), self.fallback)
        raise self._mismatch(tag, name, of_type)

    def _mismatch(self, tag: str, name: str, of_type: Iterable[str]) -> ConversionError:
        message = f"{name} does not accept the type {quoted(tag)}"
        if names := ", ".join(of_type):
            message += f", which is that of {names}"
        elif tag_of_variant := self.variants[name].plan.tag:
            message += f", but {quoted(tag_of_variant)}"
        return ConversionError("TYPE_MISMATCH", pointer_to(TYPE), message)

    @cached_property
    def plain_reads(self) -> dict[str, dict[str, PlainRead]]:
        """Fast path of reading each variant, by name and type."""
        return {
            name: {variant.plan.tag: variant.plan.plain_read(variant.tag)}
            for name, variant in self.variants.items()
            if isinstance(variant.plan, ObjectPlan)
        }

    @cached_property
    def _plain_writes(self) -> dict[int, PlainWrite]:
        return {
            variant.tag: variant.plan.plain_write
            for variant in self.variants.values()
            if isinstance(variant.plan, ObjectPlan)
        }

    def plain_pieces(self, wire: bytes) -> list[Piece] | None:
        """Pieces of the JSON text of a serialized message. None: the message is not plain."""
        data = wire if len(wire) < PIECE else memoryview(wire)
        try:
            write = self._plain_writes[data[0]]
            length, start = data[1], 2
            if length >= ONE_BYTE:
                length, start = read_varint(data, 1, MAX_LENGTH_BYTES)
            return write(data, start) if start + length == len(data) else None
        except FAILURES:
            return None

    def read(
        self,
        target: Message,
        text: bytes,
        value: JsonObject,
        spans: Spans,
        strict: bool,
        name: str = "",
    ) -> None:
        """Puts the object `value`, whose raw text is `text`, into an empty message."""
        tag = type_of(value)
        variant = self.choose(tag, name, strict)
        variant.plan.read(getattr(target, variant.name), text, value, spans, strict)

    def write(self, message: Message, pieces: list[Piece], apart: Apart = NOTHING_APART) -> None:
        """Appends the JSON text of a message, with the images kept beside it, to the pieces."""
        refuse_unknown_fields(message, "")
        variant = self.chosen(message)
        variant.plan.write(getattr(message, variant.name), pieces, under(apart, variant.name))

    def refuse_misplaced(self, message: Message, name: str) -> None:
        """Raises ConversionError (NOT_CANONICAL) if the JSON would be read as another variant.

        `name` is the variant as which an object is read in the message's place.
        """
        variant = self.chosen(message)
        read_back = self.choose(variant.plan.tag, name, strict=False)
        if variant is not read_back:
            text = f"the item must be {read_back.name} in this place, not {variant.name}"
            raise ConversionError("NOT_CANONICAL", "", text)

    def chosen(self, message: Message) -> Variant:
        """Variant that is set in a message. Raises ConversionError: EMPTY_ONEOF."""
        name = message.WhichOneof(self.oneof)
        if name is None:
            text = f"the {message.DESCRIPTOR.name} is empty: set one of its variants"
            raise ConversionError("EMPTY_ONEOF", "", text)
        return self.variants[name]
