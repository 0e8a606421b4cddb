"""Tools with which a subject is drawn, and mirrored shapes."""

from dataclasses import dataclass
from random import Random

from imagecall.backends.embedded.test_card.palette import INK, WHITE, Colour, Palette, mix
from imagecall.backends.embedded.test_card.pen import Pen, Point


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


def mirrored(points: list[Point]) -> list[Point]:
    return [(-x, y) for x, y in points]


def draw_both(brush: Brush, points: list[Point], colour: Colour) -> None:
    """Draws a blob on the left and its mirror image on the right."""
    brush.pen.blob(points, colour)
    brush.pen.blob(mirrored(points), colour)
