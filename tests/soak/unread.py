"""Calls whose client takes no byte of an answer, and which do not end by themselves."""

import asyncio
import struct
from contextlib import suppress
from typing import Final

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings

_SENT_SECONDS: Final = 30
"""Longest time in which the calls of a connection are sent."""

_STREAMS: Final = 50
"""Calls of a connection."""


async def unread_calls(
    address: str, path: str, messages: list[bytes], count: int, *, whole: bool = True
) -> list[asyncio.StreamWriter]:
    """Begins so many calls with these messages; returns their connections, which stay open.

    Not whole: a byte of each message is missing.
    """
    frames = b"".join(struct.pack("!BI", 0, len(m) + (not whole)) + m for m in messages)
    connections = [_Connection() for _ in range(-(-count // _STREAMS))]
    for number, connection in enumerate(connections):
        await connection.open(address)
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(_SENT_SECONDS):
                for _ in range(min(_STREAMS, count - number * _STREAMS)):
                    await connection.call(path, frames)
    return [connection.writer for connection in connections]


class _Connection:
    """Connection of HTTP/2, whose windows for answers are closed."""

    def __init__(self) -> None:
        config = h2.config.H2Configuration(header_encoding="ascii")
        self._http2 = h2.connection.H2Connection(config)
        closed = {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0}
        self._http2.local_settings = h2.settings.Settings(client=True, initial_values=closed)
        self._ended: set[int | None] = set()
        """Streams that the other side has ended."""

    async def open(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._reader, self.writer = await asyncio.open_connection(host, int(port))
        self._http2.initiate_connection()

    async def call(self, path: str, frames: bytes) -> None:
        """Begins a call, and sends as much as the server takes, until it refuses the call."""
        stream = self._http2.get_next_available_stream_id()
        headers = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": "a",
            "content-type": "application/grpc",
            "te": "trailers",
        }
        self._http2.send_headers(stream, list(headers.items()))
        left = memoryview(frames)
        with suppress(h2.exceptions.StreamClosedError):
            while left and stream not in self._ended:
                window = self._http2.local_flow_control_window(stream)
                size = min(window, self._http2.max_outbound_frame_size, len(left))
                if size:
                    self._http2.send_data(stream, bytes(left[:size]))
                    left = left[size:]
                    self.writer.write(self._http2.data_to_send())
                    await self.writer.drain()
                else:
                    await self._receive()
        self.writer.write(self._http2.data_to_send())
        await self.writer.drain()

    async def _receive(self) -> None:
        data = await self._reader.read(65536)
        if not data:
            raise ConnectionError
        for event in self._http2.receive_data(data):
            if isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
                self._ended.add(event.stream_id)
        self.writer.write(self._http2.data_to_send())
