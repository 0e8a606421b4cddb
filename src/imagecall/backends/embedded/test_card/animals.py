"""Animals: a fox, a cat, a bear and a rabbit, which share a sitting body, a head and a face."""

from imagecall.backends.embedded.test_card.brush import Brush, draw_both, mirrored
from imagecall.backends.embedded.test_card.palette import INK, WHITE, mix
from imagecall.backends.embedded.test_card.pen import Point


def draw_fox(brush: Brush) -> None:
    _draw_bushy_tail(brush)
    _draw_sitting_body(brush)
    ear = [(-0.235, 0.66), (-0.245, 0.97), (-0.03, 0.8)]
    _draw_pointed_ears(brush, ear)
    _draw_head(brush)
    cheek = [(-0.285, 0.595), (-0.17, 0.5), (0.0, 0.425), (0.0, 0.5), (-0.05, 0.575), (-0.15, 0.63)]
    draw_both(brush, cheek, WHITE)
    _draw_face(brush)


def draw_cat(brush: Brush) -> None:
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


def draw_bear(brush: Brush) -> None:
    _draw_sitting_body(brush)
    for side in (-1, 1):
        brush.pen.ellipse(side * 0.19, 0.79, 0.085, 0.085, brush.main)
        brush.pen.ellipse(side * 0.19, 0.79, 0.045, 0.045, brush.bright)
    _draw_head(brush)
    brush.pen.ellipse(0.0, 0.5, 0.11, 0.08, brush.bright)
    _draw_face(brush)


def draw_rabbit(brush: Brush) -> None:
    brush.pen.ellipse(0.24, 0.1, 0.09, 0.09, WHITE)
    _draw_sitting_body(brush)
    ear = [(-0.16, 0.7), (-0.2, 0.88), (-0.14, 1.06), (-0.07, 0.9), (-0.05, 0.72)]
    draw_both(brush, ear, brush.main)
    inner = [(-0.14, 0.74), (-0.165, 0.88), (-0.135, 0.99), (-0.095, 0.88), (-0.085, 0.74)]
    draw_both(brush, inner, mix(brush.bright, (240, 150, 150), 0.4))
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
    draw_both(brush, haunch, mix(brush.main, INK, 0.12))
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
        brush.pen.polygon(mirrored(points), colour)


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
