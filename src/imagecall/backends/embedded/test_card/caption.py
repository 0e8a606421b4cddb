"""Panel with the caption of a test card: text on the picture, wrapped to its width."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from imagecall.backends.embedded.test_card.palette import INK, WHITE, Palette, mix

_LEAST_SIDE: Final = 96
_LEAST_FONT: Final = 9
_NOTE: Final = "imagecall embedded backend: drawn from the prompt, no model"
_MAX_PROMPT: Final = 400
_BOX: Final = "\N{REPLACEMENT CHARACTER}"  # the font draws a box for a character that it lacks
_STRIPES: Final = (
    WHITE,
    (236, 200, 62),
    (66, 178, 190),
    (84, 168, 84),
    (196, 72, 128),
    (52, 92, 180),
)

_ASCII: Final = str.maketrans(
    {
        "\N{LEFT SINGLE QUOTATION MARK}": "'",
        "\N{RIGHT SINGLE QUOTATION MARK}": "'",
        "\N{LEFT DOUBLE QUOTATION MARK}": '"',
        "\N{RIGHT DOUBLE QUOTATION MARK}": '"',
        "\N{EN DASH}": "-",
        "\N{EM DASH}": "-",
        "\N{MULTIPLICATION SIGN}": "x",
        "\N{LATIN SMALL LETTER SHARP S}": "ss",
        "\N{LATIN SMALL LETTER AE}": "ae",
        "\N{LATIN SMALL LETTER O WITH STROKE}": "o",
    }
)


@dataclass(frozen=True)
class Line:
    """Line of text, and its place in pixels from the top left corner of the panel."""

    text: str
    x: int
    y: int
    font: int
    strong: bool


@dataclass(frozen=True)
class Panel:
    """Box of the panel in the picture, in pixels, and its lines; a tiny picture has no lines."""

    left: int
    top: int
    right: int
    bottom: int
    lines: tuple[Line, ...]
    stripes: int
    """Measure of the colour bars, each 3 times as wide, in pixels."""


def plan_panel(prompt: str, footer: str, width: int, height: int) -> Panel:
    """Plans the place of the panel in a picture, and its lines."""
    if min(width, height) < _LEAST_SIDE:
        return Panel(0, height, width, height, (), 0)
    side = min(width, height, 2 * max(width, height) // 3 + 1)
    margin = max(4, side // 40)
    inset = max(6, side // 36)
    room = width - 2 * margin - 2 * inset
    lines, used = _lines(_paragraphs(prompt, footer, side), room, int(height * 0.42) - 2 * inset)
    box_height = used + 2 * inset
    lines = tuple(replace(line, x=line.x + inset, y=line.y + inset) for line in lines)
    bottom = height - margin
    return Panel(margin, bottom - box_height, width - margin, bottom, lines, max(2, side // 90))


@dataclass(frozen=True)
class _Paragraph:
    text: str
    font: int
    most_lines: int
    strong: bool = False


def _paragraphs(prompt: str, footer: str, side: int) -> tuple[_Paragraph, ...]:
    """Lines of the panel, the most important first."""
    small = max(_LEAST_FONT, round(side / 47))
    return (
        _Paragraph("TEST CARD", max(12, round(side / 26)), 1, strong=True),
        _Paragraph(readable(prompt), max(11, round(side / 34)), 2, strong=True),
        _Paragraph(_NOTE, small, 2),
        _Paragraph(footer, small, 1),
    )


def _lines(
    paragraphs: Sequence[_Paragraph], room: int, most_height: int
) -> tuple[tuple[Line, ...], int]:
    """Lines of the paragraphs that fit into the height, and the height of these lines."""
    lines: list[Line] = []
    y = 0
    for paragraph in paragraphs:
        step = round(paragraph.font * 1.28)
        wrapped = wrap(paragraph.text, paragraph.font, room, paragraph.most_lines)
        if lines and y + step * len(wrapped) > most_height:
            break
        for text in wrapped:
            lines.append(Line(text, 0, y, paragraph.font, paragraph.strong))
            y += step
        y += paragraph.font // 4
    return tuple(lines), y


def readable(prompt: str) -> str:
    """Prompt on one line, in characters that the font has, cut to 400 characters."""
    plain = "".join(_drawable(char) for char in prompt[:_MAX_PROMPT].translate(_ASCII))
    text = " ".join(plain.split())
    if not text:
        return "(an empty prompt)" if not prompt.strip() else "(a prompt of unseen characters)"
    if text.count(_BOX) * 2 > len(text.replace(" ", "")):
        return "(a prompt in characters that this font lacks)"
    return f'"{text}{"..." if len(prompt) > _MAX_PROMPT else ""}"'


def _drawable(char: str) -> str:
    """Character without its accent; a space for a control; a box for one that the font lacks."""
    if char.isascii():
        return char if char.isprintable() else " "
    parts = unicodedata.normalize("NFKD", char)
    base = "".join(part for part in parts if unicodedata.category(part) not in ("Mn", "Me", "Cf"))
    return base if base.isascii() else _BOX


def wrap(text: str, font: int, room: int, most_lines: int) -> list[str]:
    """Wraps text into lines of at most `room` pixels, with an ellipsis where text is cut off."""
    face = _face(font)
    lines: list[str] = []
    rest = text
    while rest and len(lines) < most_lines:
        fitting = _fitting(rest, face, room)
        if fitting < len(rest):
            space = rest.rfind(" ", 1, fitting + 1)
            fitting = space if space > fitting // 2 else fitting
        lines.append(rest[:fitting].rstrip())
        rest = rest[fitting:].lstrip()
    if rest:
        last = lines[-1]
        while last and face.getlength(last + "...") > room:
            last = last[:-1]
        lines[-1] = last.rstrip() + "..."
    return lines


def _fitting(text: str, face: ImageFont.FreeTypeFont, room: int) -> int:
    """Number of characters that fit on a line: at least one."""
    count = 1
    while count < len(text) and face.getlength(text[: count + 1]) <= room:
        count += 1
    return count


def _face(size: int) -> ImageFont.FreeTypeFont:
    face = ImageFont.load_default(size)
    if not isinstance(face, ImageFont.FreeTypeFont):
        raise RuntimeError("Pillow was built without FreeType")
    return face


def draw_panel(picture: Image.Image, panel: Panel, colours: Palette) -> None:
    """Draws a planned panel."""
    if not panel.lines:
        return
    ground = mix(INK, colours.near, 0.14)
    size = (panel.right - panel.left, panel.bottom - panel.top)
    sheet = Image.new("RGB", size, ground)
    pen = ImageDraw.Draw(sheet)
    for line in panel.lines:
        ink = WHITE if line.strong else mix(ground, WHITE, 0.72)
        pen.text((line.x, line.y), line.text, ink, _face(line.font))
    _draw_stripes(pen, panel, size[0])
    picture.paste(sheet, (panel.left, panel.top), _rounded(size, size[1] // 10))


def _draw_stripes(pen: ImageDraw.ImageDraw, panel: Panel, width: int) -> None:
    """Draws colour bars at the right of the title, if there is room."""
    title = panel.lines[0]
    bar = panel.stripes * 3
    left = width - title.x - bar * len(_STRIPES)
    if left < title.x + _face(title.font).getlength(title.text) + bar:
        return
    top = title.y + title.font // 4
    for index, stripe in enumerate(_STRIPES):
        x = left + index * bar
        pen.rectangle((x, top, x + bar - 1, top + round(title.font * 0.72)), stripe)


def _rounded(size: tuple[int, int], radius: int) -> Image.Image:
    mask = Image.new("L", (size[0] * 2, size[1] * 2), 0)
    box = (0, 0, mask.width - 1, mask.height - 1)
    ImageDraw.Draw(mask).rounded_rectangle(box, radius * 2, 255)
    return mask.reduce(2)
