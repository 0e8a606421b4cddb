"""`imagecall convert`: converts an item or document between formats, or many of them."""

import argparse
from pathlib import Path
from typing import Final

from imagecall.bulk.kinds import ITEM, RECORD_KINDS
from imagecall.commands import codes
from imagecall.commands.arguments import add_server_option, positive, tls_fault
from imagecall.conversion.converter import CALLS, Profile
from imagecall.formats import MEDIA_TYPES

FAILED_CALL: Final = codes.CALL_FAILED
FORMATS: Final = ("json", "binary", "text", "parquet")

_IMAGE_EXTENSIONS: Final = (".jpg", *(f".{name}" for name in MEDIA_TYPES))
_MANY_EXTENSIONS: Final = (".jsonl", ".ndjson", ".sse", ".parquet")
"""Extensions of the names of files that hold many records."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.epilog = f"{codes.EPILOG} With --server: 4 if the call failed."
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="input: JSON, JSON Lines, a saved stream of events, messages or Parquet; several "
        "files and folders are converted as --lines; - or none: standard input",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="output (default: standard output); a folder gets a file for each input",
    )
    parser.add_argument(
        "--from",
        dest="source",
        choices=FORMATS,
        help="format of the input (default: json; of many records, by the extension of the name)",
    )
    parser.add_argument(
        "--to",
        dest="target",
        choices=FORMATS,
        help="format of the output: json, binary (protobuf), text (protobuf text format), parquet; "
        "default: text; of many records, by the extension of -o, or else binary for JSON",
    )
    _add_reading_options(parser)
    _add_options_of_many(parser)
    add_server_option(
        parser, "server that converts between JSON and message (default: convert in this process)"
    )


def _add_reading_options(parser: argparse.ArgumentParser) -> None:
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
        "--kind",
        "--document",
        dest="kind",
        choices=RECORD_KINDS,
        help="kind of the input, and of each of its lines (default: found by the keys of the JSON)",
    )


def _add_options_of_many(parser: argparse.ArgumentParser) -> None:
    many = parser.add_argument_group("many records")
    many.add_argument(
        "--lines",
        action="store_true",
        help="the JSON is JSON Lines, and binary is messages that each follow their length; "
        "Parquet has rows in any case",
    )
    many.add_argument(
        "--column",
        metavar="NAME",
        help="column of JSON in Parquet (default: its messages; or json; or the only column)",
    )
    many.add_argument(
        "--jobs",
        type=positive,
        metavar="N",
        help="processes that convert, this one among them (default: 1); small inputs take one",
    )
    many.add_argument(
        "--errors",
        type=Path,
        metavar="FILE",
        help="write what was refused, as JSON Lines, to a file of its own",
    )
    many.add_argument(
        "--skip-existing", action="store_true", help="leave out inputs whose output is there"
    )


def is_many(options: argparse.Namespace) -> bool:
    """True if the input is many records."""
    named = options.lines or options.jobs or options.errors or options.skip_existing
    paths = [Path(name) for name in options.files]
    outputs = [options.output] if options.output else []
    return bool(
        named
        or options.column
        or "parquet" in (options.source, options.target)
        or len(paths) > 1
        or any(path.is_dir() for path in paths)
        or any(path.suffix.lower() in _MANY_EXTENSIONS for path in [*paths, *outputs])
    )


def fault(options: argparse.Namespace) -> str | None:
    """Sentence about options that contradict each other; None if none do."""
    if options.output and options.output.suffix.lower() in _IMAGE_EXTENSIONS:
        return (
            f"{options.output} is the name of an image, and convert writes none: "
            "imagecall extract FILE -o DIR writes the images in JSON"
        )
    if is_many(options):
        return _fault_of_many(options)
    if (options.variant or options.profile) and (
        options.kind not in (None, ITEM) or options.source not in (None, "json")
    ):
        return (
            "--variant and --profile apply to the JSON of an item only, and this input is another"
        )
    return tls_fault(options, options.server)


def _fault_of_many(options: argparse.Namespace) -> str | None:
    if options.server:
        return "--server converts one item or document; many are converted in this process"
    if "text" in (options.source, options.target):
        return "many records are json or binary: the text format has no end of a message"
    if options.skip_existing and not options.output:
        return "--skip-existing requires -o"
    return None


def run(options: argparse.Namespace) -> int:
    """Converts the input, and writes the output."""
    if is_many(options):
        from imagecall.commands.many import convert_many

        return convert_many(options)
    from imagecall.commands.one import convert_one

    return convert_one(options)
