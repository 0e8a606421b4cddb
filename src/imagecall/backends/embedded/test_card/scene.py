"""Landscape of a test card, with its subject: sky, light, hills or water, trees, weather."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from PIL import Image, ImageDraw

from imagecall.backends.embedded.test_card.palette import INK, WHITE, Colour, Palette, mix, rng
from imagecall.backends.embedded.test_card.pen import Pen
from imagecall.backends.embedded.test_card.subjects import draw_subject, subject_of


@dataclass(frozen=True)
class Detail:
    """Detail with which a quality is drawn."""

    oversampling: int
    """Pixels drawn along each side of a pixel of the picture, for smooth edges."""
    layers: int
    """Number of layers of hills."""
    steps: int
    """Number of segments of a ridge."""
    trees: int
    """Number of trees on each layer."""
    specks: int
    """Number of stars, of snowflakes, and of glints."""
    clouds: int
    fine: bool
    """True if the subject has its small details."""


DETAILS: Final[Mapping[str, Detail]] = {
    "low": Detail(1, 2, 12, 0, 24, 0, fine=False),
    "medium": Detail(2, 3, 60, 6, 90, 2, fine=False),
    "high": Detail(3, 5, 240, 14, 240, 5, fine=True),
}
"""Amount of detail by the name of the quality."""


@dataclass(frozen=True)
class _Scene:
    """Picture that is being drawn."""

    prompt: str
    colours: Palette
    detail: Detail
    image: Image.Image
    draw: ImageDraw.ImageDraw
    width: int
    height: int
    floor: int
    """Lower end of the visible scene, in pixels from the top; the panel is below."""

    @property
    def side(self) -> int:
        """Shorter side of the visible scene, in pixels, to which all sizes relate."""
        return min(self.width, self.floor)

    @property
    def skyline(self) -> float:
        """Lower end of the sky, in pixels from the top."""
        return self.floor * 0.62


def draw_scene(
    prompt: str,
    colours: Palette,
    detail: Detail,
    size: tuple[int, int],
    *,
    floor: int,
    transparent: bool,
) -> Image.Image:
    """Draws the scene of a prompt: in RGB, or in RGBA with only the subject if `transparent`.

    Sizes are in pixels. The subject stands above `floor`.
    """
    image = Image.new("RGBA", size, (0, 0, 0, 0)) if transparent else Image.new("RGB", size)
    # On RGB this mode blends a colour that has alpha; on RGBA it writes the alpha itself.
    scene = _Scene(
        prompt, colours, detail, image, ImageDraw.Draw(image, "RGBA"), *size, floor=floor
    )
    if not transparent:
        _draw_background(scene)
    _draw_subject(scene, alone=transparent or colours.plain)
    return image


def _draw_background(scene: _Scene) -> None:
    if scene.colours.plain:
        _draw_disc(scene)
        return
    _draw_sky(scene)
    if scene.colours.night:
        _draw_stars(scene)
    _draw_light(scene)
    _draw_clouds(scene)
    if scene.colours.water:
        _draw_water(scene)
    else:
        _draw_hills(scene)
    if scene.colours.snow:
        _draw_snowflakes(scene)


def _draw_disc(scene: _Scene) -> None:
    """Draws a plain ground with a disc, as behind an emblem."""
    scene.image.paste(scene.colours.sky, (0, 0, scene.width, scene.height))
    pen = Pen(scene.draw, scene.width / 2, scene.floor * 0.5, scene.side)
    pen.ellipse(0.0, 0.0, 0.46, 0.46, scene.colours.far)
    pen.ellipse(0.0, 0.0, 0.43, 0.43, mix(scene.colours.far, WHITE, 0.5))


def _gradient(top: Colour, low: Colour, width: int, height: int) -> Image.Image:
    stops = Image.new("RGB", (1, 2))
    stops.putpixel((0, 0), top)
    stops.putpixel((0, 1), low)
    # The box omits the half pixels at the ends, where no two colours mix.
    column = stops.resize((1, height), Image.Resampling.BILINEAR, box=(0, 0.5, 1, 1.5))
    return column.resize((width, height))


def _draw_sky(scene: _Scene) -> None:
    height = max(1, round(scene.skyline * 1.15))
    scene.image.paste(scene.colours.horizon, (0, 0, scene.width, scene.height))
    scene.image.paste(_gradient(scene.colours.sky, scene.colours.horizon, scene.width, height))


def _draw_stars(scene: _Scene) -> None:
    source = rng(scene.prompt, "stars")
    for _ in range(scene.detail.specks):
        x, y = source.random() * scene.width, source.random() ** 1.3 * scene.skyline
        radius = scene.side * source.uniform(0.0007, 0.0024)
        Pen(scene.draw, x, y, radius).ellipse(
            0, 0, 1, 1, mix(scene.colours.sky, WHITE, source.uniform(0.4, 1))
        )


def _draw_light(scene: _Scene) -> None:
    """Draws the sun or the moon, with its glow."""
    source = rng(scene.prompt, "light")
    x, y = scene.width * source.uniform(0.7, 0.84), scene.floor * source.uniform(0.16, 0.27)
    radius = scene.side * 0.065
    _draw_glow(scene, x, y, radius * 5, 0.75)
    pen = Pen(scene.draw, x, y, radius)
    pen.ellipse(0, 0, 1, 1, scene.colours.light)
    if scene.colours.night and scene.detail.fine:
        for cx, cy, r in ((-0.35, 0.25, 0.2), (0.3, -0.2, 0.26), (0.15, 0.5, 0.12)):
            pen.ellipse(cx, cy, r, r, mix(scene.colours.light, scene.colours.sky, 0.16))


def _draw_glow(scene: _Scene, x: float, y: float, radius: float, strength: float) -> None:
    side = max(2, round(radius * 2))
    # The gradient is black in its middle; its inverse, squared, fades out before the corners.
    fading = Image.radial_gradient("L").point(
        lambda value: round(255 * strength * max(0.0, 1 - value / 181) ** 2)
    )
    mask = fading.resize((side, side), Image.Resampling.BICUBIC)
    light = Image.new("RGB", mask.size, scene.colours.light)
    scene.image.paste(light, (round(x - radius), round(y - radius)), mask)


def _draw_clouds(scene: _Scene) -> None:
    source = rng(scene.prompt, "clouds")
    colour = mix(scene.colours.horizon, WHITE, 0.1 if scene.colours.night else 0.7)
    colour = mix(colour, scene.colours.sky, 0.55 if scene.colours.night else 0.1)
    for _ in range(scene.detail.clouds):
        x, y = source.random() * scene.width, scene.floor * source.uniform(0.08, 0.36)
        pen = Pen(scene.draw, x, y, scene.side * source.uniform(0.1, 0.2))
        pen.ellipse(0, 0, 0.6, 0.1, colour)
        pen.ellipse(-0.2, 0.07, 0.22, 0.12, colour)
        pen.ellipse(0.12, 0.1, 0.27, 0.17, colour)


def _draw_hills(scene: _Scene) -> None:
    for layer in range(scene.detail.layers):
        nearness = layer / (scene.detail.layers - 1)
        ridge = _ridge(scene, f"hill {nearness}", nearness)
        colour = mix(scene.colours.far, scene.colours.near, nearness)
        _draw_land(scene, ridge, colour)
        _draw_trees(scene, ridge, colour, nearness, f"trees {layer}")


def _ridge(scene: _Scene, part: str, nearness: float) -> Callable[[float], float]:
    """Function for the ridge of a hill: share of the width, 0 to 1, to pixels from the top."""
    source = rng(scene.prompt, part)
    base = scene.skyline + (scene.floor * 0.9 - scene.skyline) * nearness
    swing = scene.floor * (0.085 - 0.055 * nearness)
    waves = [(source.uniform(2, 5) * n, source.uniform(0, math.tau), 1 / n) for n in (1, 2, 3.7)]

    def ridge(share: float) -> float:
        return base - swing * sum(
            size * math.sin(speed * share + phase) for speed, phase, size in waves
        )

    return ridge


def _draw_land(scene: _Scene, ridge: Callable[[float], float], colour: Colour) -> None:
    shares = [step / scene.detail.steps for step in range(scene.detail.steps + 1)]
    edge = [(share * scene.width, ridge(share)) for share in shares]
    scene.draw.polygon([(0, scene.height), *edge, (scene.width, scene.height)], colour)


def _draw_trees(
    scene: _Scene, ridge: Callable[[float], float], ground: Colour, nearness: float, part: str
) -> None:
    if scene.colours.bare:
        return
    source = rng(scene.prompt, part)
    height = scene.side * (0.05 + 0.17 * nearness)
    green = mix(mix((40, 82, 62), ground, 0.35), INK, 0.25 * nearness)
    shares = sorted(source.random() for _ in range(scene.detail.trees))
    for share in shares:
        grown = height * source.uniform(0.6, 1.1)
        # Near trees leave the middle to the subject.
        if nearness < 0.4 or abs(share - 0.5) * scene.width > scene.side * 0.36:
            x, y = share * scene.width, ridge(share) + grown * 0.08
            _draw_conifer(scene, Pen(scene.draw, x, y, grown), green)


def _draw_conifer(scene: _Scene, pen: Pen, green: Colour) -> None:
    pen.box(-0.03, 0.0, 0.03, 0.2, mix((84, 60, 44), green, 0.4))
    for low, high, half in ((0.12, 0.55, 0.24), (0.36, 0.78, 0.18), (0.6, 1.0, 0.12)):
        pen.polygon(((-half, low), (0.0, high), (half, low)), green)
        pen.polygon(((0.0, low), (0.0, high), (half, low)), mix(green, INK, 0.18))
        if scene.colours.snow:
            cap = (0.0, high), (half * 0.45, high - (high - low) * 0.45), (0.0, high - 0.12)
            pen.polygon([*cap, (-half * 0.45, high - (high - low) * 0.45)], scene.colours.near)


def _draw_water(scene: _Scene) -> None:
    top, low = scene.skyline, scene.height
    deep = mix(scene.colours.sky, (20, 60, 84), 0.4)
    shallow = mix(scene.colours.horizon, deep, 0.45)
    water = _gradient(shallow, deep, scene.width, max(1, low - round(top)))
    far = _ridge(scene, "shore", 0.0)
    _draw_land(scene, lambda share: far(share) + scene.floor * 0.02, scene.colours.far)
    scene.image.paste(water, (0, round(top)))
    _draw_glints(scene, mix(shallow, scene.colours.light, 0.55))
    if not subject_of(scene.prompt).at_sea:
        _draw_land(scene, _ridge(scene, "hill 1.0", 1.0), scene.colours.near)


def _draw_glints(scene: _Scene, colour: Colour) -> None:
    source = rng(scene.prompt, "glints")
    for _ in range(scene.detail.specks):
        depth = source.random() ** 1.4
        y = scene.skyline + depth * (scene.height - scene.skyline)
        length = scene.side * (0.008 + 0.05 * depth) * source.uniform(0.5, 1.5)
        x = source.random() * scene.width
        scene.draw.line((x, y, x + length, y), colour, max(1, round(scene.side * 0.0022)))


def _draw_subject(scene: _Scene, *, alone: bool) -> None:
    subject = subject_of(scene.prompt)
    floats = subject.floats
    size = scene.side * (0.78 if alone else 0.62)
    base = scene.floor * 0.5 + size * 0.5 if alone or floats else scene.floor * 0.95
    if floats and not alone:
        base -= scene.floor * 0.04
    pen = Pen(scene.draw, scene.width / 2, base, size)
    if not (alone or floats or (subject.at_sea and scene.colours.water)):
        shade = mix(scene.colours.near, INK, 0.22)
        pen.ellipse(0.03, 0.005, 0.36, 0.035, shade)
    draw_subject(scene.prompt, pen, scene.colours, scene.detail.fine)


def _draw_snowflakes(scene: _Scene) -> None:
    source = rng(scene.prompt, "snow")
    for _ in range(scene.detail.specks):
        x, y = source.random() * scene.width, source.random() * scene.floor
        radius = scene.side * source.uniform(0.0015, 0.0055)
        Pen(scene.draw, x, y, radius).ellipse(0, 0, 1, 1, WHITE)
