"""Subject in the middle of a scene: the first known thing that the prompt names.

Each subject fits a box one unit high and about one unit wide, and stands on the origin.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Final

from imagecall.backends.embedded.test_card.palette import (
    INK,
    WHITE,
    Colour,
    Palette,
    mix,
    rng,
    words,
)
from imagecall.backends.embedded.test_card.pen import Pen, Point, circle

_WINDOW: Final = (255, 222, 130)


@dataclass(frozen=True)
class Brush:
    """Tools with which a subject is drawn."""

    pen: Pen
    main: Colour
    colours: Palette
    fine: bool
    """True if small details are drawn too."""
    random: Random

    @property
    def dark(self) -> Colour:
        """Main colour in shade."""
        return mix(self.main, INK, 0.3)

    @property
    def bright(self) -> Colour:
        """Main colour in light."""
        return mix(self.main, WHITE, 0.4)


@dataclass(frozen=True)
class Subject:
    """Drawing of a subject, its default colour, and its place in the scene."""

    draw: Callable[[Brush], None]
    colour: Colour
    floats: bool = False
    """True for a subject in the air, not on the ground."""
    at_sea: bool = False
    """True for a subject that stands in the water, if the scene has any, not on the shore."""


def draw_subject(prompt: str, pen: Pen, colours: Palette, fine: bool) -> None:
    """Draws the subject of a prompt with a pen, on the pen's origin."""
    subject = subject_of(prompt)
    main = colours.accent or subject.colour
    if subject is _BALLOON and colours.accent is None:
        main = rng(prompt, "balloon").choice(_BALLOON_COLOURS)
    if colours.night and not subject.floats:
        main = mix(main, (30, 40, 90), 0.25)
    subject.draw(Brush(pen, main, colours, fine, rng(prompt, "subject")))


def subject_of(prompt: str) -> Subject:
    """Subject that the prompt names first, in the singular or plural; else a balloon."""
    for word in words(prompt):
        for name in (word, word.removesuffix("s"), word.removesuffix("es")):
            if name in _BY_WORD:
                return _BY_WORD[name]
    return _BALLOON


def _mirrored(points: list[Point]) -> list[Point]:
    return [(-x, y) for x, y in points]


def _both(brush: Brush, points: list[Point], colour: Colour) -> None:
    """Draws a blob on the left and its mirror image on the right."""
    brush.pen.blob(points, colour)
    brush.pen.blob(_mirrored(points), colour)


def _draw_fox(brush: Brush) -> None:
    _draw_bushy_tail(brush)
    _draw_sitting_body(brush)
    ear = [(-0.235, 0.66), (-0.245, 0.97), (-0.03, 0.8)]
    _draw_pointed_ears(brush, ear)
    _draw_head(brush)
    cheek = [(-0.285, 0.595), (-0.17, 0.5), (0.0, 0.425), (0.0, 0.5), (-0.05, 0.575), (-0.15, 0.63)]
    _both(brush, cheek, WHITE)
    _draw_face(brush)


def _draw_cat(brush: Brush) -> None:
    brush.pen.line(
        [(0.16, 0.05), (0.28, 0.05), (0.35, 0.09), (0.39, 0.17), (0.385, 0.28), (0.36, 0.38)],
        0.06,
        brush.dark,
    )
    brush.pen.ellipse(0.36, 0.39, 0.035, 0.035, brush.dark)
    _draw_sitting_body(brush)
    _draw_pointed_ears(brush, [(-0.23, 0.66), (-0.21, 0.92), (-0.03, 0.8)])
    _draw_head(brush)
    brush.pen.ellipse(0.0, 0.5, 0.1, 0.065, brush.bright)
    _draw_face(brush)
    if brush.fine:
        for side in (-1, 1):
            for rise in (-0.02, 0.02, 0.06):
                whisker = [(side * 0.08, 0.5), (side * 0.3, 0.49 + rise)]
                brush.pen.line(whisker, 0.005, brush.dark)


def _draw_bear(brush: Brush) -> None:
    _draw_sitting_body(brush)
    for side in (-1, 1):
        brush.pen.ellipse(side * 0.19, 0.79, 0.085, 0.085, brush.main)
        brush.pen.ellipse(side * 0.19, 0.79, 0.045, 0.045, brush.bright)
    _draw_head(brush)
    brush.pen.ellipse(0.0, 0.5, 0.11, 0.08, brush.bright)
    _draw_face(brush)


