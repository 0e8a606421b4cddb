"""Conversion of one item or document, for the command line."""

import argparse
import sys
from pathlib import Path
from typing import TypeAlias

from google.protobuf import text_format
from google.protobuf.message import DecodeError

from imagecall.bulk.conversion import is_document
from imagecall.bulk.kinds import ITEM, RecordKind, kind_of
from imagecall.commands.arguments import standard_input
from imagecall.conversion.converter import CALLS, Profile, from_json, to_json
from imagecall.conversion.document import (
    KINDS,
    Kind,
    document_from_json,
    document_to_json,
    kind_name,
)
from imagecall.errors import ConversionError, malformed, printable
from imagecall.json.text import parse
from imagecall.v1.document_pb2 import Document
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall
from imagecall.wire.cost import parsed

Converted: TypeAlias = ImageGenerationCall | Document


def convert_one(options: argparse.Namespace) -> int:
    """Reads the input, converts it, and writes the output. Raises ImagecallError, OSError."""
    output_path = None if options.output == Path("-") else options.output
    target = options.target or "text"
    if target == "binary" and not output_path and is_shown():
        raise OSError("a terminal shows no binary output: it takes -o FILE, or --to text")
    data = _input(options.files)
    message = _read(data, _kind(data, options), options)
    output = _write(message, target, options)
    if output_path:
        output_path.write_bytes(output)
    else:
        sys.stdout.buffer.write(_shown(output) if is_shown() else output)
        sys.stdout.buffer.flush()
    return 0


def _input(names: list[str]) -> bytes:
    return Path(names[0]).read_bytes() if names and names[0] != "-" else standard_input()


def _kind(data: bytes, options: argparse.Namespace) -> Kind | None:
    """Kind of the document; None for an item."""
    kind: RecordKind = options.kind or ITEM
    if options.kind is None and not (options.variant or options.profile):
        try:
            kind = _looked_up(data, options.source or "json")
        except ConversionError:  # Reading the item finds the cause.
            return None
    return None if kind == ITEM else kind


def _looked_up(data: bytes, source: str) -> RecordKind:
    if source == "json":
        return kind_of(data)
    if source == "binary" and is_document(data):
        return kind_name(parsed(Document, data).kind)
    return ITEM


def _read(data: bytes, kind: Kind | None, options: argparse.Namespace) -> Converted:
    empty: Converted = Document() if kind else ImageGenerationCall()
    if options.source not in (None, "json"):
        read = _parse_binary if options.source == "binary" else _parse_text
        return _checked(read(data, empty), kind)
    if options.server:
        from imagecall.commands.remote import parse_json

        return parse_json(data, kind, options)
    if kind:
        return document_from_json(data, kind=kind)
    variant = options.variant or CALLS.default
    return from_json(data, variant=variant, profile=Profile[(options.profile or "wire").upper()])


def _write(message: Converted, target: str, options: argparse.Namespace) -> bytes:
    match target:
        case "binary":
            return message.SerializeToString()
        case "text":
            return text_format.MessageToString(message, as_utf8=True).encode()
    if options.server:
        from imagecall.commands.remote import format_json

        json = format_json(message, options)
        parse(json)  # A server may answer with any text.
        return json + b"\n"
    if isinstance(message, Document):
        return document_to_json(message) + b"\n"
    return to_json(message) + b"\n"


def is_shown() -> bool:
    """True if standard output is a terminal."""
    return sys.stdout.isatty()


def _shown(output: bytes) -> bytes:
    """Escapes the control characters of an output for a terminal, but for line feeds and tabs."""
    text = output.decode(errors="backslashreplace")
    return "".join(letter if letter in "\n\t" else printable(letter) for letter in text).encode()


def _parse_binary(data: bytes, empty: Converted) -> Converted:
    try:
        empty.ParseFromString(data)
    except DecodeError:
        raise malformed(empty.DESCRIPTOR.name) from None
    return empty


def _parse_text(data: bytes, empty: Converted) -> Converted:
    try:
        return text_format.Parse(data, empty)
    except text_format.ParseError as error:
        where = f" at line {error.GetLine()}" if error.GetLine() else ""
    except ValueError:  # Not UTF-8, or a number that no field can hold.
        where = ""
    message = f"the text is not the protobuf text format of {empty.DESCRIPTOR.name}{where}"
    raise ConversionError("MALFORMED_PROTOBUF", "", message)


def _checked(message: Converted, kind: Kind | None) -> Converted:
    """Returns the message. Raises ConversionError if JSON cannot represent the message."""
    if not isinstance(message, Document):
        to_json(message)
        return message
    document_to_json(message)
    if kind and message.kind != KINDS[kind]:
        text = f"the document is not a {kind}: its kind is {message.kind}"
        raise ConversionError("UNKNOWN_KIND", "", text)
    return message
