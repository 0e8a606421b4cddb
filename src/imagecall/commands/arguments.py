"""Input of the command line: types of options, each of which reads one value; standard input."""

import argparse
import sys

from imagecall.access.setting import SettingError, settings_of
from imagecall.errors import ConversionError
from imagecall.json.text import parse
from imagecall.rpc.addresses import ServerAddress, server_address
from imagecall.server.settings import ClientTlsSettings, add_settings, read_settings


def server(text: str) -> ServerAddress:
    """Reads HOST:PORT, grpc://HOST:PORT or grpcs://HOST:PORT."""
    try:
        return server_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_server_option(parser: argparse.ArgumentParser, help: str) -> None:
    """Adds --server, and the options of TLS towards that server."""
    parser.add_argument(
        "--server",
        metavar="HOST:PORT",
        type=server,
        help=f"{help}; grpcs://HOST:PORT if it has TLS; $IMAGECALL_TOKEN holds the token",
    )
    add_settings(parser, ClientTlsSettings)


def add_image_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of a request for an image that need no file."""
    parser.add_argument(
        "--model", metavar="MODEL", type=utf8, help="model that answers, such as gpt-5"
    )
    parser.add_argument("--size", metavar="WxH", type=utf8, help="size in pixels, or auto")
    parser.add_argument("--quality", metavar="Q", type=utf8, help="low, medium, high or auto")
    parser.add_argument(
        "--set",
        metavar="KEY=JSON",
        type=key_and_json,
        action="append",
        default=[],
        help="another key of the request, which is passed on; may be repeated",
    )


def client_tls(options: argparse.Namespace) -> ClientTlsSettings:
    """Reads the options of TLS. Raises SettingError, also for a faulty file."""
    tls = read_settings(ClientTlsSettings, vars(options), {})
    try:
        if tls.files:
            tls.context()
    except OSError as error:
        raise SettingError(str(error)) from None
    return tls


def tls_fault(options: argparse.Namespace, server: ServerAddress | None) -> str | None:
    """Sentence about options of TLS without a server that has TLS; None if there is no fault."""
    has_tls = server is not None and server.tls
    given = [each.name for each in settings_of(ClientTlsSettings) if vars(options)[each.key]]
    if given and not has_tls:
        return f"--{given[0]} needs the address of a server with TLS, grpcs://HOST:PORT"
    if (options.tls_cert is None) != (options.tls_key is None):
        return "--tls-cert and --tls-key belong together"
    return None


def standard_input() -> bytes:
    """Reads all of standard input. Raises OSError if it is closed."""
    if sys.stdin is None:
        raise OSError("standard input is closed")
    return sys.stdin.buffer.read()


def positive(text: str) -> int:
    """Reads a number from 1."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1")
    return int(text)


def utf8(text: str) -> str:
    """Reads a text that UTF-8 can encode."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("it is not UTF-8") from None
    return text


def key_and_json(text: str) -> tuple[str, str]:
    """Reads KEY=JSON; returns the key and the raw JSON text of its value."""
    name, equals, json = utf8(text).partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=JSON")
    try:
        parse(json.encode())
    except ConversionError as error:
        hint = f"{error}; a string needs quotes: '{name}=\"...\"'"
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=JSON: {hint}") from None
    return name, json
