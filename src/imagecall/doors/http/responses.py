"""Responses of the HTTP door: a JSON text in pieces, and a stream of events."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Iterable, Iterator, Sequence
from contextlib import aclosing, suppress
from typing import Any, Final, Generic, Protocol, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from imagecall.doors.http.errors import JSON, NotTaken
from imagecall.doors.http.keepalive import COMMENT, TimedItems, TimedSend
from imagecall.doors.internal_error import internal_error
from imagecall.errors import GenerationError, ImagecallError
from imagecall.generation.fairness import fair_turn
from imagecall.generation.offload import run_offloaded
from imagecall.json.pieces import Piece, size_of, slices_of
from imagecall.observing.observer import note_failure
from imagecall.sizes import PIECE

_Item = TypeVar("_Item")
_FormattedItem = TypeVar("_FormattedItem", contravariant=True)

_SSE: Final = "text/event-stream"
_END_OF_STREAM: Final = b"data: [DONE]\n\n"
"""Last line of every stream."""

_STOPPED: Final = "the server ended the call"


class NoResponse(Response):
    """Sends nothing, as the client has disconnected."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        return


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(request: Request, work: Awaitable[Response]) -> Response:
    """Returns the response of the work; cancels the work if the client disconnects."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.create_task(_disconnected(request.receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return await working if working.done() else NoResponse()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.wait({working, leaving})
        if not working.cancelled():
            working.exception()  # asyncio logs an exception that nothing retrieves.


class WholeResponse(Response):
    """A JSON text in pieces."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        super().__init__(media_type=JSON)
        self.headers["content-length"] = str(size_of(pieces))
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def work() -> Response:
            await self._send(send)
            return NoResponse()

        await unless_gone(Request(scope, receive), work())

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        with suppress(OSError):  # The client has disconnected.
            await _send_pieces(self._pieces, send)
            await send({"type": "http.response.body", "body": b"", "more_body": False})


class Events(Protocol[_FormattedItem]):
    """Formatter of the items of one stream as server-sent events."""

    def size_of(self, item: _FormattedItem, /) -> int:
        """Returns the number of bytes to format."""

    def lines(self, item: _FormattedItem, /) -> Iterator[Sequence[Piece]]:
        """Yields the lines of an item, each in pieces. Raises ImagecallError."""

    def error(self, error: ImagecallError, /) -> Sequence[Piece]:
        """Returns the line of an error in the middle of a stream."""


class StreamResponse(Response, Generic[_Item]):
    """Stream of events, with comments during silences; the stream ends if the client disconnects.

    A failure before the first byte has an HTTP status of its own.
    """

    def __init__(
        self,
        arriving: AsyncGenerator[_Item, None],
        events: Events[_Item],
        keepalive_seconds: float,
    ) -> None:
        super().__init__(media_type=_SSE)
        self.headers["cache-control"] = "no-cache"
        self.headers["x-accel-buffering"] = "no"
        del self.headers["content-length"]
        self._arriving = arriving
        self._events = events
        self._keepalive_seconds = keepalive_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def work() -> Response:
            await self._send(send)
            return NoResponse()

        await unless_gone(Request(scope, receive), work())

    async def _send(self, send: Send) -> None:
        async with aclosing(TimedItems(self._arriving)) as items:
            first = await self._first(items)
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            with suppress(OSError):  # The client has disconnected.
                try:
                    await self._send_all(first, items, send)
                except ImagecallError as error:
                    await self._send_error(error, send)
                except asyncio.CancelledError:  # The server stops, or the client disconnects.
                    await self._send_error(GenerationError("", _STOPPED, code="UNAVAILABLE"), send)
                    raise
                except NotTaken:
                    raise
                except Exception as error:  # The text of any exception would reach the client.
                    await self._send_error(internal_error(error), send)
                await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _first(self, items: TimedItems[_Item]) -> _Item | None:
        """Returns the first item; None where the stream begins with a comment."""
        try:
            return await items.next(self._keepalive_seconds)
        except ImagecallError:
            raise
        except Exception as error:  # The text of any exception would reach the client.
            raise internal_error(error) from None

    async def _send_all(self, first: _Item | None, items: TimedItems[_Item], send: Send) -> None:
        timed = TimedSend(send, self._keepalive_seconds)
        item = first
        with suppress(StopAsyncIteration):
            while True:
                await (timed(_piece(COMMENT)) if item is None else self._send_item(item, timed))
                item = await items.next(timed.seconds_left)
        await _send_pieces([_END_OF_STREAM], send)

    async def _send_error(self, error: ImagecallError, send: Send) -> None:
        note_failure(error)
        await _send_pieces([*self._events.error(error), _END_OF_STREAM], send)

    async def _send_item(self, item: _Item, send: Send) -> None:
        lines = self._events.lines(item)
        size = self._events.size_of(item)
        while (line := await run_offloaded(size, next, lines, None)) is not None:
            await _send_pieces(line, send)
            await asyncio.sleep(0)  # For other tasks: an end may be thousands of lines.


async def _send_pieces(pieces: Iterable[Piece], send: Send) -> None:
    """Sends a text, whose images are encoded slice by slice, with turns for other tasks."""
    for text in slices_of(pieces):
        if len(text) >= PIECE:
            await fair_turn()
        await send(_piece(text))


def _piece(line: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": line, "more_body": True}
