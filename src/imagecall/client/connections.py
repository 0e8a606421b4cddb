"""Connections of a client to its server, and the slots of the calls on them."""

from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

_Connection = TypeVar("_Connection")
_Slots = TypeVar("_Slots")


class Connections(Generic[_Connection, _Slots]):
    """Connections of one process or event loop, each opened at its first use.

    Args:
        connect: opens a connection.
        slots: queue of the slots that are free; a call takes one and returns it.
    """

    def __init__(self, connect: Callable[[], _Connection], slots: _Slots) -> None:
        self.slots = slots
        self.closed = False
        self._connect = connect
        self._opened: dict[int, _Connection] = {}
        self._lock = Lock()

    def get(self, slot: int) -> _Connection | None:
        """Returns the connection of a slot. None: the connections are closed."""
        with self._lock:
            if self.closed:
                return None
            if slot not in self._opened:
                self._opened[slot] = self._connect()
            return self._opened[slot]

    def close(self) -> list[_Connection]:
        """Returns the connections that the caller has to close; no further one is opened."""
        with self._lock:
            self.closed = True
            opened, self._opened = self._opened, {}
        return list(opened.values())
