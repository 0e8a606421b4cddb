"""`imagecall generate`: generates an image from a prompt, into a file."""

import argparse
import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from imagecall.access.limits import Limits
from imagecall.access.setting import SettingError, seconds, settings_of
from imagecall.backends.choice import EMBEDDED
from imagecall.client import AsyncImageClient
from imagecall.commands import codes
from imagecall.commands.arguments import (
    add_image_options,
    add_server_option,
    client_tls,
    standard_input,
    tls_fault,
    utf8,
)
from imagecall.commands.generated import Outcome
from imagecall.commands.status_line import print_line
from imagecall.errors import GenerationError, ImagecallError
from imagecall.formats import image_format
from imagecall.generation.assembly import StreamItem, reassemble
from imagecall.json.text import MAX_BYTES
from imagecall.rpc.addresses import ServerAddress, server_address
from imagecall.server.backend import backend_from
from imagecall.server.settings import (
    SERVER,
    TOKEN,
    BackendSettings,
    add_settings,
    read_settings,
)
from imagecall.v1.extra_field_pb2 import ExtraField
from imagecall.v1.image_generation_service_pb2 import StreamImageRequest
from imagecall.v1.image_generation_tool_pb2 import ImageGenerationTool, Tool
from imagecall.v1.image_request_pb2 import ImageRequest, InputImage

FAILED_CALL: Final = codes.CALL_FAILED

_STANDARD_INPUT: Final = "-"
_STANDARD_OUTPUT: Final = Path("-")

FORMATS: Final = {
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".webp": "webp",
    ".gif": "gif",
    ".svg": "svg",
}
"""Output format of each file name extension."""

_EPILOG: Final = (
    "Exit code: 0 for an image; 1 if the input was refused, such as a size that the model lacks or "
    "a file that cannot be read; 2 for wrong usage, or a package that is not installed; 4 if the "
    "call failed or gave no image; 130 for an interrupt. "
    f"${SERVER} may hold the address of --server; --backend takes precedence over it."
)

