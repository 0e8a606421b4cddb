"""Compiles the plan of each message type once, from its descriptor and options.

Names no message, field or variant: proto/imagecall/v1/options.proto defines the options, and the
other .proto files set them.
"""

from collections.abc import Iterator, Mapping
from functools import cache, partial

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from imagecall.conversion.fast_path import ExtraFields, Member, plain_read, plain_write
from imagecall.conversion.fields import (
    INTEGERS,
    Codec,
    enum_codec,
    enum_of,
    holds_other_spellings,
    key_of,
    member_start,
    message_of,
    number_codec,
    other_spelling_write,
    simple_codec,
    spellings,
    strings_codec,
)
from imagecall.conversion.images import IMAGE_RESULT, image_codec
from imagecall.conversion.objects import TYPE, ObjectPlan, RawObjectPlan, as_object
from imagecall.conversion.unions import UnionPlan, Variant
from imagecall.errors import ConversionError, pointer_to
from imagecall.json.large_strings import Spans
from imagecall.json.pieces import Apart, Piece, under
from imagecall.json.text import JsonValue, quote
from imagecall.v1 import options_pb2
from imagecall.wire.varint import ONE_BYTE, tag_of


def is_union(descriptor: Descriptor) -> bool:
    """True for a message whose only content is a oneof of several objects."""
    oneofs = [oneof for oneof in descriptor.oneofs if len(oneof.fields) > 1]
    return len(oneofs) == 1 and len(oneofs[0].fields) == len(descriptor.fields)


@cache
def union_plan(descriptor: Descriptor) -> UnionPlan:
    """Plan of a message that holds one of several objects."""
    [oneof] = descriptor.oneofs
    by_type: dict[str, ObjectPlan] = {}
    variants = []
    for field in oneof.fields:
        option = field.GetOptions().Extensions[options_pb2.json_variant]
        plan: ObjectPlan | RawObjectPlan
        if option.fallback:
            plan = _raw_object_plan(message_of(field), by_type)
        else:
            plan = by_type[plan.tag] = object_plan(message_of(field))
        variants.append(Variant(field.name, tag_of(field), option, plan))
    return UnionPlan(oneof.name, variants)


def _raw_object_plan(descriptor: Descriptor, others: Mapping[str, ObjectPlan]) -> RawObjectPlan:
    json_field = _named_by_role(descriptor, options_pb2.FIELD_ROLE_RAW_OBJECT)
    [type_field] = [f.name for f in descriptor.fields if key_of(f).name]
    return RawObjectPlan(type_field, json_field, others)


@cache
def object_plan(descriptor: Descriptor) -> ObjectPlan:
    """Plan of a message whose fields are the keys of an object."""
    tag = descriptor.GetOptions().Extensions[options_pb2.json_object].type
    keys = {key_of(f).name: f for f in descriptor.fields if key_of(f).name and not key_of(f).role}
    others = {keys[key_of(f).name]: f for f in descriptor.fields if holds_other_spellings(f)}
    codecs = {key: _codec(field, others.get(field)) for key, field in keys.items()}
    start = b'{"type":%b' % quote(tag) if tag else b"{"
    plain, all_keys = list(_plain_members(keys)), frozenset([*keys, TYPE])
    extras_name = _named_by_role(descriptor, options_pb2.FIELD_ROLE_EXTRA_FIELDS)
    extra_fields = ExtraFields(descriptor.fields_by_name[extras_name])
    return ObjectPlan(
        tag=tag,
        plain_read=partial(plain_read, plain, all_keys, extra_fields, TYPE, tag),
        plain_write=plain_write(plain, all_keys, extra_fields, start),
        message_class=GetMessageClass(descriptor),
        reads={key: codec.read for key, codec in codecs.items() if codec.read},
        raw_reads={key: codec.read_raw for key, codec in codecs.items() if codec.read_raw},
        keys={f: key for key, field in keys.items() for f in (field, others.get(field, field))},
        writes={field: codecs[key].write for key, field in keys.items()},
        other_writes={o: (f, other_spelling_write(f, o)) for f, o in others.items()},
        start=start,
        own_keys=frozenset(key for key, field in keys.items() if not key_of(field).lenient)
        | (frozenset([TYPE]) if tag else frozenset()),
        extra_fields=extra_fields,
        required=tuple(key for key, field in keys.items() if key_of(field).required),
        closed=tuple(
            (key, others[field].name, ", ".join(spellings(enum_of(field))))
            for key, field in keys.items()
            if key_of(field).closed
        ),
        image_keys=frozenset().union(*(_image_keys(key, field) for key, field in keys.items())),
    )


