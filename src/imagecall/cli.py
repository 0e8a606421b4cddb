"""The command `imagecall`: serve, convert, describe."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from imagecall.commands import convert, describe, serve
from imagecall.converter import CALLS, Profile
from imagecall.document import KINDS
from imagecall.errors import ConversionError, printable
from imagecall.json_text import MAX_BYTES

_DEFAULT_ADDRESS: Final = "127.0.0.1:50051"
_MAX_JSON_BYTES: Final = 2**30


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Returns its exit code: 0, 1 for refused input, 2 for wrong usage, 130 for an interrupt.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if (fault := options.check(options)) is not None:
        parser.error(fault)
    try:
        if sys.stdout is None:
            raise OSError("standard output is closed")
        code: int = options.run(options)
    except ConversionError as error:
        place = f" at {printable(error.pointer)}" if error.pointer else ""
        return _fail(f"{error.reason}{place}: {error}")
    except OSError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return 130
    return code


def _fail(message: str) -> int:
    if sys.stderr is not None:
        print(f"imagecall: {message}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="imagecall",
        description="gRPC for the image_generation_call items of the Responses API.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_serve(commands.add_parser("serve", help="run the gRPC server"))
    _add_convert(commands.add_parser("convert", help="convert an item, or a whole document"))
    _add_describe(commands.add_parser("describe", help="list the variants and their JSON"))
    return parser


def _add_serve(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=serve.run, check=lambda _: None)
    parser.add_argument(
        "--grpc",
        metavar="HOST:PORT",
        type=_address,
        default=_DEFAULT_ADDRESS,
        help="where to listen; port 0 takes a free one (default: %(default)s)",
    )
    parser.add_argument(
        "--max-json-bytes",
        metavar="N",
        type=_json_bytes,
        default=MAX_BYTES,
        help="refuse longer JSON texts (default: %(default)s)",
    )


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=convert.run, check=convert.fault)
    parser.add_argument(
        "file", nargs="?", type=Path, metavar="FILE", help="input (default: standard input)"
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="output (default: standard output)"
    )
    parser.add_argument(
        "--from",
        dest="source",
        choices=convert.FORMATS,
        default="json",
        help="format of the input (default: %(default)s)",
    )
    parser.add_argument(
        "--to",
        dest="target",
        choices=convert.FORMATS,
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
        help="how much to demand of the JSON of an item (default: wire)",
    )
    parser.add_argument(
        "--document",
        choices=list(KINDS),
        help="the input is a whole request, response or event instead of an item",
    )
    parser.add_argument(
        "--server",
        metavar="HOST:PORT",
        type=_address,
        help="let this server convert between JSON and message (default: convert here)",
    )


def _add_describe(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=describe.run, check=lambda _: None)
    parser.add_argument(
        "variant",
        nargs="?",
        choices=list(CALLS.variants),
        metavar="VARIANT",
        help="say more of this variant (default: list all)",
    )


def _address(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not (host and port.isascii() and port.isdecimal() and int(port) < 2**16):
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT with a port of 0 to 65535")
    return text


def _json_bytes(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _MAX_JSON_BYTES:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {_MAX_JSON_BYTES}")
    return int(text)
