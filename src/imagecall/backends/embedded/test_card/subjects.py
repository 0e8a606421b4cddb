"""Subject in the middle of a scene: the first known thing that the prompt names.

Each subject fits a box one unit high and about one unit wide, and stands on the origin.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from imagecall.backends.embedded.test_card.animals import (
    draw_bear,
    draw_cat,
    draw_fox,
    draw_rabbit,
)
from imagecall.backends.embedded.test_card.balloon import BALLOON_COLOURS, draw_balloon
from imagecall.backends.embedded.test_card.brush import Brush
from imagecall.backends.embedded.test_card.objects import (
    draw_boat,
    draw_flower,
    draw_house,
    draw_leaf,
    draw_lighthouse,
    draw_rocket,
    draw_tree,
)
from imagecall.backends.embedded.test_card.palette import (
    Colour,
    Palette,
    mix,
    rng,
    words,
)
from imagecall.backends.embedded.test_card.pen import Pen


@dataclass(frozen=True)
class Subject:
    """Drawing of a subject, its default colour, and its place in the scene."""

    draw: Callable[[Brush], None]
    colour: Colour
    floats: bool = False
    """True for a subject in the air, not on the ground."""
    at_sea: bool = False
    """True for a subject in the water, if the scene has any, not on the shore."""


def draw_subject(prompt: str, pen: Pen, colours: Palette, fine: bool) -> None:
    """Draws the subject of a prompt with a pen, on the pen's origin."""
    subject = subject_of(prompt)
    main = colours.accent or subject.colour
    if subject is _BALLOON and colours.accent is None:
        main = rng(prompt, "balloon").choice(BALLOON_COLOURS)
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


_BALLOON: Final = Subject(draw_balloon, BALLOON_COLOURS[0], floats=True)

_SUBJECTS: Final[Mapping[str, Subject]] = {
    "fox wolf dog puppy": Subject(draw_fox, (226, 112, 42)),
    "cat kitten tiger lion": Subject(draw_cat, (150, 140, 136)),
    "bear panda teddy": Subject(draw_bear, (136, 94, 62)),
    "rabbit hare bunny": Subject(draw_rabbit, (186, 164, 142)),
    "lighthouse tower": Subject(draw_lighthouse, (200, 62, 48), at_sea=True),
    "leaf leaves": Subject(draw_leaf, (72, 156, 78), floats=True),
    "house cottage cabin home village": Subject(draw_house, (178, 78, 56)),
    "boat ship sailboat yacht": Subject(draw_boat, (178, 66, 54), at_sea=True),
    "tree oak maple": Subject(draw_tree, (82, 148, 72)),
    "flower rose tulip daisy sunflower": Subject(draw_flower, (222, 90, 120)),
    "rocket spaceship spacecraft": Subject(draw_rocket, (206, 70, 52), floats=True),
}

_BY_WORD: Final = {word: subject for key, subject in _SUBJECTS.items() for word in key.split()}