_LIMITS: Final = Limits(json_bytes=MAX_BYTES, embedded_bytes=Limits.image_bytes)
"""Limits of an answer for one user, who needs none for the sake of others."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.epilog = _EPILOG
    parser.add_argument(
        "prompt",
        metavar="PROMPT",
        type=utf8,
        help="description of the image; -: read it from standard input",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        default=Path("image.png"),
        help="output file; its extension selects the format: .png, .jpg, .webp, .gif or .svg; "
        "-: a PNG to standard output (default: %(default)s)",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print JSON: the backend, the images, id, tokens, cost, and the failure if any",
    )
    _add_request_options(parser)
    parser.add_argument(
        "--save-partial-images",
        action="store_true",
        help="write the partial images too, as FILE.partialN.EXT",
    )
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=seconds(), help="longest time of the call"
    )
    add_server_option(parser, "server that generates the image (default: generate in this process)")
    add_settings(parser, BackendSettings)


def _add_request_options(parser: argparse.ArgumentParser) -> None:
    """Options of the request beside the prompt."""
    add_image_options(parser)
    parser.add_argument("--background", metavar="B", type=utf8, help="transparent, opaque or auto")
    parser.add_argument(
        "--partial-images",
        metavar="N",
        type=int,
        choices=range(4),
        help="number of partial images, 0 to 3",
    )
    parser.add_argument(
        "--input",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="input image; may be repeated",
    )


def fault(options: argparse.Namespace) -> str | None:
    """Sentence about options that contradict each other; None if none do."""
    if options.output == _STANDARD_OUTPUT:
        if options.json or options.save_partial_images:
            return "-o - is an image alone: omit --json and --save-partial-images, or name a file"
    elif (file_fault := _file_fault(options.output)) is not None:
        return file_fault
    if options.save_partial_images and not options.partial_images:
        return "--save-partial-images requires --partial-images"
    if options.server and any(vars(options)[each.key] for each in settings_of(BackendSettings)):
        return "--server has a backend of its own: omit --backend and the options for a backend"
    return tls_fault(options, options.server)


def _file_fault(path: Path) -> str | None:
    if path.suffix.lower() not in FORMATS:
        return f"{path} must end with one of {', '.join(FORMATS)}: it selects the format"
    if not os.access(path.parent, os.W_OK | os.X_OK) or path.is_dir():
        return f"{path} cannot be written: does its directory exist?"
    return None


def run(options: argparse.Namespace) -> int:
    """Generates an image and writes it.

    Raises ImagecallError, SettingError, OSError.
    """
    if options.output == _STANDARD_OUTPUT and sys.stdout.isatty():
        raise OSError("a terminal shows no image: -o FILE, or standard output to another program")
    options.server = options.server or _server_of_environment(options)
    request = _request(options)
    source = _source(options)
    print_line(", ".join(f"{name}: {value}" for name, value in source.items()))
    outcome = Outcome(
        None if options.output == _STANDARD_OUTPUT else options.output,
        _format(options.output),
        save_partial_images=options.save_partial_images,
        as_json=options.json,
        source=source,
    )
    try:
        return asyncio.run(_generate(options, request, outcome))
    except ImagecallError as error:
        outcome.fail(error)
        raise


async def _generate(options: argparse.Namespace, request: ImageRequest, outcome: Outcome) -> int:
    async with outcome.status.ticking():
        try:
            async with asyncio.timeout(options.timeout) as limit:
                async for item in _items(options, request):
                    outcome.take(item)
        except (TimeoutError, GenerationError) as error:
            if isinstance(error, TimeoutError):
                is_late = limit.expired()
            else:  # The clock of gRPC may be first.
                is_late = error.code == "DEADLINE_EXCEEDED" and not error.reason
            if not is_late:
                raise
            message = "it took longer than the time limit"
            code = "DEADLINE_EXCEEDED"
            raise GenerationError("", message, code=code, may_be_billed=True) from None
    return outcome.finish()


def _server_of_environment(options: argparse.Namespace) -> ServerAddress | None:
    """Server of the environment, unless a backend is named. Raises SettingError."""
    text = os.environ.get(SERVER, "")
    if not text or any(vars(options)[each.key] for each in settings_of(BackendSettings)):
        return None
    try:
        address = server_address(text)
    except ValueError as error:
        raise SettingError(f"{SERVER}: {error}") from None
    if (sentence := tls_fault(options, address)) is not None:
        raise SettingError(sentence)
    return address


def _source(options: argparse.Namespace) -> dict[str, str]:
    """Server or backend that generates, and the model if one is named, without credentials."""
    model = {"model": options.model} if options.model else {}
    if options.server:
        return {"server": options.server.target, **model}
    uri = read_settings(BackendSettings, vars(options), os.environ).name or EMBEDDED
    return {"backend": _without_credentials(uri), **model}


def _without_credentials(uri: str) -> str:
    try:
        parts = urlsplit(uri)
    except ValueError:  # The backend refuses it.
        return "unknown"
    if not parts.netloc:
        return uri
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=host, query="", fragment="").geturl()


def _format(output: Path) -> str:
    return FORMATS.get(output.suffix.lower(), "png")


async def _items(options: argparse.Namespace, request: ImageRequest) -> AsyncIterator[StreamItem]:
    """Items of the stream: of a server, or of a backend in this process."""
    if options.server:
        server: ServerAddress = options.server
        token = os.environ.get(TOKEN, "")
        tls = client_tls(options) if server.tls else None
        async with AsyncImageClient(server.target, tls=tls, token=token) as client:
            items = client.stream_image(request, timeout=options.timeout)
            async with aclosing(items):
                async for event in items:
                    yield event.message
        return
    backend = backend_from(read_settings(BackendSettings, vars(options), os.environ), _LIMITS)
    try:
        parts = backend.stream_image(StreamImageRequest(request=request))
        async with aclosing(parts):
            async for item in reassemble(parts):
                yield item
    finally:
        await backend.close()


def _request(options: argparse.Namespace) -> ImageRequest:
    tool = ImageGenerationTool(
        output_format=_format(options.output),
        size=options.size,
        quality=options.quality,
        background=options.background,
        partial_images=options.partial_images,
    )
    return ImageRequest(
        prompt=_prompt(options.prompt),
        model=options.model,
        tools=[Tool(image_generation_tool=tool)],
        input_images=[InputImage(image=_image(path)) for path in options.input],
        extra_fields=[ExtraField(name=name, json=json) for name, json in options.set],
    )


def _prompt(text: str) -> str:
    """Returns the prompt; for "-", standard input. Raises OSError if standard input has none."""
    if text != _STANDARD_INPUT:
        return text
    try:
        prompt = standard_input().decode().strip()
    except UnicodeDecodeError:
        raise OSError("the prompt on standard input is not UTF-8") from None
    if not prompt:
        raise OSError("the prompt on standard input is empty")
    return prompt


def _image(path: Path) -> bytes:
    """Reads an image file. Raises OSError if the file is not an image."""
    image = path.read_bytes()
    if image_format(image) is None:
        raise OSError(f"{path} is not an image of a known format")
    return image
