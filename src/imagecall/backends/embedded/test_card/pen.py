"""Pen that draws shapes in units of their own box, independent of pixels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import ImageDraw

from imagecall.backends.embedded.test_card.palette import Colour

Point = tuple[float, float]
_STEPS = 8


@dataclass(frozen=True)
class Pen:
    """Draws with its origin at pixel (x, y) of the picture, y upwards, and `unit` in pixels."""

    draw: ImageDraw.ImageDraw
    x: float
    y: float
    unit: float

    def at(self, x: float, y: float, scale: float) -> "Pen":
        """Pen with its origin at a point of this pen, and a scaled unit."""
        return Pen(self.draw, self.x + x * self.unit, self.y - y * self.unit, self.unit * scale)

    def polygon(self, points: Sequence[Point], colour: Colour | tuple[int, ...]) -> None:
        """Draws a filled polygon."""
        self.draw.polygon([self._pixel(point) for point in points], colour)

    def blob(self, points: Sequence[Point], colour: Colour) -> None:
        """Draws a filled closed curve through the points (Catmull-Rom)."""
        count = len(points)
        curve = [
            _between([points[(index + offset) % count] for offset in (-1, 0, 1, 2)], step / _STEPS)
            for index in range(count)
            for step in range(_STEPS)
        ]
        self.polygon(curve, colour)

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
        """Draws a filled ellipse around (x, y)."""
        left, top = self._pixel((x - rx, y + ry))
        right, bottom = self._pixel((x + rx, y - ry))
        self.draw.ellipse((left, top, right, bottom), colour)

    def box(self, left: float, bottom: float, right: float, top: float, colour: Colour) -> None:
        """Draws a filled rectangle."""
        self.polygon(((left, bottom), (left, top), (right, top), (right, bottom)), colour)

    def line(self, points: Sequence[Point], width: float, colour: Colour) -> None:
        """Draws a line through the points, with its width in units."""
        pixels = max(1, round(width * self.unit))
        self.draw.line([self._pixel(point) for point in points], colour, pixels, joint="curve")

    def _pixel(self, point: Point) -> Point:
        return self.x + point[0] * self.unit, self.y - point[1] * self.unit


def _between(knots: Sequence[Point], share: float) -> Point:
    """Point of the curve between the second and the third of four knots."""
    (ax, ay), (bx, by), (cx, cy), (dx, dy) = knots
    return _spline(ax, bx, cx, dx, share), _spline(ay, by, cy, dy, share)


def _spline(a: float, b: float, c: float, d: float, t: float) -> float:
    quadratic = (2 * a - 5 * b + 4 * c - d) * t
    return b + 0.5 * t * (c - a + quadratic + (3 * b - a - 3 * c + d) * t * t)


def circle(x: float, y: float, radius: float, count: int, turn: float = 0.0) -> list[Point]:
    """Returns `count` points of a circle, in order, the first at an angle of `turn` radians."""
    angles = [turn + index * math.tau / count for index in range(count)]
    return [(x + radius * math.cos(angle), y + radius * math.sin(angle)) for angle in angles]
