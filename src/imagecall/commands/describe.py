"""`imagecall describe`: the variants of an item, their places, and their JSON keys."""

import argparse
from typing import Final

from google.protobuf.descriptor import FieldDescriptor

from imagecall.conversion.converter import CALLS
from imagecall.conversion.document import kind_name
from imagecall.conversion.fields import enum_of, key_of, message_of, spellings
from imagecall.conversion.images import IMAGE_RESULT
from imagecall.conversion.unions import Variant
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall

_KINDS: Final = {FieldDescriptor.TYPE_STRING: "a string", FieldDescriptor.TYPE_BOOL: "a boolean"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument(
        "variant",
        nargs="?",
        choices=list(CALLS.variants),
        metavar="VARIANT",
        help="variant to describe in detail (default: list all)",
    )


def fault(options: argparse.Namespace) -> str | None:
    """Returns None: no options of this command contradict each other."""
    return None


def run(options: argparse.Namespace) -> int:
    """Prints all variants, or one of them with its keys."""
    if options.variant:
        print(_details(CALLS.variants[options.variant]))
        return 0
    for variant in CALLS.variants.values():
        print(variant.name + (" (the default)" if variant.option.default else ""))
        print(f"  where     {_places(variant)}")
        print(f"  JSON      {_keys(variant)}")
    print("\nimagecall describe VARIANT lists the values of each key.")
    return 0


def _places(variant: Variant) -> str:
    """Returns a phrase for the places of a variant's items."""
    if variant.option.fallback:
        return "any place: an item of a type that no other variant has"
    if len(CALLS.by_type[variant.plan.tag]) == 1:
        return "any place: only this variant has its type"
    places = [f"{kind_name(place.kind)} {place.path}" for place in variant.option.positions]
    named = any(place.named for place in variant.option.positions)
    return ", ".join(places) + (", if you name it" if named else "")


def _keys(variant: Variant) -> str:
    """Returns a variant's keys on a line, with a mark on those that STRICT requires."""
    if variant.option.fallback:
        return "type, and any other keys"
    keys = [key_of(f).name + "*" * key_of(f).required for f in _fields(variant)]
    return f'type "{variant.plan.tag}", {", ".join(keys)}  (* STRICT requires it)'


def _details(variant: Variant) -> str:
    lines = [variant.name, f"  {_places(variant)}"]
    if variant.option.fallback:
        return "\n".join(
            [*lines, "  type             a string", "  The whole item is kept as it is."]
        )
    lines.append(f'  type             always "{variant.plan.tag}"')
    for field in _fields(variant):
        demand = "; STRICT requires it" if key_of(field).required else ""
        lines.append(f"  {key_of(field).name:16} {_kind(field)}{demand}")
    return "\n".join([*lines, "  Other keys are kept as they are."])


def _fields(variant: Variant) -> list[FieldDescriptor]:
    """Returns the fields of a variant that are JSON keys."""
    descriptor = message_of(ImageGenerationCall.DESCRIPTOR.fields_by_name[variant.name])
    return [f for f in descriptor.fields if key_of(f).name and not key_of(f).role]


def _kind(field: FieldDescriptor) -> str:
    """Description of the JSON value of a field."""
    if field.type == FieldDescriptor.TYPE_ENUM:
        statuses = ", ".join(spellings(enum_of(field)))
        closed = "; STRICT accepts these only" if key_of(field).closed else ""
        return f"a string, such as {statuses}{closed}"
    if field.message_type is not None and field.message_type.full_name != IMAGE_RESULT:
        return "an object"
    if field.message_type is not None:
        return "an image in base64, another string, or null"
    return _KINDS.get(field.type, "a number")
