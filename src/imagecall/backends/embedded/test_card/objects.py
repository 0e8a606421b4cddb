"""Objects: buildings, plants and vehicles."""

import math
from typing import Final

from imagecall.backends.embedded.test_card.brush import Brush, mirrored
from imagecall.backends.embedded.test_card.palette import INK, WHITE, Colour, mix
from imagecall.backends.embedded.test_card.pen import Pen, Point, circle

_WINDOW: Final = (255, 222, 130)


def draw_lighthouse(brush: Brush) -> None:
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


def draw_leaf(brush: Brush) -> None:
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


def draw_house(brush: Brush) -> None:
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


def draw_boat(brush: Brush) -> None:
    pen = brush.pen
    pen.line([(0.0, 0.15), (0.0, 0.98)], 0.022, (94, 66, 46))
    pen.blob([(0.03, 0.26), (0.03, 0.6), (0.04, 0.94), (0.24, 0.62), (0.4, 0.28)], WHITE)
    pen.blob([(-0.03, 0.28), (-0.03, 0.55), (-0.04, 0.82), (-0.2, 0.5), (-0.3, 0.3)], brush.bright)
    pen.polygon([(-0.46, 0.2), (0.48, 0.22), (0.34, 0.03), (-0.34, 0.03)], brush.main)
    pen.polygon([(-0.46, 0.2), (0.48, 0.22), (0.46, 0.18), (-0.44, 0.165)], WHITE)
    pen.polygon([(-0.385, 0.085), (0.4, 0.095), (0.34, 0.03), (-0.34, 0.03)], brush.dark)


def draw_tree(brush: Brush) -> None:
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


def draw_flower(brush: Brush) -> None:
    pen = brush.pen
    stem = (70, 130, 72)
    pen.line([(0.0, 0.0), (0.015, 0.3), (0.0, 0.62)], 0.032, stem)
    pen.blob([(0.01, 0.12), (0.14, 0.24), (0.3, 0.26), (0.2, 0.12)], stem)
    pen.blob([(0.0, 0.2), (-0.12, 0.32), (-0.27, 0.33), (-0.18, 0.2)], mix(stem, INK, 0.12))
    draw_petals(pen.at(0.0, 0.68, 0.62), 10, 0.46, brush.dark)
    draw_petals(pen.at(0.0, 0.68, 0.52), 10, 0.46, brush.main, turn=math.pi / 10)
    pen.ellipse(0.0, 0.68, 0.085, 0.085, (240, 186, 60))
    if brush.fine:
        for x, y in circle(0.0, 0.68, 0.055, 12):
            pen.ellipse(x, y, 0.009, 0.009, (176, 112, 36))


def draw_petals(pen: Pen, count: int, reach: float, colour: Colour, turn: float = 0.0) -> None:
    width = 1.5 / count
    for index in range(count):
        angle = turn + index * math.tau / count
        cos, sin = math.cos(angle) * reach, math.sin(angle) * reach
        outline = [(0.1, 0.0), (0.6, width), (0.92, width * 0.6), (1.0, 0.0)]
        outline += [(x, -y) for x, y in reversed(outline[1:-1])]
        pen.blob([(x * cos - y * sin, x * sin + y * cos) for x, y in outline], colour)


def draw_rocket(brush: Brush) -> None:
    pen = brush.pen
    for scale, flame in ((1.0, (238, 120, 40)), (0.62, (255, 214, 92))):
        tail = [(-0.09 * scale, 0.2), (0.0, 0.2 - 0.24 * scale), (0.09 * scale, 0.2)]
        pen.blob([*tail, (0.0, 0.24)], flame)
    fin = [(-0.12, 0.42), (-0.27, 0.2), (-0.24, 0.13), (-0.1, 0.22)]
    pen.polygon(fin, brush.dark)
    pen.polygon(mirrored(fin), brush.dark)
    hull = [(-0.1, 0.2), (-0.16, 0.45), (-0.12, 0.72), (0.0, 0.98), (0.12, 0.72), (0.16, 0.45)]
    pen.blob([*hull, (0.1, 0.2)], WHITE)
    pen.blob([(-0.115, 0.74), (0.0, 0.98), (0.115, 0.74), (0.0, 0.715)], brush.main)
    pen.blob([(-0.12, 0.3), (0.12, 0.3), (0.1, 0.2), (-0.1, 0.2)], brush.main)
    pen.ellipse(0.0, 0.56, 0.085, 0.085, brush.dark)
    pen.ellipse(0.0, 0.56, 0.062, 0.062, (120, 196, 226))
    if brush.fine:
        pen.ellipse(-0.02, 0.58, 0.02, 0.014, WHITE)
