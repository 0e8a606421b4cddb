"""Outcome of `imagecall generate`: files of images, and lines or JSON about them."""

import hashlib
import io
import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from imagecall.commands.codes import CALL_FAILED, DONE
from imagecall.commands.status_line import StatusLine
from imagecall.conversion.converter import CALLS, EVENTS
from imagecall.conversion.view import CallView, view
from imagecall.errors import ImagecallError, printable
from imagecall.formats import image_format
from imagecall.generation.assembly import StreamItem
from imagecall.generation.ending import failure_of, model_lines
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall
from imagecall.v1.image_generation_service_pb2 import StreamEnd
from imagecall.v1.image_response_pb2 import ImageResponse
from imagecall.v1.stream_event_pb2 import ImageGenCallPartialImageEvent, StreamEvent

_ERROR_KEYS: Final = ("code", "reason", "pointer", "retry_seconds", "may_be_billed")
_MAX_TEXT: Final = 200
_TOKENS: Final = ("input_tokens", "output_tokens", "total_tokens")


class Outcome:
    """Writer of a stream's images, and of lines that describe them.

    Args:
        output: path of the image; further images get a number. None: standard output.
        format: format that was asked for.
        save_partial_images: True to write the partial images too.
        as_json: True to print JSON in place of the lines about files.
        source: the backend or the server, for the JSON.
    """

    def __init__(
        self,
        output: Path | None,
        format: str,
        *,
        save_partial_images: bool,
        as_json: bool,
        source: dict[str, str],
    ) -> None:
        self.status = StatusLine()
        self._output = output
        self._format = format
        self._save_partial_images = save_partial_images
        self._as_json = as_json
        self._report: dict[str, Any] = {**source, "images": []}
        self._response = ImageResponse()
        self._failure = ""

    def take(self, item: StreamItem) -> None:
        """Handles an event, or the end of the stream."""
        if isinstance(item, StreamEnd):
            self._response = item.response
            for call in item.response.calls:
                self._take_call(call)
            self._failure = failure_of(item)
            return
        variant = EVENTS.chosen(item)
        event: Any = getattr(item, variant.name)
        if isinstance(event, ImageGenCallPartialImageEvent):
            self._take_partial_image(event)
        elif not variant.option.fallback:
            self.status.show(variant.plan.tag.removeprefix("response."))
        if _is_final(item):
            self._take_call(event.item)

    def finish(self) -> int:
        """Prints the failure, if any, and the facts of the response; returns the exit code."""
        images = self._report["images"]
        if not self._failure and not images:
            self._failure = "the response has no image"
        self.status.clear()
        for line in (self._failure, *_facts_of(self._response), *model_lines(self._response)):
            if line:
                self.status.print(line)
        self._report |= _keys_of(self._response) | {"failure": self._failure or None}
        self._print_json()
        return DONE if images and not self._failure else CALL_FAILED

    def fail(self, error: ImagecallError) -> None:
        """Prints an error as JSON, if JSON was asked for."""
        values = {name: getattr(error, name, None) for name in _ERROR_KEYS}
        self._report["error"] = {**values, "message": str(error)}
        self._print_json()

    def _print_json(self) -> None:
        if self._as_json:
            print(json.dumps(self._report))

    def _take_partial_image(self, event: ImageGenCallPartialImageEvent) -> None:
        self.status.show(f"partial image {event.partial_image_index}")
        if self._save_partial_images and self._output and event.partial_image_b64.image:
            suffix = f".partial{event.partial_image_index}{self._output.suffix}"
            self._write(self._output.with_suffix(suffix), event.partial_image_b64.image)

    def _take_call(self, message: ImageGenerationCall) -> None:
        call = view(message)
        if call.image is None:
            if isinstance(call.result, str):
                text = printable(call.result[:_MAX_TEXT])
                self.status.print(f"the result is not an image, but text: {text}")
            return
        number = len(self._report["images"]) + 1
        path = self._output
        if path is not None and number > 1:
            path = path.with_stem(f"{path.stem}-{number}")
        if path is None and number > 1:
            self.status.print(f"image {number} is left out: standard output holds one image")
            return
        revised_prompt = _revised_prompt(message)
        self._report["images"].append(
            {"id": call.id, "status": call.status, "revised_prompt": revised_prompt}
            | self._write(path, call.image)
        )
        for name, value in (("id", call.id), ("revised prompt", revised_prompt)):
            if value:
                self.status.print(f"{name}: {value}")
        self._warn(call)

    def _warn(self, call: CallView) -> None:
        """Warns of a format that was declared, or asked for, and is not that of the file."""
        wanted = (call.declared_format, "output_format"), (self._format, "the file name")
        for declared, source in wanted:
            if declared and declared != call.format:
                actual = call.format or "of unknown format"
                self.status.print(f"warning: {source} declares {declared}, the file is {actual}")

    def _write(self, path: Path | None, image: bytes) -> dict[str, Any]:
        """Writes a file, prints a line about it, and returns its facts."""
        self.status.clear()
        if path is None:
            sys.stdout.buffer.write(image)
            sys.stdout.buffer.flush()
        else:
            path.write_bytes(image)
        format, pixels = image_format(image), _pixels(image)
        facts = [format or "unknown format", *_size_facts(pixels), f"{len(image):,} bytes"]
        line = f"{path or 'standard output'}: {', '.join(facts)}"
        if self._as_json or path is None:
            self.status.print(line)
        else:
            print(line, flush=True)
        width, height = pixels or (None, None)
        return {
            "path": None if path is None else str(path),
            "format": format,
            "width": width,
            "height": height,
            "bytes": len(image),
            "sha256": hashlib.sha256(image).hexdigest(),
        }


def _facts_of(response: ImageResponse) -> Iterator[str]:
    """Yields lines with the tokens and the cost, those that the response has."""
    keys = _keys_of(response)["usage"] or {}
    tokens = [f"{keys[key]:,} {key.removesuffix('_tokens')}" for key in _TOKENS if key in keys]
    if tokens:
        yield f"tokens: {', '.join(tokens)}"
    if "cost" in keys:
        yield f"cost: {keys['cost']:g}"


def _keys_of(response: ImageResponse) -> dict[str, Any]:
    """Keys of the response for the JSON; None for those that are absent."""
    usage = response.usage
    keys = {key: getattr(usage, key) for key in (*_TOKENS, "cost") if usage.HasField(key)}
    names = {"response_id": "id", "model": "model", "status": "status", "text": "output_text"}
    names["refusal"] = "refusal"
    values = {
        key: getattr(response, field) if response.HasField(field) else None  # type: ignore[arg-type]
        for key, field in names.items()
    }
    return {**values, "usage": keys or None}


def _revised_prompt(message: ImageGenerationCall) -> str | None:
    variant: Any = getattr(message, CALLS.chosen(message).name)
    return getattr(variant, "revised_prompt", "") or None


def _is_final(event: StreamEvent) -> bool:
    """True for an event with the final item of an image call."""
    event_done = event.output_item_done_event
    return event_done.HasField("item") and not CALLS.chosen(event_done.item).option.fallback


def _size_facts(pixels: tuple[int, int] | None) -> list[str]:
    return [f"{pixels[0]} x {pixels[1]} pixels"] if pixels else []


def _pixels(image: bytes) -> tuple[int, int] | None:
    """Size of an image in pixels, if its header has it and Pillow is installed."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ModuleNotFoundError:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # Only a header.
            with Image.open(io.BytesIO(image)) as opened:
                return opened.width, opened.height
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError):
        return None
