"""Bytes near to those of tests/cases: mutated by chance, or as hypothesis or atheris wish.

Whatever a reader makes of them must be equal after the round trip, or refused with a reason.
"""

import random
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any, Final, NamedTuple

from google.protobuf.message import DecodeError, Message

import imagecall
from imagecall.errors import CODES, ConversionError
from imagecall.v1.document_kind_pb2 import DocumentKind
from tests.cases import ROOT, cases, refusals
from tests.json_value import json_value
from tests.mutations import PIECES

_PLACED: Final = frozenset(
    {"MISSING_KEY", "TYPE_MISMATCH", "UNKNOWN_ENUM_NUMBER", "UNKNOWN_STATUS"}
)
"""The reasons whose culprit is never the whole, as which the pointer is empty."""

_GIVEN: Final = frozenset({"BAD_POINTER", "UNKNOWN_FIELD"})
"""The reasons whose pointer may be one of a Document, which can be any text."""

_WIRE_PIECES: Final = (b"\x00", b"\x0a\x00", b"\x80\x01", b"\xff\xff\xff\xff\x0f", b"\xa0\x38\x01")
"""Bytes that change the meaning of a serialized message: tags, lengths, numbers, unknown field."""


class Subject(NamedTuple):
    """Subject of mutation: a kind of JSON text and its message."""

    name: str
    message_class: type[Message]
    read: Callable[[bytes], Any]
    write: Callable[[Any], bytes]


@cache
def subjects() -> tuple[Subject, ...]:
    """Items of each variant, documents of each kind, events and tools."""
    found = {}
    for case in cases():
        kind = "/".join(case.path.parent.relative_to(ROOT).parts)
        found[kind] = Subject(kind, case.message_class, case.read, case.write)
    strict = partial(imagecall.from_json, profile=imagecall.Profile.STRICT)
    found["strict"] = Subject("strict", imagecall.ImageGenerationCall, strict, imagecall.to_json)
    return tuple(found.values())


@cache
def texts() -> tuple[bytes, ...]:
    """The JSON texts of the cases, also of those that are refused."""
    found = [case.text for case in cases()]
    found += [case.path.read_bytes() for case in refusals("refused_json", ".json")]
    return tuple(text for text in found if len(text) < 20_000)


@cache
def messages() -> tuple[bytes, ...]:
    """The serialized messages of the cases, also those of a newer schema."""
    found = [path.read_bytes() for path in sorted(ROOT.rglob("*.binpb"))]
    return tuple(data for data in found if len(data) < 20_000)


def mutant(data: bytes, source: random.Random, others: tuple[bytes, ...]) -> bytes:
    """The bytes with some changed, taken out, doubled, put in, or of another of the corpus."""
    changed = bytearray(data)
    for _ in range(source.choice((1, 1, 1, 1, 2, 3))):
        start = source.randint(0, len(changed))
        end = min(len(changed), start + source.choice((0, 0, 1, 1, 1, 2, 12)))
        other = source.choice(others)
        at = source.randint(0, len(other))
        changed[start:end] = source.choice(
            (
                b"",
                bytes(changed[start:end]) * 2,
                source.choice(PIECES),
                source.choice(_WIRE_PIECES),
                source.randbytes(1),
                bytes([changed[start] ^ 1 << source.randrange(8)]) if start < len(changed) else b"",
                other[at : at + source.randint(1, 60)],
            )
        )
    return bytes(changed)


def mutants(found: tuple[bytes, ...], source: random.Random, count: int) -> Iterator[bytes]:
    """So many mutants."""
    for _ in range(count):
        yield mutant(source.choice(found), source, found)


def fault_of_refusal(reason: str, pointer: str | None, message: str) -> str:
    """Returns the fault of a refusal; "" if none."""
    if reason not in CODES:
        return f"the reason {reason!r} is none"
    if pointer is None or not (pointer[:1] in ("", "/") or reason in _GIVEN):
        return f"the pointer of {reason} is {pointer!r}"
    if not pointer and reason in _PLACED:
        return f"{reason} has no place"
    return "" if message else "there is no sentence"


def fault_of_text(subject: Subject, text: bytes) -> str:
    """Returns the fault in reading a text and writing it back; "" if none."""
    try:
        message = subject.read(text)
    except ConversionError as error:
        return fault_of_refusal(error.reason, error.pointer, str(error))
    written = subject.write(message)
    if json_value(written) != json_value(text):
        return f"written as {written[:200]!r}"
    return "" if subject.read(written) == message else "read again, it is another message"


def fault_of_message(subject: Subject, data: bytes) -> str:
    """Returns the fault in writing a message and reading it back; "" if none."""
    try:
        message = subject.message_class.FromString(data)
    except DecodeError:
        return ""
    try:
        text = subject.write(message)
    except ConversionError as error:
        return fault_of_refusal(error.reason, error.pointer, str(error))
    back = _read_back(subject, message, text)
    if back == message:
        return ""
    # What an older schema kept as an extra field, or as an unknown item, comes back in fields.
    older = any(name in str(message) for name in ("extra_fields", "unknown_item", "calls"))
    again = json_value(subject.write(back)) == json_value(text)
    return "" if older and again else "it comes back as another"


def _read_back(subject: Subject, message: Any, text: bytes) -> Any:
    """Reads a text as the variant or kind of the message."""
    if isinstance(message, imagecall.ImageGenerationCall):
        return imagecall.from_json(text, variant=message.WhichOneof("variant") or "")
    if isinstance(message, imagecall.Document):
        kind: Any = DocumentKind.Name(message.kind).removeprefix("DOCUMENT_KIND_").lower()
        return imagecall.document_from_json(text, kind=kind)
    return subject.read(text)
