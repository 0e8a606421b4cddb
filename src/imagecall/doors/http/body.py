"""Bodies of requests, plain or compressed, read within a limit."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request

from imagecall.access.budget import FACTOR, MEMORY
from imagecall.doors.http.errors import JSON
from imagecall.generation.fairness import fair_turn
from imagecall.json.text import too_large
from imagecall.rpc.inflater import Inflater
from imagecall.sizes import PIECE

_IDENTITY: Final = "identity"
_CODINGS: Final = ("gzip", "x-gzip", "deflate")
_ACCEPTED: Final = {"Accept-Encoding": "gzip, deflate"}
"""Header of the answer to an unsupported coding: RFC 9110, section 12.5.3."""


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Reads a JSON body, and decodes its content coding.

    Raises HTTPException: 415 for another type; and as `arriving_body` does.
    """
    if media_type_of(request) != JSON:
        raise HTTPException(415, f"the Content-Type must be {JSON}")
    body = bytearray()
    async with aclosing(arriving_body(request, max_bytes)) as pieces:
        async for piece in pieces:
            body += piece
    return bytes(body)


def media_type_of(request: Request) -> str:
    """Returns the media type of a body, in lower case and without its parameters."""
    return _word(request.headers.get("content-type", "").partition(";")[0])


async def arriving_body(request: Request, max_bytes: int) -> AsyncGenerator[bytes, None]:
    """Yields the pieces of a body as they arrive, with its content coding decoded.

    Raises ConversionError: TOO_LARGE, as soon as the body exceeds the limit; GenerationError:
    TOO_MANY_CALLS, if the budget of memory has no room; HTTPException: 400 for a damaged body, 415
    for another coding.
    """
    inflater = _inflater(request)
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > max_bytes:
        raise too_large(int(length), max_bytes)
    size = 0
    memory = MEMORY.get()
    async with aclosing(_decoded(request, inflater) if inflater else request.stream()) as pieces:
        async for piece in pieces:
            size += len(piece)
            if size > max_bytes:
                raise too_large(size, max_bytes)
            memory.add(FACTOR * len(piece))
            yield piece


async def _decoded(request: Request, inflater: Inflater) -> AsyncGenerator[bytes, None]:
    """Yields the decoded pieces of a compressed body, with turns for other work between them."""
    try:
        async for arrived in request.stream():
            for piece in inflater.pieces(arrived):
                yield piece
                await (fair_turn() if len(piece) >= PIECE else asyncio.sleep(0))
        if not inflater.ended:
            raise ValueError("it ends in the middle")
    except ValueError as error:
        raise HTTPException(400, f"the compressed body is damaged: {error}") from None


def _inflater(request: Request) -> Inflater | None:
    """Returns the decoder of a body; None for a body that is not compressed."""
    words = ",".join(request.headers.getlist("content-encoding")).split(",")
    codings = [word for word in map(_word, words) if word not in ("", _IDENTITY)]
    if not codings:
        return None
    if len(codings) > 1 or codings[0] not in _CODINGS:
        message = "the Content-Encoding must be gzip, deflate or identity, and only one"
        raise HTTPException(415, message, _ACCEPTED)
    return Inflater(strict=True)


def _word(text: str) -> str:
    return text.strip().lower()
