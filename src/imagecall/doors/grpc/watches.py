"""Limits of the calls that watch the health, which need no token, and never end by themselves."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from imagecall.access.budget import RETRY_SECONDS
from imagecall.errors import GenerationError

_OF_A_CONNECTION: Final = 16
_IN_ALL: Final = 1000
"""Most watches of one connection, and of all connections. Each watch holds 27 KiB."""


class Watches:
    """Counts of the calls that watch the health, by connection."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    @contextmanager
    def watch(self, context: Any) -> Iterator[None]:
        """Admits a watch. Raises GenerationError: TOO_MANY_CALLS."""
        connection = context.peer()  # Includes the port, which differs between connections.
        if self._counts[connection] >= _OF_A_CONNECTION or self._counts.total() >= _IN_ALL:
            message = (
                f"at most {_OF_A_CONNECTION} calls of a connection, and {_IN_ALL:,} of all, "
                "may watch the health"
            )
            raise GenerationError("TOO_MANY_CALLS", message, retry_seconds=RETRY_SECONDS)
        self._counts[connection] += 1
        try:
            yield
        finally:
            self._counts[connection] -= 1
            if not self._counts[connection]:
                del self._counts[connection]
