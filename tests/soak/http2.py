"""A gRPC call by hand, whose message is compressed already, as no client compresses a gibibyte."""

import asyncio
import struct
from typing import Final

import h2.config
import h2.connection
import h2.events

from tests.soak.outcome import Outcome

_READ_BYTES: Final = 65536
_SECONDS: Final = 60
_CODES: Final = {
    "0": "OK",
    "3": "INVALID_ARGUMENT",
    "8": "RESOURCE_EXHAUSTED",
    "12": "UNIMPLEMENTED",
}


async def of_compressed(address: str, path: str, packed: bytes) -> Outcome:
    """Returns the outcome of a call with one gzip message."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        async with asyncio.timeout(_SECONDS):
            return await _Call(reader, writer).made(path, address, packed)
    finally:
        writer.close()


class _Call:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        config = h2.config.H2Configuration(header_encoding="ascii")
        self._connection = h2.connection.H2Connection(config)
        self._trailers: dict[str, str] = {}
        self._ended = False

    async def made(self, path: str, authority: str, packed: bytes) -> Outcome:
        self._connection.initiate_connection()
        headers = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": authority,
            "content-type": "application/grpc",
            "grpc-encoding": "gzip",
            "te": "trailers",
        }
        stream = self._connection.get_next_available_stream_id()
        self._connection.send_headers(stream, list(headers.items()))
        left = memoryview(struct.pack("!BI", 1, len(packed)) + packed)
        while not self._ended:
            while left and not self._ended and (size := self._window(stream)):
                self._connection.send_data(stream, bytes(left[:size]), end_stream=size >= len(left))
                left = left[size:]
            self._writer.write(self._connection.data_to_send())
            await self._writer.drain()
            data = await self._reader.read(_READ_BYTES)
            if not data:
                return Outcome("CLOSED")
            for event in self._connection.receive_data(data):
                self._take(event)
        code = self._trailers.get("grpc-status", "")
        return Outcome(_CODES.get(code, code), message=self._trailers.get("grpc-message", ""))

    def _window(self, stream: int) -> int:
        window = self._connection.local_flow_control_window(stream)
        return min(window, self._connection.max_outbound_frame_size)

    def _take(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
            self._trailers |= {str(name): str(value) for name, value in event.headers or ()}
        self._ended |= isinstance(event, h2.events.StreamEnded | h2.events.StreamReset)
