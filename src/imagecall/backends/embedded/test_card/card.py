"""Pictures of the embedded backend: test cards, drawn from the prompt without any model.

The file is a pure function of the card's fields: equal cards give equal files, in any process with
the same version of Pillow.
"""

import io
from dataclasses import dataclass
from typing import Final

from PIL import Image

from imagecall.backends.embedded.test_card.caption import draw_panel, plan_panel
from imagecall.backends.embedded.test_card.palette import palette
from imagecall.backends.embedded.test_card.scene import DETAILS, draw_scene
from imagecall.backends.embedded.test_card.thumbnails import draw_thumbnails

SIDES: Final = range(16, 4097)
"""Valid widths and heights of a card, in pixels."""

FORMATS: Final = ("png", "jpeg", "webp")
"""Valid formats of a card's file; the first is the default."""

_ENCODER_QUALITY: Final = 90
_MAX_DRAWN_PIXELS: Final = 20_000_000


@dataclass(frozen=True)
class Card:
    """Content of a test card, and the format of its file.

    Raises ValueError for an invalid side, quality, format or compression.
    """

    prompt: str
    width: int
    """Pixels, 16 to 4096."""
    height: int
    """Pixels, 16 to 4096."""
    quality: str
    """Amount of detail: "low", "medium" or "high"."""
    transparent: bool
    """True for a subject on alpha 0, without a landscape. A JPEG file is opaque anyway."""
    output_format: str
    """Format of the file: "png", "jpeg" or "webp"."""
    compression: int | None
    """0 (smallest) to 100 (best), for JPEG and WebP. None: the default, 90. PNG is lossless."""
    inputs: tuple[bytes, ...] = ()
    """Files of input pictures, shown as thumbnails; a question mark replaces an undecodable one."""

    def __post_init__(self) -> None:
        if self.width not in SIDES or self.height not in SIDES:
            raise ValueError(f"{self.width}x{self.height}: a side has 16 to 4096 pixels")
        if self.quality not in DETAILS:
            raise ValueError(f"quality is {self.quality!r}, not one of {', '.join(DETAILS)}")
        if self.output_format not in FORMATS:
            raise ValueError(f"format is {self.output_format!r}, not one of {', '.join(FORMATS)}")
        if self.compression is not None and not 0 <= self.compression <= 100:
            raise ValueError(f"compression is {self.compression}, not 0 to 100")


def draw(card: Card, sharpness: float = 1.0) -> bytes:
    """Draws the image file of a card.

    A sharpness below 1 gives a partial image: the same picture, size and format, but coarser, in a
    smaller file. Raises ValueError for a sharpness that is not in (0, 1].
    """
    if not 0 < sharpness <= 1:
        raise ValueError(f"sharpness is {sharpness}, not above 0 and up to 1")
    picture = _picture(card)
    file = _encoded(picture, card)
    return file if sharpness == 1 else _partial(picture, card, sharpness, len(file))


def _partial(picture: Image.Image, card: Card, sharpness: float, size: int) -> bytes:
    """Encodes a coarser picture, and coarsens it further until the file is below `size` bytes."""
    # Lossless data, PNG and any alpha, compresses well in blocks; lossy data where it is smooth.
    lossless = card.output_format == "png" or picture.mode == "RGBA"
    filling = Image.Resampling.NEAREST if lossless else Image.Resampling.BICUBIC
    block = 1 + max(4.0, min(picture.size) / 36) * (1 - sharpness) ** 1.5
    file = _encoded(_coarsened(picture, block, filling), card)
    while len(file) >= size and block < max(picture.size):
        block *= 1.3
        file = _encoded(_coarsened(picture, block, filling), card)
    return file


def _picture(card: Card) -> Image.Image:
    colours = palette(card.prompt)
    footer = f"{card.width} x {card.height} | {card.quality} quality | {card.output_format}"
    panel = plan_panel(card.prompt, footer, card.width, card.height)
    transparent = card.transparent and card.output_format != "jpeg"
    factor = _oversampling(card)
    picture = draw_scene(
        card.prompt,
        colours,
        DETAILS[card.quality],
        (card.width * factor, card.height * factor),
        floor=panel.top * factor,
        transparent=transparent,
    )
    if factor > 1:
        picture = picture.reduce(factor)
    draw_panel(picture, panel, colours)
    draw_thumbnails(picture, card.inputs, panel.top)
    return picture


def _oversampling(card: Card) -> int:
    """Number of pixels drawn along each side of a pixel: bounded, as memory is."""
    factor = DETAILS[card.quality].oversampling
    while factor > 1 and card.width * card.height * factor**2 > _MAX_DRAWN_PIXELS:
        factor -= 1
    return factor


def _coarsened(picture: Image.Image, block: float, filling: Image.Resampling) -> Image.Image:
    """Picture without detail finer than blocks of about `block` pixels a side."""
    width, height = picture.size
    coarse = picture.resize((_blocks(width, block), _blocks(height, block)), Image.Resampling.BOX)
    return coarse.resize((width, height), filling)


def _blocks(side: int, block: float) -> int:
    """Number of blocks along a side, less than its pixels, so that a coarse picture differs."""
    return min(side - 1, max(2, round(side / block)))


def _encoded(picture: Image.Image, card: Card) -> bytes:
    file = io.BytesIO()
    quality = _ENCODER_QUALITY if card.compression is None else card.compression
    match card.output_format:
        case "png":
            picture.save(file, "PNG", compress_level=6)
        case "jpeg":
            picture.save(file, "JPEG", quality=quality)
        case _:
            picture.save(file, "WEBP", quality=quality, method=3)
    return file.getvalue()
