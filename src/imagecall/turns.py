"""Turns of long work, which shares the GIL with an event loop.

A thread that calls into C can keep the loop from running until the call returns. So work that may
be long takes a turn before each such call, and in its loops. The caller of the work sets TURN; by
default a turn does nothing.
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
