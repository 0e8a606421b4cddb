"""Protocol of a door: a listener that translates calls for the backend."""

from typing import Protocol


class Door(Protocol):
    """A listener of a running server. A server has a list of them; see imagecall.server.run."""

    async def start(self) -> str:
        """Listens; returns HOST:PORT with the port that was bound. Raises OSError."""

    async def drain(self) -> None:
        """Reports to load balancers that the server stops. New calls are still accepted."""

    async def stop(self, grace: float) -> None:
        """Refuses new calls, and ends those in progress after `grace` seconds."""
