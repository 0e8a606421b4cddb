"""Hot air balloon, the subject of a prompt that names none."""

import math
from typing import Final

from imagecall.backends.embedded.test_card.brush import Brush
from imagecall.backends.embedded.test_card.objects import draw_petals
from imagecall.backends.embedded.test_card.palette import INK, WHITE, Colour, mix
from imagecall.backends.embedded.test_card.pen import Pen

BALLOON_COLOURS: Final = (
    (206, 84, 62),
    (226, 148, 54),
    (58, 138, 132),
    (68, 104, 178),
    (140, 86, 160),
    (84, 142, 82),
)

_ENVELOPE: Final = (
    *((-0.13, 0.29), (-0.3, 0.47), (-0.37, 0.68), (-0.27, 0.92), (0.0, 1.02)),
    *((0.27, 0.92), (0.37, 0.68), (0.3, 0.47), (0.13, 0.29)),
)


def draw_balloon(brush: Brush) -> None:
    """Draws a hot air balloon, for a prompt that names no subject."""
    pen = brush.pen
    for x in (-0.06, 0.06):
        pen.line([(x * 2.4, 0.3), (x, 0.12)], 0.008, INK)
    pen.blob([(-0.065, 0.12), (0.065, 0.12), (0.05, 0.0), (-0.05, 0.0)], (132, 92, 58))
    pen.box(-0.07, 0.105, 0.07, 0.125, (98, 66, 42))
    gores = brush.random.choice((5, 7, 9))
    second = brush.random.choice([other for other in BALLOON_COLOURS if other != brush.main])
    pale = mix(second, WHITE, brush.random.choice((0.1, 0.55, 0.8)))
    for index in range(gores):
        width = math.sin((1 - index / gores) * math.pi / 2)
        colour = mix(pale if index % 2 else brush.main, INK, 0.2 * (1 - index / gores))
        pen.blob([(x * width, y) for x, y in _ENVELOPE], colour)
    pen.box(-0.14, 0.27, 0.14, 0.305, brush.dark)
    _draw_rosette(brush, pen.at(0.0, 0.68, 0.36), second)


def _draw_rosette(brush: Brush, pen: Pen, second: Colour) -> None:
    """Draws an ornament from the prompt's hash, which makes balloons differ."""
    pen.ellipse(0.0, 0.0, 0.5, 0.5, brush.dark)
    pen.ellipse(0.0, 0.0, 0.46, 0.46, mix(brush.main, WHITE, 0.86))
    rings = 3 if brush.fine else 2
    for ring in range(rings):
        count = brush.random.choice((6, 8, 10, 12))
        turn = brush.random.random()
        colour = mix(second if ring % 2 else brush.main, WHITE, 0.15 * ring)
        draw_petals(pen, count, 0.43 * (1 - ring / (rings + 0.4)), colour, turn)
    pen.ellipse(0.0, 0.0, 0.06, 0.06, (250, 214, 110))
