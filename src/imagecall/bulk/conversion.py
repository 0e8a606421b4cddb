"""Conversion of batches of records: JSON to serialized messages, and back.

A message is an ImageGenerationCall for an item, and a Document for everything else. A file of
messages holds one of the two, so that a program in any language can read the file.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, Literal, TypeAlias

from imagecall.bulk.faults import Fault, fault_of
from imagecall.bulk.kinds import ITEM, RecordKind, kind_of
from imagecall.bulk.records import Batch
from imagecall.conversion.converter import (
    CALLS,
    Profile,
    json_from_serialized,
    plain_wire,
    serialized_from_json,
)
from imagecall.conversion.document import document_from_json, document_to_json
from imagecall.errors import ConversionError
from imagecall.v1.document_pb2 import Document
from imagecall.wire.cost import parsed
from imagecall.wire.varint import write_varint

MessageName: TypeAlias = Literal["ImageGenerationCall", "Document"]

_DOCUMENT_START: Final = b"\x08"
"""First byte of a Document, the tag of its kind. Each field of an ImageGenerationCall has a length,
and so another tag."""

_MAX_JOINED_BYTES: Final = 4 * 1024 * 1024

_length = lru_cache(maxsize=16384)(write_varint)


@dataclass(frozen=True)
class Reading:
    """Reading of records of JSON.

    Attributes:
        kind: kind of every record. None: found by the keys of each.
        variant: variant as which items are read.
        strict: True to read items in the STRICT profile.
    """

    kind: RecordKind | None = None
    variant: str = CALLS.default
    strict: bool = False

    def serialized(self, text: bytes) -> tuple[MessageName, bytes]:
        """Name and bytes of the message of a record. Raises ConversionError."""
        profile = Profile.STRICT if self.strict else Profile.WIRE
        if self.kind is None and (wire := plain_wire(text, self.variant, profile)) is not None:
            return "ImageGenerationCall", wire
        kind = self.kind or kind_of(text)
        if kind != ITEM:
            return "Document", document_from_json(text, kind=kind).SerializeToString()
        return "ImageGenerationCall", serialized_from_json(
            text, variant=self.variant, profile=profile
        )


def first_message(reading: Reading, batch: Batch) -> str:
    """Name of the message of the first record that can be converted; "" for none."""
    for text in batch.split().texts:
        try:
            return reading.serialized(text)[0]
        except ConversionError:
            continue
    return ""


def messages_of(reading: Reading, batch: Batch) -> Batch:
    """Converts records of JSON to serialized messages, all of them the message of the batch."""
    numbers: list[int] = []
    messages: list[bytes] = []
    faults = [*batch.faults]
    for number, text in batch.records:
        try:
            message, data = reading.serialized(text)
        except ConversionError as error:
            faults.append(fault_of(error, number))
            continue
        if batch.message in ("", message):
            numbers.append(number)
            messages.append(data)
        else:
            faults.append(_other_message(number, message, batch.message))
    return replace(batch, numbers=numbers, texts=messages, faults=faults)


def _other_message(line: int, message: str, expected: str) -> Fault:
    text = f"the record becomes a {message}, in a file of {expected}s: name one kind with --kind"
    return Fault(line, "", "OTHER_MESSAGE", text)


def json_of(batch: Batch) -> Batch:
    """Converts serialized messages to JSON, each on one line."""
    numbers: list[int] = []
    texts: list[bytes] = []
    faults = [*batch.faults]
    for number, data in batch.records:
        try:
            texts.append(json_of_message(data))
            numbers.append(number)
        except ConversionError as error:
            faults.append(fault_of(error, number))
    return replace(batch, numbers=numbers, texts=texts, faults=faults)


def json_of_message(message: bytes) -> bytes:
    """JSON of a serialized message, on one line. Raises ConversionError."""
    if is_document(message):
        return one_line(document_to_json(parsed(Document, message)))
    return one_line(json_from_serialized(message))


def is_document(message: bytes) -> bool:
    """True for a serialized Document, False for an ImageGenerationCall."""
    return message.startswith(_DOCUMENT_START)


def one_line(text: bytes) -> bytes:
    """JSON text on one line: JSON has line ends between values only."""
    return (
        text.replace(b"\n", b" ").replace(b"\r", b" ") if b"\n" in text or b"\r" in text else text
    )


def delimited(messages: Iterable[bytes]) -> list[bytes]:
    """Pieces of messages that each follow their length as a varint."""
    pieces: list[bytes] = []
    for message in messages:
        pieces += _length(len(message)), message
    return _joined(pieces)


def json_lines(texts: Iterable[bytes]) -> list[bytes]:
    """Pieces of JSON Lines of texts that are on one line each."""
    return _joined([piece for text in texts for piece in (text, b"\n")])


def _joined(pieces: list[bytes]) -> list[bytes]:
    """Joins pieces, which a process receives faster, unless the copy would be large."""
    return pieces if sum(map(len, pieces)) > _MAX_JOINED_BYTES else [b"".join(pieces)]
