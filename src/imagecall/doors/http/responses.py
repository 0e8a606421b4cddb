"""Responses of the HTTP door: a JSON text in pieces, and a stream of events."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Iterator, Sequence
from contextlib import aclosing, suppress
from functools import partial
from typing import Final, Generic, Protocol, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from imagecall.doors.http.errors import JSON, NotTaken
from imagecall.doors.http.keepalive import COMMENT, TimedItems
from imagecall.doors.http.response_body import ResponseBody
from imagecall.doors.internal_error import internal_error
from imagecall.errors import GenerationError, ImagecallError
from imagecall.generation.offload import run_offloaded
from imagecall.json.pieces import Piece, size_of
from imagecall.observing.observer import note_failure

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
            body = ResponseBody(send)
            await body.write(self._pieces)
            await body.end()


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
                body = ResponseBody(send)
                try:
                    await self._send_all(first, items, body)
                except ImagecallError as error:
                    await self._send_error(error, body)
                except asyncio.CancelledError:  # The server stops, or the client disconnects.
                    await self._send_error(GenerationError("", _STOPPED, code="UNAVAILABLE"), body)
                    raise
                except NotTaken:
                    raise
                except Exception as error:  # The text of any exception would reach the client.
                    await self._send_error(internal_error(error), body)
                await body.end()

    async def _first(self, items: TimedItems[_Item]) -> _Item | None:
        """Returns the first item; None where the stream begins with a comment."""
        try:
            return await items.next(self._keepalive_seconds)
        except ImagecallError:
            raise
        except Exception as error:  # The text of any exception would reach the client.
            raise internal_error(error) from None

    async def _send_all(
        self, first: _Item | None, items: TimedItems[_Item], body: ResponseBody
    ) -> None:
        item = first
        with suppress(StopAsyncIteration):
            while True:
                await (body.write([COMMENT]) if item is None else self._send_item(item, body))
                if not await items.is_ready():
                    await body.flush()
                item = await items.next(body.seconds_left(self._keepalive_seconds))
        await body.write([_END_OF_STREAM])

    async def _send_error(self, error: ImagecallError, body: ResponseBody) -> None:
        note_failure(error)
        await body.write([*self._events.error(error), _END_OF_STREAM])
        await body.flush()

    async def _send_item(self, item: _Item, body: ResponseBody) -> None:
        lines = self._events.lines(item)
        size = self._events.size_of(item)
        following = partial(run_offloaded, size, next, lines, None)
        line = await following()
        while line is not None:
            await body.write(line)
            if (line := await following()) is not None:
                await asyncio.sleep(0)  # For other tasks: an end may be thousands of lines.
