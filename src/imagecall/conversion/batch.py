"""Conversions as the methods of ConversionService define them: one, or many in a stream.

Takes and returns the messages of proto/imagecall/v1/conversion_service.proto; the results of a
stream come in the order of its items.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Final, TypeAlias

from google.rpc import code_pb2

from imagecall.conversion.converter import (
    CALLS,
    Profile,
    call_pieces,
    read_call,
    serialized_from_json,
)
from imagecall.conversion.document import document_from_json, document_to_json, kind_name
from imagecall.errors import ConversionError
from imagecall.json.large_strings import Image
from imagecall.json.pieces import NOTHING_APART, Apart, join
from imagecall.sizes import MESSAGE, OFFLOAD
from imagecall.v1 import conversion_error_pb2
from imagecall.v1.conversion_service_pb2 import (
    Conversion,
    ConversionResult,
    ConvertCallsResponse,
)
from imagecall.v1.conversion_service_pb2 import Profile as ProfileNumber
from imagecall.v1.document_pb2 import Document
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall
from imagecall.wire.chunks import Assembly, RawChunk, split
from imagecall.wire.cost import parsed
from imagecall.wire.splice import detach_images
from imagecall.wire.varint import FieldStarts, start_of, tag_of

_VARIANTS: Final = {tag_of(field): field.name for field in ImageGenerationCall.DESCRIPTOR.fields}
"""Variants by the first byte of a serialized call, which is the tag of its only field."""

_STARTS: Final = {
    field.name: FieldStarts(partial(start_of, tag_of(field)))
    for field in (*ConversionResult.DESCRIPTOR.fields, *ConvertCallsResponse.DESCRIPTOR.fields)
}
"""Starts of the fields of a result, and of the results, by name."""

_INDEX: Final = tag_of(ConversionResult.DESCRIPTOR.fields_by_name["index"])

_ITEM_BYTES: Final = 512
"""Lowest cost of an item, in bytes of JSON.

So a batch has at most 63 small items: 0.5 ms of work; some refusals take twenty times as long.
"""

_ANSWER: Final = 256 * 1024
"""Most bytes of the results in a message, unless it is one result.

