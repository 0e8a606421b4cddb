"""Colours and features of a scene, chosen by words of the prompt, else by its hash."""

import hashlib
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeVar

_T = TypeVar("_T")
Colour = tuple[int, int, int]

WHITE: Final = (250, 250, 248)
INK: Final = (28, 30, 38)
_MIDNIGHT: Final = (14, 20, 52)


@dataclass(frozen=True)
class Palette:
    """Colours of a landscape, and its features that words of the prompt select."""

    sky: Colour
    horizon: Colour
    far: Colour
    near: Colour
    light: Colour = (255, 246, 214)
    accent: Colour | None = None
    """Colour of the subject, if the prompt names one."""
    night: bool = False
    water: bool = False
    snow: bool = False
    bare: bool = False
    """True for a landscape without trees."""
    plain: bool = False
    """True for a plain disc behind the subject instead of a landscape."""


_WATER_WORDS: Final = (
    *("sea", "ocean", "beach", "lake", "river", "water", "boat", "ship", "sailboat", "lighthouse"),
    *("harbour", "harbor", "island", "coast"),
)

_LANDS: Final[Mapping[str, Palette]] = {
    "snow winter snowy ice icy arctic frozen": Palette(
        (116, 166, 214), (226, 236, 246), (176, 200, 224), (246, 249, 253), snow=True
    ),
    "sunset sunrise dawn dusk golden gold evening warm": Palette(
        (84, 62, 128), (255, 178, 102), (170, 92, 110), (74, 46, 78), (255, 226, 150)
    ),
    "forest jungle wood woods tree pine": Palette(
        (132, 188, 196), (226, 238, 210), (120, 164, 134), (38, 84, 58)
    ),
    "desert sand dune camel pyramid": Palette(
        (96, 168, 206), (252, 230, 186), (226, 176, 112), (196, 124, 66), bare=True
    ),
    "autumn fall maple pumpkin": Palette(
        (150, 184, 200), (252, 226, 182), (206, 142, 84), (142, 70, 42)
    ),
    "logo icon sticker emblem badge symbol": Palette(
        (244, 241, 234), (244, 241, 234), (226, 228, 216), (210, 214, 200), plain=True
    ),
}

_SEASIDE: Final = Palette((74, 152, 210), (216, 236, 240), (116, 158, 172), (72, 106, 84))

_UNNAMED_LANDS: Final = (
    Palette((92, 164, 222), (222, 240, 236), (138, 182, 158), (66, 122, 76)),
    Palette((96, 92, 168), (246, 196, 190), (150, 118, 160), (66, 58, 104)),
    Palette((62, 148, 158), (248, 228, 196), (132, 174, 158), (42, 92, 92)),
    Palette((112, 150, 214), (252, 220, 206), (164, 156, 186), (82, 104, 104)),
)

_COLOURS: Final[Mapping[str, Colour]] = {
    "red crimson scarlet": (206, 62, 40),
    "orange": (234, 124, 34),
    "yellow": (244, 198, 48),
    "gold golden": (218, 168, 50),
    "green emerald": (60, 150, 76),
    "teal turquoise cyan": (34, 156, 160),
    "blue azure navy": (52, 104, 196),
    "purple violet lilac": (128, 76, 170),
    "pink rose magenta": (228, 108, 152),
    "brown chestnut": (134, 88, 54),
    "black": (52, 54, 62),
    "white": (240, 240, 236),
    "grey gray silver": (142, 148, 158),
}

_NIGHT: Final = frozenset(
    ("night", "midnight", "dark", "moon", "moonlit", "stars", "starry", "space")
)


def words(prompt: str) -> list[str]:
    """Latin words of a prompt, in order and in lower case."""
    return re.findall(r"[a-z]+", prompt.lower())


def rng(prompt: str, part: str) -> random.Random:
    """Random numbers for one part of the picture, seeded by the prompt and the part."""
    text = f"{part}\n{prompt}".encode("utf-8", "surrogatepass")
    return random.Random(int.from_bytes(hashlib.sha256(text).digest(), "big"))


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """Mixes the first colour with a share, 0 to 1, of the second."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def palette(prompt: str) -> Palette:
    """Chooses the palette for the scene of a prompt."""
    prompt_words = words(prompt)
    accent = _first(prompt_words, _COLOURS)
    water = not {*prompt_words}.isdisjoint(_WATER_WORDS)
    land = _first(prompt_words, _LANDS)
    if land is None:
        land = _SEASIDE if water else rng(prompt, "land").choice(_UNNAMED_LANDS)
        land = land if accent is None or water else _tinted(land, accent)
    land = replace(land, accent=accent, water=water and not land.plain)
    return _at_night(land) if _NIGHT.intersection(prompt_words) and not land.plain else land


def _first(prompt_words: list[str], table: Mapping[str, _T]) -> _T | None:
    """Entry of the first word of the prompt that the table has; None without one."""
    by_word = {word: value for key, value in table.items() for word in key.split()}
    return next((by_word[word] for word in prompt_words if word in by_word), None)


def _tinted(land: Palette, accent: Colour) -> Palette:
    return replace(
        land,
        sky=mix(land.sky, accent, 0.35),
        horizon=mix(land.horizon, accent, 0.12),
        far=mix(land.far, accent, 0.2),
    )


def _at_night(land: Palette) -> Palette:
    return replace(
        land,
        sky=mix(land.sky, _MIDNIGHT, 0.94),
        horizon=mix(land.horizon, (52, 70, 124), 0.8),
        far=mix(land.far, _MIDNIGHT, 0.66),
        near=mix(land.near, _MIDNIGHT, 0.66),
        light=(250, 244, 214),
        night=True,
    )