def _draw_rabbit(brush: Brush) -> None:
    brush.pen.ellipse(0.24, 0.1, 0.09, 0.09, WHITE)
    _draw_sitting_body(brush)
    ear = [(-0.16, 0.7), (-0.2, 0.88), (-0.14, 1.06), (-0.07, 0.9), (-0.05, 0.72)]
    _both(brush, ear, brush.main)
    inner = [(-0.14, 0.74), (-0.165, 0.88), (-0.135, 0.99), (-0.095, 0.88), (-0.085, 0.74)]
    _both(brush, inner, mix(brush.bright, (240, 150, 150), 0.4))
    _draw_head(brush)
    brush.pen.ellipse(0.0, 0.49, 0.09, 0.06, WHITE)
    _draw_face(brush)


def _draw_bushy_tail(brush: Brush) -> None:
    outline = [(0.1, 0.02), (0.34, 0.02), (0.47, 0.14), (0.47, 0.32), (0.4, 0.46), (0.33, 0.32)]
    brush.pen.blob([*outline, (0.28, 0.2), (0.12, 0.16)], brush.dark)
    tip = [(0.475, 0.3), (0.4, 0.46), (0.335, 0.325), (0.37, 0.35), (0.41, 0.31), (0.44, 0.34)]
    brush.pen.blob(tip, WHITE)


def _draw_sitting_body(brush: Brush) -> None:
    body = [(-0.2, 0.0), (-0.25, 0.14), (-0.17, 0.36), (-0.1, 0.55), (0.1, 0.55), (0.17, 0.36)]
    brush.pen.blob([*body, (0.25, 0.14), (0.2, 0.0)], brush.main)
    haunch = [(-0.24, 0.02), (-0.25, 0.15), (-0.18, 0.22), (-0.11, 0.14), (-0.1, 0.01)]
    _both(brush, haunch, mix(brush.main, INK, 0.12))
    chest = [(-0.12, 0.48), (-0.09, 0.33), (0.0, 0.24), (0.09, 0.33), (0.12, 0.48)]
    brush.pen.blob(chest, mix(WHITE, brush.main, 0.08))
    for side in (-1, 1):
        x = side * 0.055
        brush.pen.box(x - 0.042, 0.03, x + 0.042, 0.26, mix(brush.main, INK, 0.06))
        brush.pen.ellipse(x, 0.03, 0.055, 0.035, mix(brush.main, INK, 0.55))


def _draw_pointed_ears(brush: Brush, ear: list[Point]) -> None:
    inner = [(x * 0.78 - 0.032, y * 0.86 + 0.1) for x, y in ear]
    for points, colour in ((ear, brush.main), (inner, mix(brush.main, INK, 0.6))):
        brush.pen.polygon(points, colour)
        brush.pen.polygon(_mirrored(points), colour)


def _draw_head(brush: Brush) -> None:
    left = [(0.0, 0.42), (-0.17, 0.5), (-0.285, 0.6), (-0.21, 0.75), (-0.09, 0.815)]
    right = [(0.09, 0.815), (0.21, 0.75), (0.285, 0.6), (0.17, 0.5)]
    brush.pen.blob([*left, *right], brush.main)


def _draw_face(brush: Brush) -> None:
    for side in (-1, 1):
        brush.pen.ellipse(side * 0.1, 0.645, 0.026, 0.034, INK)
        if brush.fine:
            brush.pen.ellipse(side * 0.1 + 0.009, 0.656, 0.008, 0.01, WHITE)
    brush.pen.blob([(-0.042, 0.47), (0.042, 0.47), (0.0, 0.425)], INK)


def _draw_lighthouse(brush: Brush) -> None:
    pen = brush.pen
    if brush.colours.night:
        _draw_beam(brush)
    stone = mix((112, 112, 118), brush.colours.near, 0.4)
    pen.blob(
        [(-0.42, -0.06), (-0.3, 0.08), (-0.12, 0.13), (0.14, 0.12), (0.32, 0.06), (0.42, -0.06)],
        stone,
    )
    wall = mix(WHITE, brush.colours.far, 0.12)
    for stripe in range(6):
        low, high = 0.08 + stripe * 0.105, 0.08 + (stripe + 1) * 0.105
        left, right = _tower_width(low), _tower_width(high)
        colour = wall if stripe % 2 else brush.main
        pen.polygon(((-left, low), (-right, high), (right, high), (left, low)), colour)
        shade = mix(colour, INK, 0.16)
        pen.polygon(((left * 0.35, low), (right * 0.35, high), (right, high), (left, low)), shade)
    _draw_lantern(brush)
    pen.blob([(-0.03, 0.1), (-0.03, 0.17), (0.0, 0.19), (0.03, 0.17), (0.03, 0.1)], INK)
    for y in (0.34, 0.55):
        pen.box(-0.018, y, 0.018, y + 0.05, _WINDOW if brush.colours.night else INK)