def _plain_members(keys: Mapping[str, FieldDescriptor]) -> Iterator[Member]:
    for key, field in keys.items():
        tag, start = tag_of(field), member_start(field)
        if field.is_repeated or tag >= ONE_BYTE:
            continue
        if field.type == FieldDescriptor.TYPE_STRING:
            yield Member("string", key, tag, start, {})
        elif field.type == FieldDescriptor.TYPE_ENUM:
            yield Member("enum", key, tag, start, spellings(enum_of(field)))
        elif field.type in INTEGERS:
            yield Member("integer", key, tag, start, {n: n for n in range(ONE_BYTE)})
        elif _is_image(field) and not key_of(field).lenient:
            yield Member("image", key, tag, start, {})


def _is_image(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.full_name == IMAGE_RESULT


def _named_by_role(descriptor: Descriptor, role: options_pb2.FieldRole.ValueType) -> str:
    """Name of the one field of a message that has a role."""
    [name] = [field.name for field in descriptor.fields if key_of(field).role == role]
    return name


def _image_keys(key: str, field: FieldDescriptor) -> frozenset[str]:
    """Keys that hold images: the member's own, or those in its value."""
    if field.message_type is None:
        return frozenset()
    if _is_image(field):
        return frozenset([key])
    return _plan(field.message_type).image_keys


def _plan(descriptor: Descriptor) -> UnionPlan | ObjectPlan:
    return union_plan(descriptor) if is_union(descriptor) else object_plan(descriptor)


def _codec(field: FieldDescriptor, other: FieldDescriptor | None) -> Codec:
    """Codec of a field that has a JSON key; `other` is an enum's field for other spellings."""
    if field.is_repeated and field.type == FieldDescriptor.TYPE_STRING and key_of(field).lenient:
        return strings_codec(field)
    if not field.has_presence and other is None:
        raise TypeError(f"{field.full_name}: a key must be optional, or absence would be lost")
    match field.type:
        case FieldDescriptor.TYPE_STRING:
            return simple_codec(field, str, "a string")
        case FieldDescriptor.TYPE_BOOL:
            return simple_codec(field, bool, "true or false")
        case kind if kind in INTEGERS or kind == FieldDescriptor.TYPE_DOUBLE:
            return number_codec(field)
        case FieldDescriptor.TYPE_ENUM if other is not None:
            return enum_codec(field, other)
        case FieldDescriptor.TYPE_MESSAGE if _is_image(field):
            return image_codec(field)
        case FieldDescriptor.TYPE_MESSAGE:
            return _nested_codec(field)
    raise TypeError(f"{field.full_name}: no JSON value is defined for a field of this type")


def _nested_codec(field: FieldDescriptor) -> Codec:
    """Codec of a JSON object and a field of one object type, or of one of several."""
    name, key, start = field.name, key_of(field), member_start(field)
    plan = _plan(message_of(field))
    read = partial(plan.read, name=key.variant) if isinstance(plan, UnionPlan) else plan.read

    def read_raw(target: Message, raw: bytes, value: JsonValue, spans: Spans, strict: bool) -> bool:
        if key.lenient and not isinstance(value, dict):
            return False
        try:
            read(getattr(target, name), raw, as_object(value), spans, strict)
        except ConversionError as error:
            raise error.under(pointer_to(key.name)) from None
        return True

    def write(message: Message, pieces: list[Piece], apart: Apart) -> None:
        pieces.append(start)
        try:
            if isinstance(plan, UnionPlan):
                plan.refuse_misplaced(message, key.variant)
            plan.write(message, pieces, under(apart, name))
        except ConversionError as error:
            raise error.under(pointer_to(key.name)) from None

    return Codec(write, read_raw=read_raw)
