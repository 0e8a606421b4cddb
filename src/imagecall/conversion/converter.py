"""Public conversions of one object: JSON text to message and back.

Reading any accepted text with `*_from_json` and writing the message with `*_to_json` gives the same
JSON value: the same strings, the same spelling of numbers, null where there was null, no key where
there was none. In the text that is written, the keys that the message has fields for come first.
Writing any accepted message and reading the text as the same variant gives an equal message.
"""

from collections.abc import Mapping
from contextlib import suppress
from enum import Enum
from typing import Final

import jiter
from google.protobuf.message import Message

from imagecall.conversion.fast_path import FAILURES
from imagecall.conversion.objects import as_object
from imagecall.conversion.plan import union_plan
from imagecall.conversion.unions import UnionPlan
from imagecall.errors import ConversionError
from imagecall.json.large_strings import Image, Spans, set_aside
from imagecall.json.pieces import NOTHING_APART, Apart, Piece, check_depth_of, join
from imagecall.json.text import MAX_BYTES, encode, parse
from imagecall.sizes import ASIDE
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall
from imagecall.v1.image_generation_tool_pb2 import Tool
from imagecall.v1.stream_event_pb2 import StreamEvent
from imagecall.wire.cost import parsed
from imagecall.wire.splice import attach_images, detach_images


class Profile(Enum):
    """Strictness of reading an item. Neither profile changes a value.

    WIRE accepts what real servers send: only "type" is required, a status may be any string, and an
    item of a type that the schema does not name is kept as it is. STRICT accepts what the variant's
    API reference allows: its type, its required keys, and its statuses where the list is closed.
    """

    WIRE = "WIRE"
    STRICT = "STRICT"


_WIRE: Final = Profile.WIRE
_MAX_UTF8: Final = 4  # bytes of a character

CALLS: Final = union_plan(ImageGenerationCall.DESCRIPTOR)
_PLAIN_READS: Final = CALLS.plain_reads
TOOLS: Final = union_plan(Tool.DESCRIPTOR)
EVENTS: Final = union_plan(StreamEvent.DESCRIPTOR)


def from_json(
    text: bytes | str,
    *,
    variant: str = CALLS.default,
    profile: Profile = Profile.WIRE,
    max_bytes: int = MAX_BYTES,
) -> ImageGenerationCall:
    """Reads an item, a JSON object in UTF-8, as a message.

    `variant` is a field name of the oneof of ImageGenerationCall: seven of them are the same JSON,
    so the caller selects one by the place from which the item comes. In the WIRE profile the item's
    own "type" has precedence: `openrouter:image_generation` has one variant, and an item whose type
    no variant has is kept in an UnknownItem.

    Raises ConversionError, with the JSON Pointer of the culprit; see ErrorReason in
    proto/imagecall/v1/conversion_error.proto for the reasons. A text of more than `max_bytes` bytes
    is refused unread.
    """
    call = ImageGenerationCall()
    read_call(call, text, variant, profile, max_bytes, False)
    return call


def serialized_from_json(
    text: bytes | str,
    *,
    variant: str = CALLS.default,
    profile: Profile = Profile.WIRE,
    max_bytes: int = MAX_BYTES,
) -> bytes:
    """Serialized message of an item, equal to `from_json(...).SerializeToString()`.

    Takes half the time and memory for a large image, which is not copied into a message object.
    Raises ConversionError.
    """
    if (wire := plain_wire(text, variant, profile, max_bytes)) is not None:
        return wire
    call = ImageGenerationCall()
    images = _read_by_plan(call, text, variant, profile, max_bytes, True)
    return attach_images(call, images) if images else call.SerializeToString()


def plain_wire(
    text: bytes | str, variant: str, profile: Profile, max_bytes: int = MAX_BYTES
) -> bytes | None:
    """Serialized message of a plain item, by the fast path. None: the plan reads the text.

    A text that is no item of the variant has None too.
    """
    if profile is not _WIRE or len(text) >= ASIDE or max_bytes < _MAX_UTF8 * ASIDE:
        return None
    try:
        data = text if isinstance(text, bytes) else text.encode()
        value = jiter.from_json(data, allow_inf_nan=False, catch_duplicate_keys=True)
        return _PLAIN_READS[variant][value["type"]](value, data)
    except FAILURES:
        return None


def read_call(
    target: ImageGenerationCall,
    text: bytes | str,
    variant: str,
    profile: Profile,
    max_bytes: int,
    apart: bool,
) -> Mapping[str, Image]:
    """Reads an item, as `from_json` does, into an empty message, which may be part of another.

    With `apart`, returns the large images by marker: the message has markers in place of them, and
    imagecall.wire.splice.attach_images puts them back. Raises ConversionError.
    """
    if (wire := plain_wire(text, variant, profile, max_bytes)) is not None:
        target.MergeFromString(wire)
        return {}
    return _read_by_plan(target, text, variant, profile, max_bytes, apart)


