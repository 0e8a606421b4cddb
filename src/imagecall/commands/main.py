"""The command `imagecall`: serve, generate, convert, describe."""

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from imagecall.commands import convert, describe, generate, serve
from imagecall.conversion.converter import CALLS, Profile
from imagecall.conversion.document import KINDS
from imagecall.errors import ConversionError, GenerationError, ImagecallError, printable
from imagecall.json.text import parse
from imagecall.rpc.addresses import ServerAddress, server_address
from imagecall.server.settings import BACKEND, SERVER, SettingError, add_settings, seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Returns its exit code: 0, 1 for refused input, 2 for wrong usage, 130 for an interrupt.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # A file name may be in any language.
    options = _parser().parse_args(arguments)
    try:
        if (fault := options.check(options)) is not None:
            options.parser.error(fault)
        if sys.stdout is None:
            raise OSError("standard output is closed")
        code: int = options.run(options)
    except ImagecallError as error:
        place = f" at {printable(error.pointer)}" if error.pointer else ""
        _fail(f"{error.reason or error.code}{place}: {error}")
        if isinstance(error, GenerationError) and error.retry_seconds is not None:
            _fail(f"try again in {error.retry_seconds:g} s")
        return 1
    except SettingError as error:
        _fail(str(error))
        return 2
    except TimeoutError:
        return _fail("it took longer than the time limit")
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
    _add_generate(commands.add_parser("generate", help="generate an image from a prompt"))
    _add_convert(commands.add_parser("convert", help="convert an item, or a whole document"))
    _add_describe(commands.add_parser("describe", help="list the variants and their JSON"))
    for command in commands.choices.values():
        command.set_defaults(parser=command)
    return parser


def _add_serve(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=serve.run, check=lambda _: None)
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        help="settings in TOML: names as of the flags, without the dashes before them",
    )
    add_settings(parser, SERVER)
    parser.epilog = (
        "Each setting can also be given in the environment, such as IMAGECALL_MAX_CALLS, or in the "
        "file of --config (IMAGECALL_CONFIG); the flag counts first, then the environment. The key "
        "for the backend may stand in IMAGECALL_API_KEY."
    )


def _add_generate(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=generate.run, check=generate.fault)
    parser.add_argument("prompt", metavar="PROMPT", type=_text, help="what to draw")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        default=Path("image.png"),
        help="where to write it; its extension picks the format: .png, .jpg, .webp, .gif or .svg "
        "(default: %(default)s)",
    )
    _add_request_options(parser)
    parser.add_argument(
        "--save-partial-images", action="store_true", help="write those too, as FILE.partialN.EXT"
    )
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=seconds(), help="give up after this time"
    )
    parser.add_argument(
        "--server",
        metavar="HOST:PORT",
        type=_server,
        help="let this server generate it; grpcs://HOST:PORT if it has TLS; a token stands in "
        "$IMAGECALL_TOKEN (default: generate it here)",
    )
    add_settings(parser, BACKEND)


def _add_request_options(parser: argparse.ArgumentParser) -> None:
    """What is asked of the API beside the prompt."""
    parser.add_argument(
        "--model", metavar="MODEL", type=_text, help="model that answers, such as gpt-5"
    )
    parser.add_argument("--size", metavar="WxH", type=_text, help="size in pixels, or auto")
    parser.add_argument("--quality", metavar="Q", type=_text, help="low, medium, high or auto")
    parser.add_argument("--background", metavar="B", type=_text, help="transparent, opaque or auto")
    parser.add_argument(
        "--partial-images",
        metavar="N",
        type=int,
        choices=range(4),
        help="early images to send, 0 to 3",
    )
    parser.add_argument(
        "--input",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="image to start from; may be given several times",
    )
    parser.add_argument(
        "--set",
        metavar="KEY=JSON",
        type=_key_and_json,
        action="append",
        default=[],
        help="another key of the request, passed on; may be given several times",
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
        type=_server,
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


def _server(text: str) -> ServerAddress:
    try:
        return server_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("it is not UTF-8") from None
    return text


def _key_and_json(text: str) -> tuple[str, str]:
    name, equals, json = _text(text).partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=JSON")
    try:
        parse(json.encode())
    except ConversionError as error:
        hint = f"{error}; a string needs quotes: '{name}=\"...\"'"
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=JSON: {hint}") from None
    return name, json
