"""What a stranger may cost a server."""

from dataclasses import dataclass

from imagecall.json.text import MAX_BYTES


@dataclass(frozen=True)
class Limits:
    """The limits of a server. What is past one is refused with a reason.

    Attributes:
        json_bytes: the longest JSON text, read or written.
        image_bytes: the largest image that a backend may answer with.
        stream_items: the most items on one stream of ConvertCalls.
        calls: the most calls in progress.
        connections: the most connections to a door.
        metadata_bytes: the largest metadata of a call, or header of an HTTP request.
        call_seconds: how long a call may take, whatever its own deadline.
        idle_seconds: how long a connection may have no call.
    """

    json_bytes: int = MAX_BYTES
    image_bytes: int = 512 * 1024 * 1024
    stream_items: int = 1_000_000
    calls: int = 1000
    connections: int = 10_000
    metadata_bytes: int = 16 * 1024
    call_seconds: float = 3600
    idle_seconds: float = 600
