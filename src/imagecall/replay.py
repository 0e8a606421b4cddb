"""An output item as an input item that the APIs take back.

Servers refuse what they send: OpenAI answers 400 "Unknown parameter" to an item's further keys, and
OpenRouter checks the status of input items against a closed list. See wire behaviour in the README.
"""

from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.message import Message

from imagecall.codecs import key_of
from imagecall.converter import CALLS
from imagecall.errors import ConversionError, pointer_to, quoted
from imagecall.v1.extra_field_pb2 import ExtraField
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall

_TARGET: Final = next(v.name for v in CALLS.variants.values() if v.option.replay)
_OTHER: Final = "unknown_"


@dataclass(frozen=True)
class Replay:
    """An item to send back.

    Attributes:
        call: the item, as the variant of a request's "input": type, id, result and status.
        dropped: the JSON keys of the original that it lacks, in their order.
    """

    call: ImageGenerationCall
    dropped: tuple[str, ...]


def to_input(call: ImageGenerationCall) -> Replay:
    """The item in the form in which OpenAI and OpenRouter take it back: four keys at most.

    No value is changed. Keys beside the four are dropped, and so is a status that is not one of the
    four that OpenRouter takes; `dropped` names them. A key that the item lacks is not made up.

    Raises ConversionError (NOT_REPLAYABLE) for an item without an id, by which the APIs find it,
    and for an UnknownItem; EMPTY_ONEOF if no variant is set.
    """
    variant = CALLS.chosen(call)
    if variant.option.fallback:
        message = "only image generation calls can be sent back, not an item of another type"
        raise ConversionError("NOT_REPLAYABLE", pointer_to("type"), message)
    replay = ImageGenerationCall()
    source, target = getattr(call, variant.name), getattr(replay, _TARGET)
    dropped = _move(source, target)
    if not target.HasField("id"):
        message = f"an item without {quoted('id')} cannot be sent back: the APIs find it by that"
        raise ConversionError("NOT_REPLAYABLE", pointer_to("id"), message)
    return Replay(replay, dropped)


def _move(source: Any, target: Any) -> tuple[str, ...]:
    """Copies the fields that the target has too; returns the keys of the others."""
    dropped: list[str] = []
    for field, value in source.ListFields():
        key = key_of(field)
        if isinstance(value, Message) and key.name and _has(target, field.name):
            getattr(target, field.name).CopyFrom(value)
        elif key.name and _has(target, field.name):
            setattr(target, field.name, value)
        elif key.name:
            dropped.append(key.name)
        elif field.name.startswith(_OTHER):
            other = source.DESCRIPTOR.fields_by_name[field.name.removeprefix(_OTHER)]
            dropped.append(key_of(other).name)
        else:
            extras: list[ExtraField] = value
            dropped += [extra.name for extra in extras]
    return tuple(dropped)


def _has(message: Message, field: str) -> bool:
    return field in message.DESCRIPTOR.fields_by_name
