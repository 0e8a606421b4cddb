"""`imagecall generate`: generates an image from a prompt, into a file."""

import argparse
import asyncio
import io
import os
import sys
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final

from imagecall.access.limits import Limits
from imagecall.access.setting import seconds, settings_of
from imagecall.client import AsyncImageClient
from imagecall.commands.arguments import (
    add_image_options,
    add_server_option,
    client_tls,
    standard_input,
    tls_fault,
    utf8,
)
from imagecall.conversion.converter import CALLS, EVENTS
from imagecall.conversion.view import CallView, view
from imagecall.errors import printable
from imagecall.formats import image_format
from imagecall.generation.assembly import StreamItem, reassemble
from imagecall.generation.ending import failure_of, words_of
from imagecall.json.text import MAX_BYTES
from imagecall.rpc.addresses import ServerAddress
from imagecall.server.backend import backend_from
from imagecall.server.settings import TOKEN, BackendSettings, add_settings, read_settings
from imagecall.v1.extra_field_pb2 import ExtraField
from imagecall.v1.image_generation_service_pb2 import StreamEnd, StreamImageRequest
from imagecall.v1.image_generation_tool_pb2 import ImageGenerationTool, Tool
from imagecall.v1.image_request_pb2 import ImageRequest, InputImage
from imagecall.v1.stream_event_pb2 import ImageGenCallPartialImageEvent, StreamEvent

_STANDARD_INPUT: Final = "-"

FORMATS: Final = {
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".webp": "webp",
    ".gif": "gif",
    ".svg": "svg",
}
"""Output format of each file name extension."""

_LIMITS: Final = Limits(json_bytes=MAX_BYTES, embedded_bytes=Limits.image_bytes)
"""Limits of an answer for one user, who needs none for the sake of others."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
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
        help="output file; its extension selects the format: .png, .jpg, .webp, .gif or .svg "
        "(default: %(default)s)",
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
    if options.output.suffix.lower() not in FORMATS:
        return f"{options.output} must end with one of {', '.join(FORMATS)}: it selects the format"
    directory = options.output.parent
    if not os.access(directory, os.W_OK | os.X_OK) or options.output.is_dir():
        return f"{options.output} cannot be written: does its directory exist?"
    if options.save_partial_images and not options.partial_images:
        return "--save-partial-images requires --partial-images"
    if options.server and any(vars(options)[each.key] for each in settings_of(BackendSettings)):
        return "--server has a backend of its own: omit --backend and the options for a backend"
    return tls_fault(options, options.server)


def run(options: argparse.Namespace) -> int:
    """Generates an image and writes it."""
    return asyncio.run(_generate(options, _request(options)))


async def _generate(options: argparse.Namespace, request: ImageRequest) -> int:
    images = _Images(options.output, options.save_partial_images)
    async with asyncio.timeout(options.timeout):
        async for item in _items(options, request):
            images.take(item)
    return images.outcome()


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
        output_format=FORMATS[options.output.suffix.lower()],
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


class _Images:
    """Writer of a stream's images, and of lines that describe them."""

    def __init__(self, output: Path, save_partial_images: bool) -> None:
        self._output = output
        self._save_partial_images = save_partial_images
        self._written = 0
        self._failure = ""
        self._words: list[str] = []

    def take(self, item: StreamItem) -> None:
        """Handles an event, or the end of the stream."""
        if isinstance(item, StreamEnd):
            for call in item.response.calls:
                self._take_call(view(call))
            self._failure = failure_of(item)
            self._words = list(words_of(item.response))
            return
        variant = EVENTS.chosen(item)
        event: Any = getattr(item, variant.name)
        if isinstance(event, ImageGenCallPartialImageEvent):
            self._take_partial_image(event)
        elif not variant.option.fallback:
            self._print(variant.plan.tag.removeprefix("response."))
        if _is_final(item):
            self._take_call(view(event.item))

    def outcome(self) -> int:
        """Prints the failure, if any; returns the exit code."""
        if self._failure:
            self._print(self._failure)
        elif not self._written:
            self._print("the response has no image")
        for line in self._words:
            self._print(line)
        return 0 if self._written and not self._failure else 1

    def _take_partial_image(self, event: ImageGenCallPartialImageEvent) -> None:
        self._print(f"partial image {event.partial_image_index}")
        if self._save_partial_images and event.partial_image_b64.image:
            suffix = f".partial{event.partial_image_index}{self._output.suffix}"
            self._write(self._output.with_suffix(suffix), event.partial_image_b64.image)

    def _take_call(self, call: CallView) -> None:
        if call.image is None:
            if isinstance(call.result, str):
                self._print(f"the result is not an image, but text: {printable(call.result[:200])}")
            return
        self._written += 1
        path = self._output
        if self._written > 1:
            path = path.with_stem(f"{path.stem}-{self._written}")
        self._write(path, call.image)
        for declared, source in (
            (call.declared_format, "output_format"),
            (FORMATS[path.suffix.lower()], "the file name"),
        ):
            if declared and declared != call.format:
                actual = call.format or "of unknown format"
                self._print(f"warning: {source} declares {declared}, the file is {actual}")

    def _write(self, path: Path, image: bytes) -> None:
        path.write_bytes(image)
        facts = (image_format(image) or "unknown format", *_pixels(image), f"{len(image):,} bytes")
        print(f"{path}: {', '.join(facts)}", flush=True)

    @staticmethod
    def _print(text: str) -> None:
        if sys.stderr is not None:
            print(f"imagecall: {printable(text)}", file=sys.stderr, flush=True)


def _is_final(event: StreamEvent) -> bool:
    """True for an event with the final item of an image call."""
    event_done = event.output_item_done_event
    return event_done.HasField("item") and not CALLS.chosen(event_done.item).option.fallback


def _pixels(image: bytes) -> Iterator[str]:
    """Yields the size of an image in pixels, if its header has it and Pillow is installed."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ModuleNotFoundError:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # Only a header.
            with Image.open(io.BytesIO(image)) as opened:
                yield f"{opened.width} x {opened.height} pixels"
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError):
        return
