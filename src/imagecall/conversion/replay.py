"""Converts an output item to an input item that the APIs accept.

The APIs refuse their own output items: OpenAI answers 400 "Unknown parameter: 'input[n].action'"
to the further keys of an item, and OpenRouter checks the status of input items against a closed
list.
"""

from typing import Final, NamedTuple

from google.protobuf.message import Message

from imagecall.conversion.converter import CALLS
from imagecall.conversion.fields import holds_other_spellings, key_of, message_of
from imagecall.errors import ConversionError, pointer_to, quoted
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall

_TARGET: Final = next(v.name for v in CALLS.variants.values() if v.option.replay)
_FIELDS: Final = message_of(ImageGenerationCall.DESCRIPTOR.fields_by_name[_TARGET]).fields
_CLOSED: Final = {key_of(field).name for field in _FIELDS if key_of(field).closed}
_ACCEPTED: Final = {
    field.name
    for field in _FIELDS
    if key_of(field).name and not (holds_other_spellings(field) and key_of(field).name in _CLOSED)
}
"""Fields that the APIs accept: those with a key of their own, but no unlisted status."""


class Replay(NamedTuple):
    """Item to send back.

    Attributes:
        call: the item, as the variant of a request's "input": type, id, result and status.
        dropped: the JSON keys of the original that `call` lacks.
    """

    call: ImageGenerationCall
    dropped: tuple[str, ...]


def to_input(call: ImageGenerationCall) -> Replay:
    """Reduces an item to the keys that OpenAI and OpenRouter accept: type, id, result, status.

    An item of the type `openrouter:image_generation` becomes an image_generation_call; no other
    value is changed. Any other key is dropped, and so is a status that is not one of the four that
    OpenRouter accepts; `dropped` names the keys. A key that the item lacks is not added.

    Raises ConversionError as `to_json` does; NOT_REPLAYABLE for an item without an id, by which the
    APIs find it, and for an UnknownItem.
    """
    CALLS.write(call, [])  # Raises for a call that has no JSON.
    variant = CALLS.chosen(call)
    if variant.option.fallback:
        message = "only image generation calls can be sent back, not an item of another type"
        raise ConversionError("NOT_REPLAYABLE", pointer_to("type"), message)
    replay = ImageGenerationCall()
    source, target = getattr(call, variant.name), getattr(replay, _TARGET)
    dropped: list[str] = []
    for field, value in source.ListFields():
        if field.name not in _ACCEPTED:
            dropped += [key_of(field).name] if key_of(field).name else [e.name for e in value]
        elif isinstance(value, Message):
            getattr(target, field.name).CopyFrom(value)
        else:
            setattr(target, field.name, value)
    if not target.HasField("id"):
        message = f"an item without {quoted('id')} cannot be sent back: the APIs find it by its id"
        raise ConversionError("NOT_REPLAYABLE", pointer_to("id"), message)
    return Replay(replay, tuple(dropped))
