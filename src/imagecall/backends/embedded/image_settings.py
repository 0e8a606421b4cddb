"""Settings of the image tool of a request that the embedded backend can draw."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from imagecall.backends.embedded.test_card.card import FORMATS, SIDES
from imagecall.conversion.converter import TOOLS
from imagecall.conversion.fields import key_of
from imagecall.errors import ConversionError, pointer_to, quoted
from imagecall.generation.image_tool import ImageTool, image_tool
from imagecall.v1.image_generation_tool_pb2 import Tool

_DEFAULT_SIDE: Final = 1024
_STEP: Final = 32
_AUTO: Final = "auto"
_NUMBER: Final = "n"
_TRANSPARENT: Final = "transparent"
_OPAQUE: Final = "opaque"
_QUALITIES: Final = {
    _AUTO: "medium",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}
"""Drawn quality for each quality of the APIs."""

_SIZE: Final = re.compile(r"([1-9]\d{0,5})x([1-9]\d{0,5})", re.ASCII)
_RATIO: Final = re.compile(r"([1-9]\d?):([1-9]\d?)", re.ASCII)
_PERCENT: Final = range(101)
_PARTIAL_IMAGES: Final = range(4)


@dataclass(frozen=True)
class ImageSettings:
    """Settings of an image beside the prompt, with defaults for those that a request omits."""

    width: int
    height: int
    quality: str
    background: str
    output_format: str
    compression: int | None
    partial_images: int

    @property
    def size(self) -> str:
        """Size in the spelling of the API."""
        return f"{self.width}x{self.height}"


_DEFAULTS: Final = ImageSettings(
    width=_DEFAULT_SIDE,
    height=_DEFAULT_SIDE,
    quality=_QUALITIES[_AUTO],
    background=_OPAQUE,
    output_format=FORMATS[0],
    compression=None,
    partial_images=0,
)


def settings_of(tools: Sequence[Tool], *, needed: bool = True) -> ImageSettings:
    """Reads the settings of the first image tool at any place; defaults without tools.

    Other tools are ignored; a request with only other tools is refused if an image is `needed`.
    Raises ConversionError: UNSUPPORTED, with the pointer of the faulty setting; WRONG_TYPE.
    """
    if tool := image_tool(tools):
        return _Reading(tool).settings()
    if tools and needed:
        name = getattr(tools[0], TOOLS.chosen(tools[0]).name).type
        text = f"{quoted(name)} is not an image tool; add {' or '.join(TOOLS.by_type)}"
        raise ConversionError("UNSUPPORTED", pointer_to("tools", 0), text)
    return _DEFAULTS


class _Reading:
    """Reader of the settings of one tool."""

    def __init__(self, tool: ImageTool) -> None:
        self._tool = tool

    def settings(self) -> ImageSettings:
        self._refuse_wrong_types()
        self._refuse_several()
        width, height = self._size()
        output_format = self._choice("output_format", dict(zip(FORMATS, FORMATS, strict=True)))
        backgrounds = {_AUTO: _OPAQUE, _OPAQUE: _OPAQUE, _TRANSPARENT: _TRANSPARENT}
        background = self._choice("background", backgrounds)
        if background == _TRANSPARENT and output_format == "jpeg":
            raise self._unsupported("background", "a JPEG file cannot be transparent")
        return ImageSettings(
            width=width,
            height=height,
            quality=self._choice("quality", _QUALITIES),
            background=background,
            output_format=output_format,
            compression=self._number("output_compression", _PERCENT),
            partial_images=self._number("partial_images", _PARTIAL_IMAGES) or 0,
        )

    def _refuse_wrong_types(self) -> None:
        """Refuses a value of another JSON type than its field's, kept among the extra fields."""
        keys = {key_of(field).name for field in self._tool.settings.DESCRIPTOR.fields}
        for extra in self._tool.settings.extra_fields:
            if extra.name in keys and extra.json != "null":
                pointer = pointer_to(*self._tool.tokens, extra.name)
                message = f"{quoted(extra.name)} has a value of the wrong type"
                raise ConversionError("WRONG_TYPE", pointer, message)

    def _refuse_several(self) -> None:
        """Refuses several images: the key "n" of the APIs, for which the tools have no field."""
        for extra in self._tool.settings.extra_fields:
            if extra.name == _NUMBER and extra.json not in ("null", "1"):
                text = f"{quoted(_NUMBER)} must be 1: the embedded backend draws one image"
                raise self._unsupported(_NUMBER, text)

    def _unsupported(self, name: str, message: str) -> ConversionError:
        return ConversionError("UNSUPPORTED", pointer_to(*self._tool.tokens, name), message)

    def _choice(self, name: str, choices: dict[str, str]) -> str:
        value = self._tool.value(name)
        if value is None:
            return next(iter(choices.values()))
        if value in choices:
            return choices[value]
        text = f"{name} is {quoted(value)}; the embedded backend has {', '.join(choices)}"
        raise self._unsupported(name, text)

    def _number(self, name: str, allowed: range) -> int | None:
        value: int | None = self._tool.value(name)
        if value is None or value in allowed:
            return value
        text = f"{name} is {value}; it must be {allowed.start} to {allowed.stop - 1}"
        raise self._unsupported(name, text)

    def _size(self) -> tuple[int, int]:
        size = self._tool.value("size")
        if size is None or size == _AUTO:
            return self._size_of_ratio()
        match = _SIZE.fullmatch(size)
        sides = tuple(self._sides(match)) if match else ()
        if len(sides) != 2:
            text = f"size is {quoted(size)}; the embedded backend has auto, and WIDTHxHEIGHT"
            raise self._unsupported(
                "size", f"{text} with sides of {SIDES.start} to {SIDES.stop - 1} pixels"
            )
        return sides

    @staticmethod
    def _sides(match: re.Match[str]) -> Iterator[int]:
        return (int(side) for side in match.groups() if int(side) in SIDES)

    def _size_of_ratio(self) -> tuple[int, int]:
        """Width and height by the aspect ratio, with about the pixel count of the default size."""
        ratio = self._tool.value("aspect_ratio")
        if ratio is None:
            return _DEFAULT_SIDE, _DEFAULT_SIDE
        match = _RATIO.fullmatch(ratio)
        if not match:
            text = f"aspect_ratio is {quoted(ratio)}; it must be WIDTH:HEIGHT, such as 16:9"
            raise self._unsupported("aspect_ratio", text)
        stretch = (int(match[1]) / int(match[2])) ** 0.5
        width, height = _rounded(_DEFAULT_SIDE * stretch), _rounded(_DEFAULT_SIDE / stretch)
        return width, height


def _rounded(side: float) -> int:
    return max(_STEP, min(SIDES.stop - 1, round(side / _STEP) * _STEP))
