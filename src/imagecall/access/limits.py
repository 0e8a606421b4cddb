"""Limits of the calls to a server. A door refuses a call beyond a limit, with a reason."""

from dataclasses import dataclass
from typing import Final

from imagecall.access.setting import number, seconds, setting

_MOST: Final = 2**31 - 1


@dataclass(frozen=True)
class Limits:
    """Limits of a server; each is a setting of `imagecall serve`."""

    json_bytes: int = setting(
        32 * 1024 * 1024,
        "max-json-bytes",
        number(1, 2**30),
        "N",
        "longest JSON text or message, read or written",
    )
    image_bytes: int = setting(
        64 * 1024 * 1024,
        "max-image-bytes",
        number(1, 2**32 - 1),
        "N",
        "largest image of a backend's answer",
    )
    stream_items: int = setting(
        1_000_000,
        "max-stream-items",
        number(1, _MOST),
        "N",
        "most items on one stream of ConvertCalls",
    )
    calls: int = setting(
        1000,
        "max-calls",
        number(1, _MOST),
        "N",
        "most calls in progress of one worker, at both doors together",
    )
    memory_bytes: int = setting(
        512 * 1024 * 1024,
        "max-memory-bytes",
        number(16 * 1024 * 1024, 2**40),
        "N",
        "most bytes that the calls in progress of one worker hold, at both doors together",
    )
    embedded_bytes: int = setting(
        32 * 1024 * 1024,
        "max-embedded-bytes",
        number(1, 2**32 - 1),
        "N",
        "largest image that a request may order from the embedded backend",
    )
    connections: int = setting(
        10_000,
        "max-connections",
        number(1, _MOST),
        "N",
        "most connections of one worker to one door",
    )
    metadata_bytes: int = setting(
        16 * 1024,
        "max-metadata-bytes",
        number(1024, 1024 * 1024),
        "N",
        "largest metadata of a call, or header of an HTTP request",
    )
    call_seconds: float = setting(
        3600.0,
        "max-call-seconds",
        seconds(),
        "SECONDS",
        "longest call, even if its own deadline is later",
    )
    stall_seconds: float = setting(
        120.0,
        "stall-seconds",
        seconds(),
        "SECONDS",
        "longest wait for a client that sends nothing of a message, or reads nothing of an answer",
    )
    idle_seconds: float = setting(
        600.0,
        "idle-seconds",
        seconds(),
        "SECONDS",
        "time without a call after which a connection is closed",
    )
