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
from imagecall.client import ImageClient
from imagecall.commands.arguments import key_and_json, server, standard_input, utf8
from imagecall.conversion.converter import CALLS, EVENTS
from imagecall.conversion.view import CallView, view
from imagecall.errors import printable
from imagecall.formats import image_format
from imagecall.generation.assembly import StreamItem, reassemble
from imagecall.rpc.addresses import ServerAddress
from imagecall.rpc.channel import credentials_of
from imagecall.server.backend import backend_from
from imagecall.server.settings import TOKEN, BackendSettings, add_settings, read_settings
from imagecall.v1.extra_field_pb2 import ExtraField
from imagecall.v1.image_generation_service_pb2 import StreamEnd, StreamEnding, StreamImageRequest
from imagecall.v1.image_generation_tool_pb2 import ImageGenerationTool, Tool
from imagecall.v1.image_request_pb2 import ImageRequest, InputImage
from imagecall.v1.image_response_pb2 import ImageResponse
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


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument(
        "prompt", metavar="PROMPT", type=utf8, help="what to draw; -: read it from standard input"
    )
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
        type=server,
        help="let this server generate it; grpcs://HOST:PORT if it has TLS; a token stands in "
        "$IMAGECALL_TOKEN (default: generate it here)",
    )
    add_settings(parser, BackendSettings)


def _add_request_options(parser: argparse.ArgumentParser) -> None:
    """Options of the request beside the prompt."""
    parser.add_argument(
        "--model", metavar="MODEL", type=utf8, help="model that answers, such as gpt-5"
    )
    parser.add_argument("--size", metavar="WxH", type=utf8, help="size in pixels, or auto")
    parser.add_argument("--quality", metavar="Q", type=utf8, help="low, medium, high or auto")
    parser.add_argument("--background", metavar="B", type=utf8, help="transparent, opaque or auto")
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
        type=key_and_json,
        action="append",
        default=[],
        help="another key of the request, passed on; may be given several times",
    )


def fault(options: argparse.Namespace) -> str | None:
    """Sentence about options that contradict each other; None if none do."""
    if options.output.suffix.lower() not in FORMATS:
        return f"{options.output} must end with one of {', '.join(FORMATS)}, which picks the format"
    directory = options.output.parent
    if not os.access(directory, os.W_OK | os.X_OK) or options.output.is_dir():
        return f"{options.output} cannot be written: is its directory there?"
    if options.save_partial_images and not options.partial_images:
        return "--save-partial-images needs --partial-images, or there will be none"
    if options.server and any(vars(options)[each.key] for each in settings_of(BackendSettings)):
        return "--server has a backend of its own: --backend and the like are for one here"
    return None


def run(options: argparse.Namespace) -> int:
    """Generates an image and writes it."""
    return asyncio.run(_generate(options, _request(options)))


async def _generate(options: argparse.Namespace, request: ImageRequest) -> int:
    images = _Images(options.output, options.save_partial_images)
    async with asyncio.timeout(options.timeout):
        async for happening in _happenings(options, request):
            images.take(happening)
    return images.outcome()


async def _happenings(
    options: argparse.Namespace, request: ImageRequest
) -> AsyncIterator[StreamItem]:
    """Items of the stream: of a server, or of a backend in this process."""
    if options.server:
        server: ServerAddress = options.server
        token = os.environ.get(TOKEN, "")
        async with ImageClient(
            server.target, credentials=credentials_of(server), token=token
        ) as client:
            happenings = client.stream_image(request, timeout=options.timeout)
            async with aclosing(happenings):
                async for happening in happenings:
                    yield happening
        return
    backend = backend_from(read_settings(BackendSettings, vars(options), os.environ), Limits())
    try:
        parts = backend.stream_image(StreamImageRequest(request=request))
        async with aclosing(parts):
            async for happening in reassemble(parts):
                yield happening
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
    """Reads an image file. Raises OSError if the file is no image."""
    image = path.read_bytes()
    if image_format(image) is None:
        raise OSError(f"{path} is no image of a known format")
    return image


class _Images:
    """Writer of a stream's images, and of lines that describe them."""

    def __init__(self, output: Path, save_partial_images: bool) -> None:
        self._output = output
        self._save_partial_images = save_partial_images
        self._written = 0
        self._failure = ""
        self._words: list[str] = []

    def take(self, happening: StreamItem) -> None:
        """Handles an event, or the end of the stream."""
        if isinstance(happening, StreamEnd):
            for call in happening.response.calls:
                self._take_call(view(call))
            self._failure = _failure(happening)
            self._words = list(_words(happening.response))
            return
        variant = EVENTS.chosen(happening)
        event: Any = getattr(happening, variant.name)
        if isinstance(event, ImageGenCallPartialImageEvent):
            self._take_partial_image(event)
        elif not variant.option.fallback:
            self._say(variant.plan.tag.removeprefix("response."))
        if _is_final(happening):
            self._take_call(view(event.item))

    def outcome(self) -> int:
        """Prints the failure, if any; returns the exit code."""
        if self._failure:
            self._say(self._failure)
        elif not self._written:
            self._say("the response has no image")
        for line in self._words:
            self._say(line)
        return 0 if self._written and not self._failure else 1

    def _take_partial_image(self, event: ImageGenCallPartialImageEvent) -> None:
        self._say(f"partial image {event.partial_image_index}")
        if self._save_partial_images and event.partial_image_b64.image:
            suffix = f".partial{event.partial_image_index}{self._output.suffix}"
            self._write(self._output.with_suffix(suffix), event.partial_image_b64.image)

    def _take_call(self, call: CallView) -> None:
        if call.image is None:
            if isinstance(call.result, str):
                self._say(f"the result is no image but text: {call.result[:200]}")
            return
        self._written += 1
        path = self._output
        if self._written > 1:
            path = path.with_stem(f"{path.stem}-{self._written}")
        self._write(path, call.image)
        for declared, by in (
            (call.declared_format, "output_format"),
            (FORMATS[path.suffix.lower()], "the file name"),
        ):
            if declared and declared != call.format:
                self._say(f"warning: {by} says {declared}, the file is {call.format or 'unknown'}")

    def _write(self, path: Path, image: bytes) -> None:
        path.write_bytes(image)
        facts = (image_format(image) or "unknown format", *_pixels(image), f"{len(image):,} bytes")
        print(f"{path}: {', '.join(facts)}", flush=True)

    @staticmethod
    def _say(text: str) -> None:
        if sys.stderr is not None:
            print(f"imagecall: {printable(text)}", file=sys.stderr, flush=True)


def _is_final(event: StreamEvent) -> bool:
    """True for an event with the final item of an image call."""
    done = event.output_item_done_event
    return done.HasField("item") and not CALLS.chosen(done.item).option.fallback


def _failure(end: StreamEnd) -> str:
    """Failure that the end of a stream reports; "" for none."""
    if end.ending in (StreamEnding.STREAM_ENDING_COMPLETED, StreamEnding.STREAM_ENDING_UNSPECIFIED):
        return ""
    response = end.response
    why = response.error.message or response.error.code or response.incomplete_details.reason
    if end.ending not in StreamEnding.values():
        return f"the response ended in an unknown way: {end.ending}"
    word = StreamEnding.Name(end.ending).removeprefix("STREAM_ENDING_").lower()
    return f"the response ended as {word}" + (f": {why}" if why else "")


def _words(response: ImageResponse) -> Iterator[str]:
    """Yields lines that the model wrote beside an image, or instead of one."""
    for verb, text in (("wrote", response.output_text), ("refused", response.refusal)):
        for line in text.strip().splitlines():
            yield f"the model {verb}: {line}"


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
