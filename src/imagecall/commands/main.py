"""Command line `imagecall`. Each of its commands is a module, imported when the command runs."""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Final

import imagecall
from imagecall.access.setting import SettingError
from imagecall.commands.codes import BROKEN_PIPE, REFUSED, WRONG_USAGE, is_refusal
from imagecall.errors import GenerationError, ImagecallError, printable

_COMMANDS: Final = {
    "serve": "run the server: gRPC, and HTTP with JSON",
    "generate": "generate an image from a prompt",
    "convert": "convert an item, a whole document, or many",
    "extract": "write the images in JSON to files",
    "check": "check a server of the schema, rule by rule",
    "health": "check the health of a server",
    "describe": "list the variants and their JSON",
}
"""Commands, which are modules of this package, with their phrases for the help."""

_EXTRAS: Final = {
    "aiohttp": "server",
    "grpc_channelz": "server",
    "grpc_health": "server",
    "grpc_reflection": "server",
    "starlette": "server",
    "uvicorn": "server",
    "PIL": "embedded",
    "opentelemetry": "observe",
    "prometheus_client": "observe",
    "fsspec": "bulk",
    "pyarrow": "bulk",
}
"""Extra of this package that installs a module."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Returns its exit code: 0, 1 for refused input, 2 for wrong usage or a package that is not
    installed, 130 for an interrupt, 141 if the reader of the output has left, and others that the
    help of the command names.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # File names may be in any language.
    words = sys.argv[1:] if arguments is None else arguments
    try:
        options = _parser(words).parse_args(words)
        if (fault := options.check(options)) is not None:
            options.parser.error(fault)
        if sys.stdout is None:
            raise OSError("standard output is closed")
        code: int = options.run(options)
        sys.stdout.flush()
    except ImagecallError as error:
        place = f" at {error.pointer}" if error.pointer else ""
        _fail(f"{error.reason or error.code}{place}: {error}")
        if isinstance(error, GenerationError) and error.retry_seconds is not None:
            _fail(f"try again in {error.retry_seconds:g} s")
        return REFUSED if is_refusal(error) else int(options.failed_call)
    except SettingError as error:
        _fail(str(error))
        return WRONG_USAGE
    except ModuleNotFoundError as error:
        _fail(_missing(error))
        return WRONG_USAGE
    except BrokenPipeError:  # The reader has enough, such as `head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # For the flush at exit.
        return BROKEN_PIPE
    except OSError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return 130
    return code


def _missing(error: ModuleNotFoundError) -> str:
    """Returns a sentence that names the extra with a module. Raises the error for other modules."""
    extra = _EXTRAS.get((error.name or "").partition(".")[0])
    if extra is None:
        raise error
    checkout = (Path(imagecall.__file__).parents[2] / "pyproject.toml").exists()
    package = f"--editable '.[{extra}]'" if checkout else f"'imagecall[{extra}]'"
    return f"the package {error.name} is not installed: pip install {package}"


def _fail(message: str) -> int:
    if sys.stderr is not None:
        print(f"imagecall: {printable(message)}", file=sys.stderr)
    return 1


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """Returns the parser, with the options of the command in the arguments."""
    parser = argparse.ArgumentParser(
        prog="imagecall",
        description="gRPC for the image_generation_call items of the Responses API.",
    )
    version = f"imagecall {imagecall.__version__}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, phrase in _COMMANDS.items():
        description = f"{phrase[0].upper()}{phrase[1:]}."
        command = commands.add_parser(name, help=phrase, description=description)
        if name in arguments:
            if name != "serve":
                os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # A failure is one sentence.
            module = import_module(f"imagecall.commands.{name}")
            module.add_options(command)
            command.set_defaults(run=module.run, check=module.fault, parser=command)
            command.set_defaults(failed_call=getattr(module, "FAILED_CALL", REFUSED))
    return parser
