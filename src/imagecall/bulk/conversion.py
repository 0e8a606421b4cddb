"""Conversion of batches of records: JSON to serialized messages, and back.

A message is an ImageGenerationCall for an item, and a Document for everything else. A file of
messages holds one of the two, so that a program in any language can read the file.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, TypeAlias

from imagecall.bulk.faults import Fault, fault_of
from imagecall.bulk.kinds import ITEM, RecordKind, kind_of
from imagecall.bulk.records import Batch, Record
from imagecall.conversion.converter import (
    CALLS,
    Profile,
    json_from_serialized,
    read_plain_call,
    serialized_from_json,
)
from imagecall.conversion.document import document_from_json, document_to_json
from imagecall.errors import ConversionError
from imagecall.sizes import ASIDE
from imagecall.v1.document_pb2 import Document
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall
from imagecall.wire.cost import parsed
from imagecall.wire.varint import write_varint

MessageName: TypeAlias = Literal["ImageGenerationCall", "Document"]

_DOCUMENT_START: Final = b"\x08"
"""First byte of a Document, the tag of its kind. Each field of an ImageGenerationCall has a length,
and so another tag."""

_length = lru_cache(maxsize=16384)(write_varint)


@dataclass(frozen=True)
class Reading:
    """Reading of records of JSON.

    Attributes:
        kind: kind of every record. None: found by the keys of each.
        variant: variant as which items are read.
        strict: True to read items in the STRICT profile.
        message: message that all records become. None: that of the first.
    """

    kind: RecordKind | None = None
    variant: str = CALLS.default
    strict: bool = False
    message: MessageName | None = None

    def serialized(self, text: bytes) -> tuple[MessageName, bytes]:
        """Name and bytes of the message of a record. Raises ConversionError."""
        if self.kind is None and len(text) < ASIDE and not self.strict:
            call = ImageGenerationCall()
            if read_plain_call(call, text, self.variant):
                return "ImageGenerationCall", call.SerializeToString()
        kind = self.kind or kind_of(text)
        if kind != ITEM:
            return "Document", document_from_json(text, kind=kind).SerializeToString()
        profile = Profile.STRICT if self.strict else Profile.WIRE
        return "ImageGenerationCall", serialized_from_json(
            text, variant=self.variant, profile=profile
        )


def messages_of(reading: Reading, batch: Batch) -> tuple[Batch, MessageName | None]:
    """Converts records of JSON to serialized messages.

    Returns the messages, with the faults of the other records; and the name of the messages, None
    for no message.
    """
    messages = Batch(faults=[*batch.faults])
    expected = reading.message
    for line, text in batch.records:
        try:
            message, data = reading.serialized(text)
        except ConversionError as error:
            messages.faults.append(fault_of(error, line))
            continue
        expected = expected or message
        if message == expected:
            messages.records.append(Record(line, data))
        else:
            messages.faults.append(_other_message(line, message, expected))
    return messages, expected


def _other_message(line: int, message: str, expected: str) -> Fault:
    text = f"the record becomes a {message}, in a file of {expected}s: name one kind with --kind"
    return Fault(line, "", "OTHER_MESSAGE", text)


def json_of(batch: Batch) -> Batch:
    """Converts serialized messages to JSON, each on one line."""
    texts = Batch(faults=[*batch.faults])
    for number, data in batch.records:
        try:
            texts.records.append(Record(number, one_line(_json(data))))
        except ConversionError as error:
            texts.faults.append(fault_of(error, number))
    return texts


def _json(data: bytes) -> bytes:
    if is_document(data):
        return document_to_json(parsed(Document, data))
    return json_from_serialized(data)


def is_document(message: bytes) -> bool:
    """True for a serialized Document, False for an ImageGenerationCall."""
    return message.startswith(_DOCUMENT_START)


def one_line(text: bytes) -> bytes:
    """JSON text on one line: JSON has line ends between values only."""
    return text.replace(b"\n", b" ").replace(b"\r", b" ") if b"\n" in text or b"\r" in text else text


def delimited(records: Iterable[Record]) -> bytes:
    """Messages, each after its length as a varint."""
    pieces: list[bytes] = []
    for _, data in records:
        pieces += _length(len(data)), data
    return b"".join(pieces)


def json_lines(records: Iterable[Record]) -> bytes:
    """JSON Lines of texts that are on one line each."""
    return b"".join([piece for _, data in records for piece in (data, b"\n")])
