"""Channels to the server of a gRPC backend, and their options."""

import asyncio
import json
from typing import Any, Final

import grpc

from imagecall.access.watched_files import WatchedFiles
from imagecall.generation.checked_answer import MAX_MESSAGE_BYTES, AnswerLimits
from imagecall.rpc.addresses import ServerAddress
from imagecall.rpc.channel import aio_channel, credentials_of, name_options
from imagecall.rpc.client_tls import ClientTls
from imagecall.v1.image_generation_service_pb2 import DESCRIPTOR

_LONGEST_CALL_SECONDS: Final = 24 * 3600.0
"""Longest time that a replaced connection stays open for its calls in progress."""

_MAX_BACKOFF_MS: Final = 5000
_CONNECTIONS: Final = 8
"""Connections to the backend. Servers limit the calls per connection, those of imagecall to 64."""

_PING_MS: Final = 310_000
"""Time without a frame after which a connection is pinged. By default, servers of Go, Java and C++
end a connection that pings more often than once in five minutes while nothing is sent."""

_PONG_MS: Final = 20_000
"""Longest wait for the answer to a ping, and for the acknowledgement of sent data."""

_SERVICE: Final = DESCRIPTOR.services_by_name["ImageGenerationService"]


class Channels:
    """Channels to one address, used in rotation, each over a connection of its own.

    Args:
        address: address of the server.
        tls: files for TLS, and the name of the certificate. After a change of the files, `next`
            returns new channels; calls in progress stay on theirs.
        limits: largest answers.

    Raises OSError for a faulty file of TLS.
    """

    def __init__(self, address: ServerAddress, tls: ClientTls, limits: AnswerLimits) -> None:
        self._address = address
        self._tls = tls
        self._limits = limits
        self._credentials = WatchedFiles(tls.files, lambda: credentials_of(address, tls))
        self._in_use = self._credentials.get()
        self._channels: list[grpc.aio.Channel] = []
        self._closing: set[asyncio.Task[None]] = set()
        self._calls = 0

    async def close(self) -> None:
        """Closes the channels, and ends the calls in progress."""
        for closing in self._closing:
            closing.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        for channel in self._channels:
            await channel.close()

    def next(self) -> grpc.aio.Channel:
        """Returns the next channel; creates a channel on its first use."""
        if self._credentials.get() is not self._in_use:
            self._replace_channels()
        number = self._calls % _CONNECTIONS
        self._calls += 1
        if number >= len(self._channels):
            number = len(self._channels)
            self._channels.append(self._new_channel())
        return self._channels[number]

    def _replace_channels(self) -> None:
        """Leaves each channel to its calls in progress: the files of TLS have changed."""
        for channel in self._channels:
            closing = asyncio.create_task(channel.close(_LONGEST_CALL_SECONDS))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
        self._channels = []
        self._in_use = self._credentials.get()

    def _new_channel(self) -> grpc.aio.Channel:
        options: list[tuple[str, Any]] = [
            ("grpc.max_receive_message_length", -1),
            ("grpc.service_config", _service_config(self._limits)),
            ("grpc.enable_retries", 0),  # The caller may retry.
            ("grpc.max_reconnect_backoff_ms", _MAX_BACKOFF_MS),
            ("grpc.use_local_subchannel_pool", 1),  # Else all channels share a connection.
            ("grpc.keepalive_time_ms", _PING_MS),
            ("grpc.keepalive_timeout_ms", _PONG_MS),
            ("grpc.http2.max_pings_without_data", 0),  # Else gRPC pings a silent call only twice.
        ]
        options += name_options(self._tls)
        return aio_channel(self._address.target, self._in_use, options)


def _service_config(limits: AnswerLimits) -> str:
    """Returns gRPC's service config, with the largest answer of each method."""
    methods = [
        {
            "name": [{"service": _SERVICE.full_name, "method": method.name}],
            "maxResponseMessageBytes": MAX_MESSAGE_BYTES
            if method.server_streaming
            else limits.text_bytes,
        }
        for method in _SERVICE.methods
    ]
    return json.dumps({"methodConfig": methods})
