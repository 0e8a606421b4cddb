"""`imagecall convert`: converts an item or document between formats."""

import argparse
import sys
from pathlib import Path
from typing import Final, TypeAlias

from google.protobuf import text_format
from google.protobuf.message import DecodeError

from imagecall.commands.arguments import add_server_option, standard_input, tls_fault
from imagecall.conversion.converter import CALLS, Profile, from_json, to_json
from imagecall.conversion.document import KINDS, document_from_json, document_to_json
from imagecall.errors import ConversionError, malformed, printable
from imagecall.formats import MEDIA_TYPES
from imagecall.json.text import parse
from imagecall.v1.document_pb2 import Document
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall

FORMATS: Final = ("json", "binary", "text")

_IMAGE_SUFFIXES: Final = (".jpg", *(f".{name}" for name in MEDIA_TYPES))

Converted: TypeAlias = ImageGenerationCall | Document


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument(
        "file", nargs="?", type=Path, metavar="FILE", help="input (default: standard input)"
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="output (default: standard output)"
    )
    parser.add_argument(
        "--from",
        dest="source",
        choices=FORMATS,
        default="json",
        help="format of the input (default: %(default)s)",
    )
    parser.add_argument(
        "--to",
        dest="target",
        choices=FORMATS,
        default="text",
        help="format of the output: json, binary (protobuf), text (protobuf text format); "
        "default: %(default)s",
    )
    parser.add_argument(
        "--variant",
        choices=list(CALLS.variants),
        metavar="VARIANT",
        help="read the JSON of an item as this variant; see imagecall describe "
        f"(default: {CALLS.default})",
    )
    parser.add_argument(
        "--profile",
        choices=[profile.name.lower() for profile in Profile],
        help="strictness of the checks on the JSON of an item (default: wire)",
    )
    parser.add_argument(
        "--document",
        choices=list(KINDS),
        help="the input is a whole request, response or event instead of an item",
    )
    add_server_option(
        parser, "server that converts between JSON and message (default: convert in this process)"
    )


def fault(options: argparse.Namespace) -> str | None:
    """Sentence about options that contradict each other; None if none do."""
    if (options.variant or options.profile) and (options.document or options.source != "json"):
        return (
            "--variant and --profile apply to the JSON of an item only, and this input is another"
        )
    if options.output and options.output.suffix.lower() in _IMAGE_SUFFIXES:
        return (
            f"{options.output} is the name of an image, and convert writes none: "
            "imagecall extract FILE -o DIR writes the images in JSON"
        )
    return tls_fault(options, options.server)


def run(options: argparse.Namespace) -> int:
    """Reads the input, converts it, and writes the output."""
    if options.target == "binary" and not options.output and _is_shown():
        raise OSError("a terminal shows no binary output: it takes -o FILE, or --to text")
    data = options.file.read_bytes() if options.file else standard_input()
    message = _read(data, options)
    output = _write(message, options)
    if options.output:
        options.output.write_bytes(output)
    else:
        sys.stdout.buffer.write(_shown(output) if _is_shown() else output)
        sys.stdout.buffer.flush()
    return 0


def _read(data: bytes, options: argparse.Namespace) -> Converted:
    empty: Converted = Document() if options.document else ImageGenerationCall()
    if options.source != "json":
        read = _parse_binary if options.source == "binary" else _parse_text
        return _checked(read(data, empty), options)
    if options.server:
        from imagecall.commands.remote import parse_json

        return parse_json(data, options)
    if options.document:
        return document_from_json(data, kind=options.document)
    variant = options.variant or CALLS.default
    return from_json(data, variant=variant, profile=Profile[(options.profile or "wire").upper()])


def _write(message: Converted, options: argparse.Namespace) -> bytes:
    match options.target:
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


def _is_shown() -> bool:
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


def _checked(message: Converted, options: argparse.Namespace) -> Converted:
    """Returns the message. Raises ConversionError if JSON cannot represent the message."""
    if not isinstance(message, Document):
        to_json(message)
        return message
    document_to_json(message)
    if message.kind != KINDS[options.document]:
        text = f"the document is not a {options.document}: its kind is {message.kind}"
        raise ConversionError("UNKNOWN_KIND", "", text)
    return message
