"""Input of the command line: types of options, each of which reads one value; standard input."""

import argparse
import sys

from imagecall.errors import ConversionError
from imagecall.json.text import parse
from imagecall.rpc.addresses import ServerAddress, server_address


def server(text: str) -> ServerAddress:
    """Reads HOST:PORT, grpc://HOST:PORT or grpcs://HOST:PORT."""
    try:
        return server_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def standard_input() -> bytes:
    """Reads all of standard input. Raises OSError if it is closed."""
    if sys.stdin is None:
        raise OSError("standard input is closed")
    return sys.stdin.buffer.read()


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
