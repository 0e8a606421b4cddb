"""Body of an API's answer: its bytes as they arrive, decoded.

APIs and proxies compress answers even if the request does not accept compression.
"""

import asyncio
from collections.abc import Iterator
from typing import Final

import aiohttp
import msgspec

from imagecall.access.budget import FACTOR, MEMORY
from imagecall.backends.http_api.errors import not_understood
from imagecall.errors import damaged_answer, quoted, too_large_answer
from imagecall.generation.fairness import fair_turn
from imagecall.generation.offload import offloaded
from imagecall.rpc.inflater import Inflater
from imagecall.sizes import PIECE

TRANSPORT_ERRORS: Final = (aiohttp.ClientError, ConnectionError, TimeoutError)
"""Exceptions of a body that breaks off."""

IDENTITY: Final = "identity"
_COMPRESSED: Final = frozenset({"gzip", "x-gzip", "deflate"})
WHOLE_SECONDS: Final = 1.0
"""Silence after which a JSON text that may be complete is checked for completeness."""

_MAX_RATIO: Final = 100
"""Largest ratio of a body's decoded size to its compressed size; base64 has about 1.3."""

_MAX_UNCHECKED_BYTES: Final = 32 * 1024 * 1024
"""Decoded size up to which the ratio is not checked."""

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


class Body:
    """Body of an answer.

    Args:
        answer: answer whose body has not been read yet.
        inflater: decoder of the body. None: the body is not compressed.
        idle_seconds: longest silence before a read fails with TimeoutError.
        max_bytes: largest JSON text, and most white space before the text.
    """

    def __init__(
        self,
        answer: aiohttp.ClientResponse,
        inflater: Inflater | None,
        idle_seconds: float,
        max_bytes: int,
    ) -> None:
        self._content = answer.content
        self._inflater = inflater
        self._decoded: Iterator[bytes] = iter(())
        self._idle_seconds = idle_seconds
        self._max_bytes = max_bytes
        self._received_bytes = 0
        self._decoded_bytes = 0
        self._error: Exception | None = None

    @classmethod
    def of(cls, answer: aiohttp.ClientResponse, idle_seconds: float, max_bytes: int) -> "Body":
        """Returns the body of an answer, by its encoding. Raises GenerationError."""
        return cls(answer, inflater_of(answer), idle_seconds, max_bytes)

    async def read(self, seconds: float | None = None) -> bytes:
        """Next bytes; empty at the end. Raises one of TRANSPORT_ERRORS, or GenerationError."""
        if self._inflater is None:
            return await self._receive(seconds)
        while True:
            try:
                piece = next(filter(None, self._decoded), b"")
            except ValueError as error:
                raise damaged_answer(f"its compression: {error}") from None
            self._check_ratio(len(piece))
            if len(piece) >= PIECE:
                await fair_turn()
            if piece:
                return piece
            received = await self._receive(seconds)
            if not received:
                return self._end(self._inflater)
            self._received_bytes += len(received)
            self._decoded = self._inflater.pieces(received)

    def _check_ratio(self, size: int) -> None:
        """Raises GenerationError (UPSTREAM_ANSWER_TOO_LARGE) for a compression bomb."""
        self._decoded_bytes += size
        if self._decoded_bytes > max(_MAX_UNCHECKED_BYTES, _MAX_RATIO * self._received_bytes):
            raise too_large_answer("the API's answer", _MAX_RATIO, "times its compressed size")

    async def beginning(self) -> bytes:
        """First bytes after a byte order mark and white space; empty if no more follow.

        Raises one of TRANSPORT_ERRORS, or GenerationError.
        """
        start = b""
        passed = 0
        while not start or _BYTE_ORDER_MARK.startswith(start):
            received = await self.read()
            if not received:
                return start
            start = (start + received).lstrip().removeprefix(_BYTE_ORDER_MARK).lstrip()
            passed += len(received)
            if not start and passed > self._max_bytes:
                raise too_large_answer("the API's answer", self._max_bytes)
        return start

    async def whole_json(self, start: bytes) -> bytes:
        """Reads the JSON text that begins with `start`.

        A text that is complete is returned even if the transfer does not end. Raises one of
        TRANSPORT_ERRORS, or GenerationError.
        """
        pieces = [start]
        size = len(start)
        memory = MEMORY.get()
        await memory.grow(FACTOR * size)
        while piece := await self._read_on(pieces):
            pieces.append(piece)
            size += len(piece)
            if size > self._max_bytes:
                raise too_large_answer("the API's answer", self._max_bytes)
            await memory.grow(FACTOR * len(piece))
        return b"".join(pieces)

    async def _read_on(self, pieces: list[bytes]) -> bytes:
        """Next bytes of a JSON text; empty at its end."""
        last = next((piece for piece in reversed(pieces) if not piece.isspace()), b"")
        if not last.rstrip().endswith(b"}"):
            return await self.read()
        try:
            return await self.read(min(WHOLE_SECONDS, self._idle_seconds))
        except TRANSPORT_ERRORS as error:
            if await offloaded(is_whole_json, b"".join(pieces)):
                return b""
            if not isinstance(error, TimeoutError):
                raise
        return await self.read()

    async def _receive(self, seconds: float | None) -> bytes:
        """Next bytes, still compressed; bytes that arrived before a failure come first."""
        if self._error is not None:
            raise self._error
        try:
            async with asyncio.timeout(self._idle_seconds if seconds is None else seconds):
                return await self._content.readany()
        except (aiohttp.ClientError, ConnectionError) as error:
            self._content.set_exception(None)  # type: ignore[arg-type]  # else nothing can be read
            self._error = error
            if remaining := self._content.read_nowait():
                return remaining
            raise

    @staticmethod
    def _end(inflater: Inflater) -> bytes:
        if not inflater.ended:
            raise aiohttp.ClientPayloadError("the compressed body has no end")
        return b""


def inflater_of(answer: aiohttp.ClientResponse) -> Inflater | None:
    """Decoder of an answer's body; None for a body that is not compressed.

    Raises GenerationError (UPSTREAM_NOT_UNDERSTOOD) for an encoding other than gzip and deflate.
    """
    words = [word.strip() for word in answer.headers.get("content-encoding", "").split(",")]
    encodings = [word for word in words if word.lower() not in ("", IDENTITY)]
    if not encodings:
        return None
    if len(encodings) > 1 or encodings[0].lower() not in _COMPRESSED:
        names = quoted(", ".join(encodings))
        raise not_understood(f"the content encoding {names}, not gzip or deflate", True)
    return Inflater(strict=False)


def begins_json(start: bytes) -> bool:
    """True for the start of a JSON body, false for that of a stream of events."""
    return start[:1] in (b"{", b"[")


def is_whole_json(text: bytes) -> bool:
    """True for a JSON text that is complete."""
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except msgspec.MsgspecError:  # A ValueError only in later versions of msgspec.
        return False
    return True