def _tower_width(y: float) -> float:
    return 0.145 - 0.085 * y


def _draw_lantern(brush: Brush) -> None:
    pen = brush.pen
    pen.box(-0.125, 0.705, 0.125, 0.73, INK)
    pen.box(-0.065, 0.73, 0.065, 0.83, _WINDOW)
    if brush.fine:
        for x in (-0.065, -0.022, 0.022, 0.065):
            pen.line([(x, 0.73), (x, 0.83)], 0.008, INK)
        for x in (-0.12, -0.09, 0.09, 0.12):
            pen.line([(x, 0.73), (x, 0.765)], 0.006, INK)
        pen.line([(-0.122, 0.765), (-0.065, 0.765)], 0.006, INK)
        pen.line([(0.065, 0.765), (0.122, 0.765)], 0.006, INK)
    pen.blob([(-0.095, 0.83), (-0.06, 0.89), (0.0, 0.915), (0.06, 0.89), (0.095, 0.83)], brush.main)
    pen.line([(0.0, 0.9), (0.0, 0.97)], 0.012, INK)


def _draw_beam(brush: Brush) -> None:
    for spread, alpha in ((0.34, 30), (0.22, 34), (0.11, 40)):
        for side in (-1, 1):
            end = [(side * 2.4, 0.86 + spread + 0.16), (side * 2.4, 0.86 - spread + 0.16)]
            brush.pen.polygon([(0.0, 0.78), *end], (255, 232, 150, alpha))


def _draw_leaf(brush: Brush) -> None:
    pen = brush.pen
    shares = [step / 24 for step in range(25)]
    for side, colour in ((1, brush.main), (-1, mix(brush.main, INK, 0.14))):
        edge = [_on_leaf(share, side * _leaf_width(share)) for share in shares]
        pen.polygon([*edge, *(_on_leaf(share, 0.0) for share in reversed(shares))], colour)
    shares = [-0.16, *shares]
    for side in (-1, 1):
        rib = [_on_leaf(share, side * 0.013 * (1 - share)) for share in shares]
        pen.polygon([*rib, *(_on_leaf(share, 0.0) for share in reversed(shares))], brush.bright)
    count = 8 if brush.fine else 4
    for step in range(count):
        share = 0.06 + 0.7 * step / count
        for side in (-1, 1):
            end = share + 0.17 * (1 - share)
            tip = _on_leaf(end, side * _leaf_width(end) * 0.82)
            pen.line([_on_leaf(share, 0.0), tip], 0.008, brush.bright)


def _leaf_width(share: float) -> float:
    return float(0.3 * math.sin(math.pi * min(1.0, share) ** 0.8) ** 0.85) if share < 1 else 0.0


def _on_leaf(share: float, aside: float) -> Point:
    """Point of the leaf, at a share of its leaning, bent spine, and at a distance aside of it."""
    bend = 0.1 * math.sin(share * math.pi)
    along, across = share * 0.95, aside + bend
    return -0.28 + along * 0.62 - across * 0.78 + 0.05, 0.12 + along * 0.78 + across * 0.62 - 0.04


def _draw_house(brush: Brush) -> None:
    pen = brush.pen
    wall = mix((246, 236, 214), brush.colours.sky, 0.12)
    pen.box(0.16, 0.55, 0.26, 0.86, mix(brush.dark, INK, 0.3))
    pen.box(-0.36, 0.0, 0.36, 0.5, wall)
    pen.box(0.2, 0.0, 0.36, 0.5, mix(wall, INK, 0.1))
    pen.polygon([(-0.46, 0.48), (0.0, 0.9), (0.46, 0.48)], brush.main)
    pen.box(-0.08, 0.0, 0.08, 0.28, brush.dark)
    glass = _WINDOW if brush.colours.night else (132, 184, 210)
    for x in (-0.24, 0.24):
        pen.box(x - 0.08, 0.2, x + 0.08, 0.37, WHITE)
        pen.box(x - 0.065, 0.215, x + 0.065, 0.355, glass)
        if brush.fine:
            pen.line([(x, 0.2), (x, 0.37)], 0.014, WHITE)
            pen.line([(x - 0.08, 0.285), (x + 0.08, 0.285)], 0.014, WHITE)
    pen.ellipse(0.0, 0.64, 0.06, 0.06, glass)


