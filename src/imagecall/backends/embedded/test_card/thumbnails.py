"""Framed thumbnails of a card's input pictures, which are untrusted files."""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from PIL import (
    GifImagePlugin,
    Image,
    ImageDraw,
    ImageFont,
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
)

from imagecall.backends.embedded.test_card.palette import INK, WHITE
from imagecall.formats import image_format

MAX_INPUT_PIXELS: Final = 40_000_000
"""Most pixels, by the file's header, of a picture that is decoded."""

_MOST_SHOWN: Final = 4
_LEAST_SIDE: Final = 32

# Image.open would warn of large pictures before this module can check their size.
_READERS: Final[Mapping[str, Callable[[io.BytesIO], Image.Image]]] = {
    "png": PngImagePlugin.PngImageFile,
    "jpeg": JpegImagePlugin.JpegImageFile,
    "webp": WebPImagePlugin.WebPImageFile,
    "gif": GifImagePlugin.GifImageFile,
}


def draw_thumbnails(picture: Image.Image, inputs: Sequence[bytes], floor: int) -> None:
    """Draws the first inputs along the top of a picture, above `floor`, in pixels."""
    side = min(picture.width // 6, floor // 4)
    if side < _LEAST_SIDE:
        return
    gap = side // 6
    for index, file in enumerate(inputs[:_MOST_SHOWN]):
        more = len(inputs) - _MOST_SHOWN
        label = f"+{more}" if index == _MOST_SHOWN - 1 and more > 0 else ""
        picture.paste(_framed(file, side, label), (gap + index * (side + gap), gap))


def _framed(file: bytes, side: int, label: str) -> Image.Image:
    border = max(2, side // 18)
    frame = Image.new("RGB", (side, side), WHITE)
    inner = side - 2 * border
    content = _thumbnail(file, inner) or _question_mark(inner)
    frame.paste(content, (border, border))
    pen = ImageDraw.Draw(frame)
    pen.rectangle((0, 0, side - 1, side - 1), outline=(150, 150, 150))
    if label:
        box = (side // 2, side * 2 // 3, side - border - 1, side - border - 1)
        pen.rectangle(box, INK)
        middle = ((box[0] + box[2]) // 2, (box[1] + box[3]) // 2)
        pen.text(middle, label, WHITE, ImageFont.load_default(max(9, side // 5)), anchor="mm")
    return frame


def _question_mark(side: int) -> Image.Image:
    content = Image.new("RGB", (side, side), (206, 208, 212))
    font = ImageFont.load_default(max(9, side * 3 // 5))
    ImageDraw.Draw(content).text((side // 2, side // 2), "?", INK, font, anchor="mm")
    return content


def _thumbnail(file: bytes, side: int) -> Image.Image | None:
    """Picture on a square of `side` pixels; None if it is undecodable or too large."""
    reader = _READERS.get(image_format(file) or "")
    if reader is None:
        return None
    try:
        with reader(io.BytesIO(file)) as image:
            if image.width * image.height > MAX_INPUT_PIXELS:
                return None
            image.draft("RGB", (side, side))
            return _on_square(image, side)
    except (
        Exception
    ):  # decoders raise anything for a damaged file: OSError, SyntaxError, struct.error
        return None


def _on_square(image: Image.Image, side: int) -> Image.Image:
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = image.resize(size, Image.Resampling.BOX).convert("RGBA")
    square = Image.new("RGB", (side, side), (228, 230, 234))
    square.paste(small, ((side - size[0]) // 2, (side - size[1]) // 2), small)
    return square