Small, as each stream that waits for its turn holds that much, which no budget counts.
"""

_CHUNK: Final = "_chunk"
_DOCUMENT: Final = "document"
"""Variant that is counted for a document that is refused as a whole."""

_NO_VARIANT: Final = "none"
_REASON: Final = "ERROR_REASON_"
_CODES: Final = {number: name for name, number in code_pb2.Code.items()}

Count: TypeAlias = Callable[[str, str, str], None]
"""Receives direction ("parse", "format"), variant and outcome of each item that was converted or
refused; the outcome is "ok", or the reason of the refusal."""


def uncounted(direction: str, variant: str, outcome: str) -> None:
    """Counts nothing."""


_PROFILES: Final[dict[int, Profile]] = {
    number: Profile.WIRE if number == 0 else Profile[name.removeprefix("PROFILE_")]
    for name, number in ProfileNumber.items()
}


def parse_call(
    target: ImageGenerationCall,
    json: str | bytes,
    variant: str,
    profile: int,
    max_bytes: int,
    apart: bool,
    count: Count = uncounted,
) -> Mapping[str, Image]:
    """Runs `read_call` with the variant and profile of a request. Raises ConversionError."""
    named, strictness = variant or CALLS.default, _profile_of(profile)
    try:
        images = read_call(target, json, named, strictness, max_bytes, apart)
    except ConversionError as error:
        _count_refusal(named, error, count)
        raise
    count("parse", _variant_of(target), "ok")
    return images


def serialized_call(
    json: str | bytes, variant: str, profile: int, max_bytes: int, count: Count = uncounted
) -> bytes:
    """Runs `serialized_from_json` as `parse_call` runs `read_call`. Raises ConversionError."""
    named, strictness = variant or CALLS.default, _profile_of(profile)
    try:
        wire = serialized_from_json(json, variant=named, profile=strictness, max_bytes=max_bytes)
    except ConversionError as error:
        _count_refusal(named, error, count)
        raise
    count("parse", _VARIANTS[wire[0]], "ok")
    return wire


def _profile_of(number: int) -> Profile:
    """Returns the profile of a request. Raises ConversionError."""
    if number not in _PROFILES:
        message = f"{number} is not a profile; choose one of {', '.join(ProfileNumber.keys())}"
        raise ConversionError("UNKNOWN_PROFILE", "", message)
    return _PROFILES[number]


def _count_refusal(variant: str, error: ConversionError, count: Count) -> None:
    count("parse", variant if variant in CALLS.variants else "unknown", error.reason)


def format_call(
    call: ImageGenerationCall, apart: Apart, max_bytes: int, count: Count = uncounted
) -> bytes:
    """Writes a call, and the images kept beside it, as `to_json` does. Raises ConversionError."""
    try:
        json = join(call_pieces(call, apart), max_bytes)
    except ConversionError as error:
        count("format", _variant_of(call), error.reason)
        raise
    count("format", _variant_of(call), "ok")
    return json


def format_serialized(data: bytes, max_bytes: int, count: Count = uncounted) -> bytes:
    """Runs `json_from_serialized`, counted. Raises ConversionError."""
    short, images = detach_images(data, ImageGenerationCall.DESCRIPTOR)
    try:
        call = parsed(ImageGenerationCall, short)
    except ConversionError as error:
        count("format", _NO_VARIANT, error.reason)
        raise
    return format_call(call, images, max_bytes, count)


def parse_document(
    json: str | bytes, kind: int, max_bytes: int, count: Count = uncounted
) -> Document:
    """Runs `document_from_json` with the kind of a request. Raises ConversionError."""
    try:
        document = document_from_json(json, kind=kind_name(kind), max_bytes=max_bytes)
    except ConversionError as error:
        count("parse", _DOCUMENT, error.reason)
        raise
    _count_calls(count, "parse", document)
    return document


def format_document(document: Document, max_bytes: int, count: Count = uncounted) -> bytes:
    """Runs `document_to_json`, counted. Raises ConversionError."""
    try:
        json = document_to_json(document, max_bytes=max_bytes)
    except ConversionError as error:
        count("format", _DOCUMENT, error.reason)
        raise
    _count_calls(count, "format", document)
    return json


def _count_calls(count: Count, direction: str, document: Document) -> None:
    for call in document.calls:
        count(direction, _variant_of(call.call), "ok")


def _variant_of(call: ImageGenerationCall) -> str:
    return call.WhichOneof("variant") or _NO_VARIANT


def in_place(error: ConversionError) -> conversion_error_pb2.ConversionError:
    """Error message for one item of a stream."""
    return conversion_error_pb2.ConversionError(
        code=code_pb2.Code.Value(error.code),
        reason=conversion_error_pb2.ErrorReason.Value(_REASON + error.reason),
        pointer=error.pointer,
        message=str(error),
    )


def error_in_place(message: conversion_error_pb2.ConversionError) -> ConversionError:
    """Error of one item of a stream: the inverse of `in_place`.

    A reason or a code of a newer schema becomes "" or "UNKNOWN".
    """
    names = conversion_error_pb2.ErrorReason.DESCRIPTOR.values_by_number
    reason = names[message.reason].name.removeprefix(_REASON) if message.reason in names else ""
    code = _CODES.get(message.code, "UNKNOWN")
    return ConversionError(reason if message.reason else "", message.pointer, message.message, code)


def batches(conversions: Iterable[Conversion]) -> Iterator[tuple[list[Conversion], int]]:
    """Splits the items of a message into batches of less than 32 KiB, and larger items alone.

    Yields each batch with its size in bytes.
    """
    batch: list[Conversion] = []
    size = 0
    for conversion in conversions:
        item_size = max(conversion.ByteSize(), _ITEM_BYTES)
        if batch and size + item_size >= OFFLOAD:
            yield batch, size
            batch, size = [], 0
        batch.append(conversion)
        size += item_size
    if batch:
        yield batch, size


class CallStream:
    """State of one stream of conversions: its items so far, and what is not complete yet."""

    def __init__(self, max_bytes: int, max_items: int, count: Count = uncounted) -> None:
        self._max_bytes = max_bytes
        self._max_items = max_items
        self._count = count
        self._index = 0
        self._assembly: Assembly | None = None
        self._assembled = ""
        self._results: list[bytes] = []
        self._size = 0

    @property
    def pending_bytes(self) -> int:
        """Bytes received of an item whose last chunk has not come."""
        return self._assembly.size if self._assembly else 0

    def answer(self, conversions: Iterable[Conversion]) -> Iterator[bytes]:
        """Converts items. Yields each message that is full; `take` returns the other results.

        A message is a serialized ConvertCallsResponse that any client accepts.

        Raises ConversionError: TOO_MANY_ITEMS; CHUNKS_DAMAGED if the chunks of an item are not in
        order, as it is then unknown which items the later chunks belong to.
        """
        for result in self._converted(conversions):
            if self._size and self._size + len(result) > _ANSWER:
                yield self.take()
            self._results.append(result)
            self._size += len(result)

    def take(self) -> bytes:
        """Returns, once, the results that no message had yet, as a message."""
        results, self._results, self._size = self._results, [], 0
        return b"".join(results)

    def finish(self) -> None:
        """Ends the stream. Raises ConversionError if an item is incomplete."""
        if self._assembly is not None:
            self._assembly.check()

    def _converted(self, conversions: Iterable[Conversion]) -> Iterator[bytes]:
        for conversion in conversions:
            kind = conversion.WhichOneof("input") or ""
            if kind.endswith(_CHUNK):
                if not self._add(kind, conversion):
                    continue
            else:
                self.finish()
            if self._index == self._max_items:
                message = f"there are more than {self._max_items:,} items on the stream"
                raise ConversionError("TOO_MANY_ITEMS", "", message)
            try:
                name, data = self._convert(kind, conversion)
            except ConversionError as error:
                name, data = "error", in_place(error).SerializeToString()
            if len(data) <= MESSAGE:
                yield self._result(name, data)
            else:
                for chunk in split(data):
                    yield self._result(name + _CHUNK, chunk.SerializeToString())
            self._index += 1

    def _add(self, kind: str, conversion: Conversion) -> bool:
        """Adds a chunk of an item. Returns True if the item is complete."""
        if self._assembly is None:
            # A message with many small extra fields may be larger than its JSON.
            limit = self._max_bytes * (1 if kind.startswith("json") else 2)
            self._assembly, self._assembled = Assembly(limit), kind
        if kind != self._assembled:
            message = f"a {kind} comes among the {self._assembled}s of an item"
            raise ConversionError("CHUNKS_DAMAGED", "", message)
        self._assembly.add(RawChunk.of(getattr(conversion, kind)))
        return self._assembly.end is not None

    def _convert(self, kind: str, conversion: Conversion) -> tuple[str, bytes]:
        """Converts an item. Returns the field of its output, and the output."""
        value: Any = kind and getattr(conversion, kind)
        if self._assembly is not None:
            assembly, self._assembly = self._assembly, None
            value = assembly.whole()
        max_bytes, count = self._max_bytes, self._count
        match kind.removesuffix(_CHUNK):
            case "json" if conversion.document_kind:
                document = parse_document(value, conversion.document_kind, max_bytes, count)
                return "document", document.SerializeToString()
            case "json":
                variant, profile = conversion.variant, conversion.profile
                return "call", serialized_call(value, variant, profile, max_bytes, count)
            case "call" if isinstance(value, bytes):
                return "json", format_serialized(value, max_bytes, count)
            case "call":
                return "json", format_call(value, NOTHING_APART, max_bytes, count)
            case "document":
                document = parsed(Document, value) if isinstance(value, bytes) else value
                return "json", format_document(document, max_bytes, count)
        message = "the Conversion is empty: set json, call or document, or a chunk of one"
        raise ConversionError("EMPTY_ONEOF", "", message)

    def _result(self, name: str, data: bytes) -> bytes:
        """Returns a result of the current item, as a field of a ConvertCallsResponse."""
        index = start_of(_INDEX, self._index) if self._index else b""
        output = _STARTS[name][len(data)]
        start = _STARTS["results"][len(index) + len(output) + len(data)]
        return b"".join((start, index, output, data))