def _draw_boat(brush: Brush) -> None:
    pen = brush.pen
    pen.line([(0.0, 0.15), (0.0, 0.98)], 0.022, (94, 66, 46))
    pen.blob([(0.03, 0.26), (0.03, 0.6), (0.04, 0.94), (0.24, 0.62), (0.4, 0.28)], WHITE)
    pen.blob([(-0.03, 0.28), (-0.03, 0.55), (-0.04, 0.82), (-0.2, 0.5), (-0.3, 0.3)], brush.bright)
    pen.polygon([(-0.46, 0.2), (0.48, 0.22), (0.34, 0.03), (-0.34, 0.03)], brush.main)
    pen.polygon([(-0.46, 0.2), (0.48, 0.22), (0.46, 0.18), (-0.44, 0.165)], WHITE)
    pen.polygon([(-0.385, 0.085), (0.4, 0.095), (0.34, 0.03), (-0.34, 0.03)], brush.dark)


def _draw_tree(brush: Brush) -> None:
    pen = brush.pen
    bark = (98, 68, 48)
    pen.polygon([(-0.09, 0.0), (-0.04, 0.45), (0.04, 0.45), (0.1, 0.0)], bark)
    pen.line([(0.0, 0.3), (0.16, 0.48)], 0.035, bark)
    pen.line([(0.0, 0.34), (-0.16, 0.5)], 0.03, bark)
    crown = [(-0.24, 0.55, 0.2), (0.24, 0.55, 0.2), (0.0, 0.55, 0.24), (-0.14, 0.74, 0.2)]
    crown += [(0.15, 0.74, 0.19), (0.0, 0.84, 0.16)]
    for x, y, radius in crown:
        pen.ellipse(x, y, radius, radius, brush.dark)
    for x, y, radius in crown:
        pen.ellipse(x - 0.02, y + 0.03, radius * 0.84, radius * 0.84, brush.main)
    for _ in range(40 if brush.fine else 8):
        x, y, radius = brush.random.choice(crown)
        angle, reach = brush.random.uniform(0, math.tau), brush.random.uniform(0, 0.7) * radius
        spot = (x + reach * math.cos(angle), y + reach * math.sin(angle))
        pen.ellipse(*spot, 0.016, 0.016, brush.bright)


def _draw_flower(brush: Brush) -> None:
    pen = brush.pen
    stem = (70, 130, 72)
    pen.line([(0.0, 0.0), (0.015, 0.3), (0.0, 0.62)], 0.032, stem)
    pen.blob([(0.01, 0.12), (0.14, 0.24), (0.3, 0.26), (0.2, 0.12)], stem)
    pen.blob([(0.0, 0.2), (-0.12, 0.32), (-0.27, 0.33), (-0.18, 0.2)], mix(stem, INK, 0.12))
    _draw_petals(pen.at(0.0, 0.68, 0.62), 10, 0.46, brush.dark)
    _draw_petals(pen.at(0.0, 0.68, 0.52), 10, 0.46, brush.main, turn=math.pi / 10)
    pen.ellipse(0.0, 0.68, 0.085, 0.085, (240, 186, 60))
    if brush.fine:
        for x, y in circle(0.0, 0.68, 0.055, 12):
            pen.ellipse(x, y, 0.009, 0.009, (176, 112, 36))


def _draw_petals(pen: Pen, count: int, reach: float, colour: Colour, turn: float = 0.0) -> None:
    width = 1.5 / count
    for index in range(count):
        angle = turn + index * math.tau / count
        cos, sin = math.cos(angle) * reach, math.sin(angle) * reach
        outline = [(0.1, 0.0), (0.6, width), (0.92, width * 0.6), (1.0, 0.0)]
        outline += [(x, -y) for x, y in reversed(outline[1:-1])]
        pen.blob([(x * cos - y * sin, x * sin + y * cos) for x, y in outline], colour)


