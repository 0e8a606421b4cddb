"""Exit codes of the commands."""

from typing import Final

from imagecall.errors import ImagecallError

DONE: Final = 0
REFUSED: Final = 1
WRONG_USAGE: Final = 2
SOME_REFUSED: Final = 3
CALL_FAILED: Final = 4
BROKEN_PIPE: Final = 141
"""As a shell reports SIGPIPE."""

EPILOG: Final = (
    "Exit code: 0 for all records; 3 if some were refused and the rest is done; 1 if none is done, "
    "or a file cannot be read or written; 2 for wrong usage, or a package that is not installed."
)
"""Exit codes of the commands on many records."""

_REASONS_OF_INPUT: Final = {"TOO_LARGE", "TOO_MANY_ITEMS", "TOO_MANY_VALUES", "UPSTREAM_TOO_LARGE"}
"""Reasons of refused input whose code is that of a busy server."""


def is_refusal(error: ImagecallError) -> bool:
    """True for the refusal of an input, False for the failure of a call."""
    return error.code == "INVALID_ARGUMENT" or error.reason in _REASONS_OF_INPUT


def exit_code(done: int, refused: int) -> int:
    """Exit code for so many records done and refused."""
    if not done:
        return REFUSED
    return SOME_REFUSED if refused else DONE
