"""Body of a response that is sent as it is made."""

import asyncio
from collections.abc import Iterable
from typing import Final

from starlette.types import Send

from imagecall.generation.fairness import fair_turn
from imagecall.json.pieces import Piece, slices_of
from imagecall.sizes import PIECE

_TOGETHER: Final = 16 * 1024
"""Most bytes of small texts that are buffered, to be sent together."""


class ResponseBody:
    """Sends a body: large slices at once, and small texts together, at the latest by `flush`.

    Args:
        send: ASGI function that sends a message.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._sent = asyncio.get_running_loop().time()

    async def write(self, pieces: Iterable[Piece]) -> None:
        """Adds a text, whose images are encoded slice by slice, with turns for other tasks."""
        for text in slices_of(pieces):
            if len(text) >= PIECE:
                await self.flush()
                await fair_turn()
                await self._send_text(text)
                continue
            self._kept.append(text)
            self._kept_bytes += len(text)
            if self._kept_bytes >= _TOGETHER:
                await self.flush()

    async def flush(self) -> None:
        """Sends the buffered texts."""
        if self._kept:
            await self._send_text(self._taken())

    async def end(self) -> None:
        """Sends the rest, and ends the body."""
        await self._send_text(self._taken(), more=False)

    def seconds_left(self, longest_silence: float) -> float:
        """Seconds until nothing has been sent for too long."""
        now = asyncio.get_running_loop().time()
        return max(0.0, self._sent + longest_silence - now)

    def _taken(self) -> bytes:
        text = b"".join(self._kept)
        self._kept, self._kept_bytes = [], 0
        return text

    async def _send_text(self, text: bytes, more: bool = True) -> None:
        await self._send({"type": "http.response.body", "body": text, "more_body": more})
        self._sent = asyncio.get_running_loop().time()
