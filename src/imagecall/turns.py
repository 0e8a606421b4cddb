"""Turns of long work, which shares one lock, Python's, with an event loop.

A thread that calls into C keeps the loop from running until the call returns. So work that may be
long takes a turn before each such call, and where it repeats itself. The work is pure: whoever
starts it sets what a turn is, by default nothing.
"""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Final


class Abandoned(BaseException):
    """Raised by a turn in work whose result nobody awaits any more."""


TURN: Final[ContextVar[Callable[[], None] | None]] = ContextVar("TURN", default=None)
"""Turn of the current work. None: the work runs to its end."""


def take_turn() -> None:
    """Lets others run. Raises Abandoned if nobody awaits the work any more."""
    if (turn := TURN.get()) is not None:
        turn()
