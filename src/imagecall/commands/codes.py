"""Exit codes of the commands on many records."""

from typing import Final

DONE: Final = 0
FAILED: Final = 1
SOME_REFUSED: Final = 3

EPILOG: Final = (
    "Exit code: 0 for all records; 3 if some were refused and the rest is done; 1 if none is done, "
    "or the output cannot be written; 2 for wrong usage."
)


def exit_code(done: int, refused: int) -> int:
    """Exit code for so many records done and refused."""
    if not done:
        return FAILED
    return SOME_REFUSED if refused else DONE