def _draw_rocket(brush: Brush) -> None:
    pen = brush.pen
    for scale, flame in ((1.0, (238, 120, 40)), (0.62, (255, 214, 92))):
        tail = [(-0.09 * scale, 0.2), (0.0, 0.2 - 0.24 * scale), (0.09 * scale, 0.2)]
        pen.blob([*tail, (0.0, 0.24)], flame)
    fin = [(-0.12, 0.42), (-0.27, 0.2), (-0.24, 0.13), (-0.1, 0.22)]
    pen.polygon(fin, brush.dark)
    pen.polygon(_mirrored(fin), brush.dark)
    hull = [(-0.1, 0.2), (-0.16, 0.45), (-0.12, 0.72), (0.0, 0.98), (0.12, 0.72), (0.16, 0.45)]
    pen.blob([*hull, (0.1, 0.2)], WHITE)
    pen.blob([(-0.115, 0.74), (0.0, 0.98), (0.115, 0.74), (0.0, 0.715)], brush.main)
    pen.blob([(-0.12, 0.3), (0.12, 0.3), (0.1, 0.2), (-0.1, 0.2)], brush.main)
    pen.ellipse(0.0, 0.56, 0.085, 0.085, brush.dark)
    pen.ellipse(0.0, 0.56, 0.062, 0.062, (120, 196, 226))
    if brush.fine:
        pen.ellipse(-0.02, 0.58, 0.02, 0.014, WHITE)


def _draw_balloon(brush: Brush) -> None:
    """Draws a hot air balloon, for a prompt that names no subject."""
    pen = brush.pen
    for x in (-0.06, 0.06):
        pen.line([(x * 2.4, 0.3), (x, 0.12)], 0.008, INK)
    pen.blob([(-0.065, 0.12), (0.065, 0.12), (0.05, 0.0), (-0.05, 0.0)], (132, 92, 58))
    pen.box(-0.07, 0.105, 0.07, 0.125, (98, 66, 42))
    gores = brush.random.choice((5, 7, 9))
    second = brush.random.choice([other for other in _BALLOON_COLOURS if other != brush.main])
    pale = mix(second, WHITE, brush.random.choice((0.1, 0.55, 0.8)))
    for index in range(gores):
        width = math.sin((1 - index / gores) * math.pi / 2)
        colour = mix(pale if index % 2 else brush.main, INK, 0.2 * (1 - index / gores))
        pen.blob([(x * width, y) for x, y in _ENVELOPE], colour)
    pen.box(-0.14, 0.27, 0.14, 0.305, brush.dark)
    _draw_rosette(brush, pen.at(0.0, 0.68, 0.36), second)


_ENVELOPE: Final = (
    *((-0.13, 0.29), (-0.3, 0.47), (-0.37, 0.68), (-0.27, 0.92), (0.0, 1.02)),
    *((0.27, 0.92), (0.37, 0.68), (0.3, 0.47), (0.13, 0.29)),
)


def _draw_rosette(brush: Brush, pen: Pen, second: Colour) -> None:
    """Draws an ornament from the prompt's hash, which makes balloons differ."""
    pen.ellipse(0.0, 0.0, 0.5, 0.5, brush.dark)
    pen.ellipse(0.0, 0.0, 0.46, 0.46, mix(brush.main, WHITE, 0.86))
    rings = 3 if brush.fine else 2
    for ring in range(rings):
        count = brush.random.choice((6, 8, 10, 12))
        turn = brush.random.random()
        colour = mix(second if ring % 2 else brush.main, WHITE, 0.15 * ring)
        _draw_petals(pen, count, 0.43 * (1 - ring / (rings + 0.4)), colour, turn)
    pen.ellipse(0.0, 0.0, 0.06, 0.06, (250, 214, 110))


_BALLOON_COLOURS: Final = (
    (206, 84, 62),
    (226, 148, 54),
    (58, 138, 132),
    (68, 104, 178),
    (140, 86, 160),
    (84, 142, 82),
)

_BALLOON: Final = Subject(_draw_balloon, _BALLOON_COLOURS[0], floats=True)

_SUBJECTS: Final[Mapping[str, Subject]] = {
    "fox wolf dog puppy": Subject(_draw_fox, (226, 112, 42)),
    "cat kitten tiger lion": Subject(_draw_cat, (150, 140, 136)),
    "bear panda teddy": Subject(_draw_bear, (136, 94, 62)),
    "rabbit hare bunny": Subject(_draw_rabbit, (186, 164, 142)),
    "lighthouse tower": Subject(_draw_lighthouse, (200, 62, 48), at_sea=True),
    "leaf leaves": Subject(_draw_leaf, (72, 156, 78), floats=True),
    "house cottage cabin home village": Subject(_draw_house, (178, 78, 56)),
    "boat ship sailboat yacht": Subject(_draw_boat, (178, 66, 54), at_sea=True),
    "tree oak maple": Subject(_draw_tree, (82, 148, 72)),
    "flower rose tulip daisy sunflower": Subject(_draw_flower, (222, 90, 120)),
    "rocket spaceship spacecraft": Subject(_draw_rocket, (206, 70, 52), floats=True),
}

_BY_WORD: Final = {word: subject for key, subject in _SUBJECTS.items() for word in key.split()}
