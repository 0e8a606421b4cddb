"""Codec of an image: null, canonical base64 or another text in JSON, and an ImageResult field."""

import secrets
from typing import Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from pybase64 import b64decode

from imagecall.conversion.fields import (
    Codec,
    key_of,
    member_start,
    mismatch_of,
    refuse_unknown_fields,
)
from imagecall.errors import ConversionError, pointer_to, quoted
from imagecall.json.large_strings import Image, LargeBase64, Spans
from imagecall.json.pieces import Apart, LargeImage, Piece, image_piece
from imagecall.json.text import JsonValue, parse_string, quote
from imagecall.sizes import APART, TWICE
from imagecall.v1.image_result_pb2 import ImageResult

IMAGE_RESULT: Final = ImageResult.DESCRIPTOR.full_name
_IMAGE: Final = "image"

CANONICAL_ENDS: Final = tuple(
    [last + "==" for last in "AQgw"] + [last + "=" for last in "AEIMQUYcgkosw048"]
)
"""Ends of padded base64 whose unused bits are zero."""


def decode_base64(text: str) -> bytes:
    """Decodes canonical base64 (RFC 4648 section 4). Raises ValueError for any other text."""
    image = b64decode(text, None, True)  # By position: keywords double the time of a small call.
    if text[-1:] == "=" and not text.endswith(CANONICAL_ENDS):
        raise ValueError("the unused bits at the end are not zero")
    return image


def is_canonical_base64(text: str) -> bool:
    """True for a text that `decode_base64` decodes."""
    try:
        decode_base64(text)
    except ValueError:
        return False
    return True


def image_codec(field: FieldDescriptor) -> Codec:
    """Codec of a JSON string or null and an ImageResult field."""
    name, key = field.name, key_of(field).name
    start, pointer, path = member_start(field), pointer_to(key), f"{name}.{_IMAGE}"
    mismatch = mismatch_of(field, "a string or null")

    def read(target: Message, value: JsonValue, spans: Spans) -> bool:
        if value is None:
            getattr(target, name).null_value = 0
            return True
        if value.__class__ is not str:
            return mismatch(value)
        result: ImageResult = getattr(target, name)
        if spans and value in spans:  # A long string takes long to hash.
            _read_span(result, value, spans)
        else:
            _set_string(result, value, spans)
        return True

    def write(result: ImageResult, pieces: list[Piece], apart: Apart) -> None:
        refuse_unknown_fields(result, pointer)
        pieces.append(start)
        match result.WhichOneof("kind"):
            case "image":
                image = LargeImage(apart[path]) if path in apart else image_piece(result.image)
                pieces += b'"', image, b'"'
            case "null_value" if result.null_value == 0:
                pieces.append(b"null")
            case "null_value":
                message = f"null_value is {result.null_value}; the only value is 0"
                raise ConversionError("UNKNOWN_ENUM_NUMBER", pointer, message)
            case "text" if is_canonical_base64(result.text):
                message = f"the text of {quoted(key)} is base64: set image to its bytes instead"
                raise ConversionError("NOT_CANONICAL", pointer, message)
            case "text":
                pieces.append(quote(result.text))
            case _:
                message = f"{quoted(key)} is set, but empty: set image, text or null_value"
                raise ConversionError("EMPTY_ONEOF", pointer, message)

    return Codec(write, read)


def _read_span(result: ImageResult, marker: str, spans: Spans) -> None:
    """Reads a string that was set aside."""
    span = spans[marker]
    try:
        if spans.images is None or len(span) < TWICE:
            _set_image(result, b64decode(span, None, True, canonical=True), spans)
        else:
            _set_apart(result, LargeBase64(span), spans.images)
    except ValueError:
        try:
            _set_string(result, parse_string(span), spans)
        except ValueError:
            return  # The marker stays, so that the whole text is parsed instead.
    del spans[marker]


def _set_string(result: ImageResult, value: str, spans: Spans) -> None:
    try:
        _set_image(result, decode_base64(value), spans)
    except ValueError:
        result.text = value


def _set_image(result: ImageResult, image: bytes, spans: Spans) -> None:
    if spans.images is None or len(image) < APART:
        result.image = image
    else:
        _set_apart(result, image, spans.images)


def _set_apart(result: ImageResult, image: Image, images: dict[str, Image]) -> None:
    marker = secrets.token_hex(16)
    result.image = marker.encode()
    images[marker] = image