def _read_by_plan(
    target: ImageGenerationCall,
    text: bytes | str,
    variant: str,
    profile: Profile,
    max_bytes: int,
    apart: bool,
) -> Mapping[str, Image]:
    if profile not in Profile.__members__.values():
        message = f"{profile!r} is not a profile; choose one of {', '.join(map(str, Profile))}"
        raise ConversionError("UNKNOWN_PROFILE", "", message)
    return _read(CALLS, target, text, profile is Profile.STRICT, max_bytes, variant, apart)


def to_json(call: ImageGenerationCall, *, max_bytes: int = MAX_BYTES) -> bytes:
    """Writes a message as an item: a JSON object in UTF-8. The inverse of `from_json`.

    The keys are in the order type, id, result, status, then the variant's other fields, then the
    extra fields in their order.

    Raises ConversionError if reading the JSON would not give the message back: fields of a newer
    schema, two fields for one key, raw JSON text that is not JSON; see ErrorReason.
    """
    return join(call_pieces(call), max_bytes)


def json_from_serialized(data: bytes, *, max_bytes: int = MAX_BYTES) -> bytes:
    """JSON of a serialized message, equal to `to_json(ImageGenerationCall.FromString(data))`.

    Takes half the time and memory for a large image. The inverse of `serialized_from_json`. Raises
    ConversionError: MALFORMED_PROTOBUF, and as `to_json` does.
    """
    if (pieces := CALLS.plain_pieces(data)) is not None:
        return join(pieces, max_bytes)
    short, images = detach_images(data, ImageGenerationCall.DESCRIPTOR)
    pieces = []
    CALLS.write(parsed(ImageGenerationCall, short), pieces, images)
    return join(pieces, max_bytes)


def call_pieces(call: ImageGenerationCall, apart: Apart = NOTHING_APART) -> list[Piece]:
    """Pieces of the text that `to_json` writes, for a message and the images kept beside it.

    Raises ConversionError.
    """
    return _pieces(CALLS, call, apart)


def event_from_json(text: bytes | str, *, max_bytes: int = MAX_BYTES) -> StreamEvent:
    """Reads the data of a stream event; an event of no image call becomes an UnknownItem.

    Raises ConversionError.
    """
    event = StreamEvent()
    _read(EVENTS, event, text, False, max_bytes)
    return event


def event_to_json(event: StreamEvent, *, max_bytes: int = MAX_BYTES) -> bytes:
    """Writes a stream event. The inverse of `event_from_json`. Raises ConversionError."""
    return join(event_pieces(event), max_bytes)


def event_pieces(event: StreamEvent, apart: Apart = NOTHING_APART) -> list[Piece]:
    """Pieces of the text that `event_to_json` writes, for an event and the images beside it.

    Raises ConversionError.
    """
    return check_depth_of(_pieces(EVENTS, event, apart))


def tool_from_json(text: bytes | str, *, max_bytes: int = MAX_BYTES) -> Tool:
    """Reads the configuration of a tool; any but the image tool becomes an UnknownItem.

    Raises ConversionError.
    """
    tool = Tool()
    _read(TOOLS, tool, text, False, max_bytes)
    return tool


def tool_to_json(tool: Tool, *, max_bytes: int = MAX_BYTES) -> bytes:
    """Writes a tool's configuration. The inverse of `tool_from_json`. Raises ConversionError."""
    return join(check_depth_of(_pieces(TOOLS, tool, NOTHING_APART)), max_bytes)


def _pieces(plan: UnionPlan, message: Message, apart: Apart) -> list[Piece]:
    if not apart and (plain := plan.plain_pieces(message.SerializeToString())) is not None:
        return plain
    pieces: list[Piece] = []
    plan.write(message, pieces, apart)
    return pieces


def _read(
    plan: UnionPlan,
    target: Message,
    text: bytes | str,
    strict: bool,
    max_bytes: int,
    variant: str = "",
    apart: bool = False,
) -> Mapping[str, Image]:
    """Reads an object into an empty message. With `apart`, returns the large images by marker."""
    data = encode(text, max_bytes)
    images: dict[str, Image] | None = {} if apart else None
    if plan.image_keys:
        short, spans = set_aside(data, plan.image_pattern)
        if spans:
            spans.images = images
            with suppress(ConversionError):
                plan.read(target, short, as_object(parse(short)), spans, strict, variant)
                if not spans:
                    return images or {}
            target.Clear()
    whole = Spans()
    whole.images = images
    plan.read(target, data, as_object(parse(data)), whole, strict, variant)
    return images or {}
