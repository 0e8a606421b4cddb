"""`imagecall describe`: the variants of an item, where they stand, and what JSON they take."""

import argparse

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from imagecall.codecs import enum_of, key_of, message_of, spellings
from imagecall.converter import CALLS
from imagecall.unions import Variant
from imagecall.v1.document_kind_pb2 import DocumentKind
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall


def run(options: argparse.Namespace) -> int:
    """Prints all variants, or one of them with its keys."""
    if options.variant:
        print(_details(CALLS.variants[options.variant]))
        return 0
    width = max(map(len, CALLS.variants))
    for variant in CALLS.variants.values():
        print(f"{variant.name:{width}}  {variant.plan.tag or 'any other type'}")
        print(f"{'':{width}}  {_place(variant)}")
    print("\nimagecall describe VARIANT says which keys it has.")
    return 0


def _place(variant: Variant) -> str:
    """Where items of a variant stand, in words."""
    if variant.option.fallback:
        return "any place"
    places = [
        f"{DocumentKind.Name(position.kind).removeprefix('DOCUMENT_KIND_').lower()} {position.path}"
        for position in variant.option.positions
    ]
    if len(CALLS.by_type[variant.plan.tag]) == 1:
        return "any place: its type says it"
    return ", ".join(places) or "where the caller names it"


def _details(variant: Variant) -> str:
    descriptor = _descriptor(variant)
    lines = [variant.name, f"  {_place(variant)}"]
    if variant.plan.tag:
        lines.append(f'  type             always "{variant.plan.tag}"')
    for field in descriptor.fields:
        if key := key_of(field).name:
            demand = "required by STRICT" if key_of(field).required else "optional"
            lines.append(f"  {key:16} {_kind(field)}; {demand}")
    if variant.option.fallback:
        lines.append("  The whole item is kept as it is.")
    else:
        lines.append("  Other keys are kept as they are.")
    return "\n".join(lines)


def _descriptor(variant: Variant) -> Descriptor:
    field = ImageGenerationCall.DESCRIPTOR.fields_by_name[variant.name]
    return message_of(field)


def _kind(field: FieldDescriptor) -> str:
    """What JSON a field takes, in words."""
    if field.type == FieldDescriptor.TYPE_ENUM:
        known = ", ".join(spellings(enum_of(field)))
        return f"{known}" + ("" if key_of(field).closed else ", or any other string")
    if field.type == FieldDescriptor.TYPE_STRING:
        return "a string"
    return "an image in base64, another string, or null"
