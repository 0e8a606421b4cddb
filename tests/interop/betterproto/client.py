"""Calls of imagecall, with betterproto and grpclib."""

# README: begin
import hashlib
import os
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from contextlib import aclosing
from typing import Any, cast

from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from grpclib import GRPCError
from grpclib.client import Channel
from grpclib.events import SendRequest, listen

from imagecall.v1 import betterproto as imagecall

BATCH = 65_536
"""Bytes of a message with many items."""


def connect(address: str) -> Channel:
    """Calls over TLS, with a token, if the environment names a CA file."""
    host, _, port = address.rpartition(":")
    authorities = os.environ.get("IMAGECALL_TLS_CA")
    if authorities is None:
        return Channel(host, int(port))
    tls = ssl.create_default_context(cafile=authorities)  # without cafile: CAs of the system
    tls.set_alpn_protocols(["h2"])
    channel = Channel(host, int(port), ssl=tls)

    async def add_token(call: SendRequest) -> None:
        call.metadata["authorization"] = f"Bearer {os.environ['IMAGECALL_TOKEN']}"

    listen(channel, SendRequest, add_token)
    return channel


async def stream_image(
    client: imagecall.ImageGenerationServiceStub, request: imagecall.ImageRequest
) -> bytes:
    """Returns the image, of any size. Raises GRPCError, TimeoutError and ValueError."""
    value, image = Value(), b""
    end: imagecall.StreamEnd | None = None
    responses = client.stream_image(imagecall.StreamImageRequest(request=request))
    async with _closing(responses):  # ends the call where an exception is raised
        async for response in responses:
            match response:
                case imagecall.StreamImageResponse(chunk=chunk):
                    whole = value.add(chunk)
                    if chunk.end.final_image:  # not a partial image, nor a long text
                        image = whole or b""
                    continue
                case imagecall.StreamImageResponse(end=last):
                    end = last  # or an event, which reports progress
            value.require_complete()
    if end is None:
        raise ValueError("the stream has no end")
    if end.ending is not imagecall.StreamEnding.COMPLETED or not image:
        raise ValueError(f"no image: {end.ending.name}: {_reason(end.response)}")
    return image


def _closing(responses: AsyncIterator[Any]) -> aclosing[AsyncGenerator[Any]]:
    return aclosing(cast(AsyncGenerator[Any], responses))  # by its type, it could not be closed


def _reason(response: imagecall.ImageResponse) -> str:
    reasons = (response.error.message, response.incomplete_details.reason)
    return next(filter(None, (*reasons, response.refusal, response.output_text)), "")


async def convert_lines(
    client: imagecall.ConversionServiceStub, lines: Iterable[bytes]
) -> AsyncIterator[imagecall.ConversionResult]:
    """Converts items, a line of JSON each.

    The lines are sent as bytes, in a chunk each: one that is not UTF-8 is refused alone. A str
    cannot hold it.
    """
    value = Value()
    responses = client.convert_calls(_requests(lines))
    async with _closing(responses):
        async for response in responses:
            for result in response.results:
                match result:
                    case imagecall.ConversionResult(call_chunk=chunk):
                        whole = value.add(chunk)
                        if whole is None:
                            continue
                        result.call = imagecall.ImageGenerationCall().parse(whole)
                yield result
    value.require_complete()


def _requests(lines: Iterable[bytes]) -> Iterator[imagecall.ConvertCallsRequest]:
    conversions, size = [], 0
    for line in lines:
        end = imagecall.ChunkEnd(size=len(line), sha256=hashlib.sha256(line).digest())
        chunk = imagecall.Chunk(data=line, end=end)
        conversions.append(imagecall.Conversion(json_chunk=chunk))
        size += len(line)
        if size >= BATCH:
            yield imagecall.ConvertCallsRequest(conversions=conversions)
            conversions, size = [], 0
    yield imagecall.ConvertCallsRequest(conversions=conversions)


class Value:
    """Part of a value that has arrived."""

    def __init__(self) -> None:
        self._data = bytearray()

    def add(self, chunk: imagecall.Chunk) -> bytes | None:
        """Returns the whole value with its last chunk, and None before."""
        if chunk.offset != len(self._data):
            raise ValueError("a chunk is lost")
        self._data += chunk.data
        if not chunk.end:
            return None
        whole = bytes(self._data)
        self._data.clear()
        if (chunk.end.size, chunk.end.sha256) != (len(whole), hashlib.sha256(whole).digest()):
            raise ValueError("the value is damaged")
        return whole

    def require_complete(self) -> None:
        if self._data:
            raise ValueError("a chunk is lost")


def explain(error: Exception) -> str:
    """Returns the message of an error, with the details that came with it."""
    if not isinstance(error, GRPCError):
        return str(error) or type(error).__name__
    text = f"{error.status.name}: {error.message}"
    for detail in error.details or ():
        match detail:
            case ErrorInfo():
                text += f", reason {detail.reason}"
            case BadRequest():
                text += "".join(f", at {each.field}" for each in detail.field_violations)
            case RetryInfo():
                text += f", retry after {detail.retry_delay.seconds} s"
    return text


# README: end
