"""Conversions in bulk: items into the requests of ConvertCalls, and results out of its responses.

The server answers each item at its place: a result, or an error that stops no other item.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final, Generic, TypeVar

from imagecall.conversion.batch import error_in_place
from imagecall.conversion.converter import Profile
from imagecall.errors import ConversionError
from imagecall.sizes import CHUNK
from imagecall.v1.conversion_service_pb2 import (
    Conversion,
    ConversionResult,
    ConvertCallsRequest,
    ConvertCallsResponse,
)
from imagecall.v1.conversion_service_pb2 import Profile as ProfileNumber
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall
from imagecall.wire.chunks import Assembly, RawChunk, damaged, split
from imagecall.wire.cost import parsed

_ITEMS: Final = 200
"""Most items of a request. A larger number is hardly faster, and its first result comes later."""

_CHUNK: Final = "_chunk"

_Item = TypeVar("_Item")
_Output = TypeVar("_Output")


class BulkConversion(Generic[_Item, _Output]):
    """One stream of conversions: the requests for its items, and the results in their order.

    An exception of the iterable is raised after the results of the items before it.
    """

    def __init__(
        self,
        convert: Callable[[_Item], Iterator[Conversion]],
        output: str,
        read: Callable[[ConversionResult], _Output],
        read_chunks: Callable[[bytes], _Output],
        max_bytes: int,
    ) -> None:
        self._convert = convert
        self._output = output
        self._read = read
        self._read_chunks = read_chunks
        self._max_bytes = max_bytes
        self._assembly: Assembly | None = None
        self._sent = 0
        self._answered = 0
        self._all_sent = False
        self._failure: BaseException | None = None

    def requests(self, items: Iterable[_Item]) -> Iterator[ConvertCallsRequest]:
        """Yields the requests for the items."""
        batch = _Batch()
        with self._reading():
            for item in items:
                yield from batch.add(self._convert(item))
                self._sent += 1
        yield from batch.rest()
        self._all_sent = True

    async def requests_of(
        self, items: AsyncIterable[_Item]
    ) -> AsyncGenerator[ConvertCallsRequest, None]:
        """Yields the requests for items that arrive."""
        batch = _Batch()
        with self._reading():
            async for item in items:
                for request in batch.add(self._convert(item)):
                    yield request
                self._sent += 1
        for request in batch.rest():
            yield request
        self._all_sent = True

    def results(self, response: ConvertCallsResponse) -> Iterator[_Output | ConversionError]:
        """Yields the results of a response. Raises ConversionError: CHUNKS_DAMAGED."""
        for result in response.results:
            if result.index != self._answered:
                message = f"the result of item {result.index:,} comes instead of {self._answered:,}"
                raise damaged(message)
            output = self._result(result)
            if output is not None:
                self._answered += 1
                yield output

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Keeps an exception of the iterable for `checked`, and ends the requests.

        gRPC would log the exception, and the call might never end.
        """
        try:
            yield
        except GeneratorExit:  # gRPC reads no more requests.
            raise
        except BaseException as failure:  # Also SystemExit, which is the caller's.
            if _is_cancelled(failure):  # By gRPC, as the call has ended.
                raise
            self._failure = failure

    @contextmanager
    def checked(self) -> Iterator[None]:
        """Context of the call.

        Raises the exception of the iterable, however the call ended, and ConversionError for a gap.
        """
        try:
            yield
        except Exception:  # Of any failure of the call, that of the items is the cause.
            if self._failure is None:
                raise
        if self._failure is not None:
            raise self._failure
        if not self._all_sent or self._answered < self._sent:
            raise damaged(f"the call ended after {self._answered:,} results: items are left")
        if self._answered > self._sent:
            raise damaged(f"{self._answered:,} results came for {self._sent:,} items")

    def _result(self, result: ConversionResult) -> _Output | ConversionError | None:
        """Returns the output of a result; None for a chunk before the last one."""
        kind = result.WhichOneof("output") or ""
        if kind == self._output + _CHUNK:
            return self._add(RawChunk.of(getattr(result, kind)))
        if self._assembly is not None or kind not in ("error", self._output):
            raise damaged(f"the result of item {result.index:,} has {kind or 'nothing'} in it")
        return error_in_place(result.error) if kind == "error" else self._read(result)

    def _add(self, chunk: RawChunk) -> _Output | None:
        self._assembly = self._assembly or Assembly(self._max_bytes)
        self._assembly.add(chunk)
        if self._assembly.end is None:
            return None
        whole, self._assembly = self._assembly.whole(), None
        return self._read_chunks(whole)


def parsing(
    variant: str, profile: Profile, max_bytes: int
) -> BulkConversion[str | bytes, ImageGenerationCall]:
    """Conversion of JSON items to messages."""
    number = ProfileNumber.Value(f"PROFILE_{profile.name}")

    def convert(item: str | bytes) -> Iterator[Conversion]:
        data = item.encode(errors="surrogatepass") if isinstance(item, str) else bytes(item)
        if len(data) <= CHUNK and _is_utf8(data):
            yield Conversion(json=data.decode(), variant=variant, profile=number)
            return
        for chunk in split(data):  # Bytes that are no UTF-8 are an error of their item only here.
            yield Conversion(json_chunk=chunk, variant=variant, profile=number)

    return BulkConversion(convert, "call", lambda result: result.call, _call, max_bytes)


def formatting(max_bytes: int) -> BulkConversion[ImageGenerationCall, bytes]:
    """Conversion of messages to JSON items."""

    def convert(call: ImageGenerationCall) -> Iterator[Conversion]:
        if call.ByteSize() <= CHUNK:
            yield Conversion(call=call)
            return
        for chunk in split(call.SerializeToString()):
            yield Conversion(call_chunk=chunk)

    return BulkConversion(convert, "json", lambda result: result.json.encode(), bytes, max_bytes)


class _Batch:
    """Conversions that wait for the rest of their request."""

    def __init__(self) -> None:
        self._request = ConvertCallsRequest()
        self._size = 0

    def add(self, conversions: Iterable[Conversion]) -> Iterator[ConvertCallsRequest]:
        """Adds conversions, and yields the requests that are full."""
        for conversion in conversions:
            self._request.conversions.append(conversion)
            self._size += conversion.ByteSize()
            if self._size >= CHUNK or len(self._request.conversions) == _ITEMS:
                yield from self.rest()

    def rest(self) -> Iterator[ConvertCallsRequest]:
        """Yields the last request, if there are conversions in it."""
        request, self._request, self._size = self._request, ConvertCallsRequest(), 0
        if request.conversions:
            yield request


def _is_cancelled(failure: BaseException) -> bool:
    """True if the exception is the cancellation of the task that runs."""
    if not isinstance(failure, asyncio.CancelledError):
        return False
    try:
        task = asyncio.current_task()
    except RuntimeError:  # A thread without an event loop.
        return False
    return task is not None and task.cancelling() > 0


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _call(data: bytes) -> ImageGenerationCall:
    return parsed(ImageGenerationCall, data)
