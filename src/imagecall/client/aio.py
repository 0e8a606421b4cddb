"""Client for asyncio, with the methods of the one that blocks."""

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import (
    AbstractContextManager,
    aclosing,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

import grpc
from google.protobuf.message import Message

from imagecall.client.arriving_items import sent
from imagecall.client.attempts import Attempts
from imagecall.client.collection import Collection, Generation
from imagecall.client.connections import Connections
from imagecall.client.conversions import BulkConversion, formatting, parsing
from imagecall.client.events import ImageEvent, event_of
from imagecall.client.requests import image_request, stream_request
from imagecall.client.settings import Client, Metadata
from imagecall.conversion.converter import Profile
from imagecall.errors import ConversionError, GenerationError
from imagecall.generation.assembly import reassemble
from imagecall.generation.stored_responses import costs_nothing
from imagecall.rpc.channel import aio_channel
from imagecall.rpc.final_status import final_status
from imagecall.v1.conversion_service_pb2_grpc import ConversionServiceStub
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall
from imagecall.v1.image_generation_service_pb2 import (
    CancelImageResponseRequest,
    CancelImageResponseResponse,
    DeleteImageResponseRequest,
    GenerateImageResponse,
    GetImageResponseRequest,
    GetImageResponseResponse,
)
from imagecall.v1.image_generation_service_pb2_grpc import ImageGenerationServiceStub
from imagecall.v1.image_request_pb2 import ImageRequest
from imagecall.v1.image_response_pb2 import ImageResponse

if TYPE_CHECKING:
    from imagecall.v1.conversion_service_pb2_grpc import ConversionServiceAsyncStub
    from imagecall.v1.image_generation_service_pb2_grpc import ImageGenerationServiceAsyncStub

_Item = TypeVar("_Item")
_Output = TypeVar("_Output")


class _Connection(NamedTuple):
    """Channel with its stubs, and the streams in progress."""

    channel: grpc.aio.Channel
    generation: "ImageGenerationServiceAsyncStub"
    conversion: "ConversionServiceAsyncStub"
    streams: set[Any]

    @contextmanager
    def stream(self, call: Any) -> Iterator[Any]:
        """Keeps a stream for `close` while it is read; cancels the stream at the end."""
        self.streams.add(call)
        try:
            yield call
        finally:
            self.streams.discard(call)
            call.cancel()

    async def close(self) -> None:
        """Cancels the calls. The channels of older versions of grpcio would not cancel streams."""
        for call in list(self.streams):
            call.cancel()
        await self.channel.close()


class AsyncImageClient(Client[grpc.aio.ClientInterceptor]):
    """Client for asyncio.

    Event loops may share a client: each has connections of its own. Every method raises an
    ImagecallError: GenerationError for a call that failed, ConversionError for a request that is
    refused; the iterators raise it as they are read.
    """

    _pools: dict[asyncio.AbstractEventLoop, Connections[_Connection, asyncio.LifoQueue[int]]]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections of this loop, cancels its calls and refuses further ones."""
        self._closed = True
        if pool := self._pools.pop(asyncio.get_running_loop(), None):
            for connection in pool.close():
                await connection.close()

    async def generate(
        self,
        request: ImageRequest | str,
        *,
        save_to: str | Path | None = None,
        on_event: Callable[[ImageEvent], object] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  # It is the deadline of the call.
        metadata: Metadata = (),
    ) -> Generation:
        """Generates images from a request or a prompt, and returns them when all are done.

        `save_to` is the file for the image, which is saved as it arrives; a second image is saved
        beside it as NAME-2.EXT. `on_event` receives each event and the end, after the images in it
        are saved. `timeout` is the deadline, in seconds.

        Raises FailedGeneration, with the images that arrived, for a response that failed or has no
        image; FileError for an image that cannot be saved.
        """
        images = Collection(save_to)
        async with aclosing(
            self.stream_image(request, timeout=timeout, metadata=metadata)
        ) as events:
            async for received in events:
                if images.saves(received):
                    event = await asyncio.to_thread(images.add, received)
                else:
                    event = images.add(received)
                if on_event:
                    on_event(event)
        return images.result()

    async def generate_image(
        self,
        request: ImageRequest | str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109  # It is the deadline of the call.
        metadata: Metadata = (),
        include_document: bool = False,
    ) -> ImageResponse:
        """Calls GenerateImage: returns the response of the API, whatever its status is."""
        message = image_request(request, include_document)
        answer: GenerateImageResponse = await self._unary(
            "GenerateImage", message, timeout, metadata
        )
        return answer.response

    async def stream_image(
        self,
        request: ImageRequest | str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109  # It is the deadline of the call.
        metadata: Metadata = (),
        include_document: bool = False,
        include_other_events: bool = False,
    ) -> AsyncGenerator[ImageEvent, None]:
        """Calls StreamImage: yields the events with their images, then the end.

        Chunks that are lost, repeated, reordered or cut raise ConversionError with the reason
        CHUNKS_DAMAGED (DATA_LOSS). Closing the generator cancels the call.
        """
        message = stream_request(request, include_document, include_other_events)
        attempts = Attempts(timeout)
        while True:
            try:
                async with self._call(attempts.seconds_left, metadata) as (connection, options):
                    streaming = connection.generation.StreamImage(message, **options)
                    with connection.stream(streaming) as call:
                        async with aclosing(attempts.noting_each(call)) as parts:
                            async for item in reassemble(parts, self._max_image_bytes):
                                yield event_of(item)
                        return
            except GenerationError as error:
                pause = attempts.pause_after(error)
            await asyncio.sleep(pause)

    async def get_response(
        self,
        response_id: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109  # It is the deadline of the call.
        metadata: Metadata = (),
        include_document: bool = False,
        include: Sequence[str] = (),
    ) -> ImageResponse:
        """Calls GetImageResponse: returns a stored response as it is now.

        A request with "background": true has such a response; its status is "queued" or
        "in_progress" until it ends. `include` names further parts, in the words of the API.
        """
        message = GetImageResponseRequest(
            id=response_id, include_document=include_document, include=include
        )
        answer: GetImageResponseResponse = await self._unary(
            "GetImageResponse", message, timeout, metadata, costs_nothing
        )
        return answer.response

    async def cancel_response(
        self,
        response_id: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109  # It is the deadline of the call.
        metadata: Metadata = (),
        include_document: bool = False,
    ) -> ImageResponse:
        """Calls CancelImageResponse: cancels a response in the background, and returns it."""
        message = CancelImageResponseRequest(id=response_id, include_document=include_document)
        answer: CancelImageResponseResponse = await self._unary(
            "CancelImageResponse", message, timeout, metadata, costs_nothing
        )
        return answer.response

    async def delete_response(
        self,
        response_id: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109  # It is the deadline of the call.
        metadata: Metadata = (),
    ) -> None:
        """Calls DeleteImageResponse: deletes a stored response."""
        message = DeleteImageResponseRequest(id=response_id)
        await self._unary("DeleteImageResponse", message, timeout, metadata, costs_nothing)

    def parse_calls(
        self,
        items: Iterable[str | bytes] | AsyncIterable[str | bytes],
        *,
        variant: str = "",
        profile: Profile = Profile.WIRE,
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> AsyncGenerator[ImageGenerationCall | ConversionError, None]:
        """Calls ConvertCalls: yields the message of each JSON item, or its error, in order.

        The items are read while the results are. An error of an item stops no other item.
        """
        return self._convert(
            parsing(variant, profile, self._max_image_bytes), items, timeout, metadata
        )

    def format_calls(
        self,
        calls: Iterable[ImageGenerationCall] | AsyncIterable[ImageGenerationCall],
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> AsyncGenerator[bytes | ConversionError, None]:
        """Calls ConvertCalls: yields the JSON of each message, or its error, in order.

        The inverse of `parse_calls`.
        """
        return self._convert(formatting(self._max_image_bytes), calls, timeout, metadata)

    async def _unary(
        self,
        method: str,
        request: Message,
        timeout: float | None,  # noqa: ASYNC109  # It is the deadline of the call.
        metadata: Metadata,
        cost: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> Any:
        """Calls a method of the generation service; repeats a call that failed at no cost.

        `cost` is the context of each attempt: `costs_nothing` for a method that no API bills.
        """
        attempts = Attempts(timeout)
        while True:
            try:
                with cost():
                    async with self._call(attempts.seconds_left, metadata) as (connection, options):
                        return await getattr(connection.generation, method)(request, **options)
            except GenerationError as error:
                pause = attempts.pause_after(error)
            await asyncio.sleep(pause)

    async def _convert(
        self,
        conversion: BulkConversion[_Item, _Output],
        items: Iterable[_Item] | AsyncIterable[_Item],
        timeout: float | None,  # noqa: ASYNC109  # It is the deadline of the call.
        metadata: Metadata,
    ) -> AsyncGenerator[_Output | ConversionError, None]:
        with conversion.checked(), costs_nothing():
            async with (
                self._call(timeout, metadata) as (connection, options),
                sent(conversion, items) as requests,
            ):
                converting = connection.conversion.ConvertCalls(requests, **options)
                with connection.stream(converting) as call, final_status(call):
                    async for response in call:
                        for output in conversion.results(response):
                            yield output

    @asynccontextmanager
    async def _call(
        self,
        timeout: float | None,  # noqa: ASYNC109  # It is the deadline of the call.
        metadata: Metadata,
    ) -> AsyncIterator[tuple[_Connection, dict[str, Any]]]:
        """Waits for a slot; yields its connection, and the options of the call."""
        end = None if timeout is None else monotonic() + timeout
        merged = self._call_metadata(metadata)
        pool = self._pool()
        try:
            async with asyncio.timeout(timeout):
                slot = await pool.slots.get()
        except TimeoutError:
            raise self._queue_error() from None
        try:
            if (connection := pool.get(slot)) is None:
                raise self._closed_error()
            left = None if end is None else end - monotonic()
            if left is not None and left <= 0:
                raise self._queue_error()
            yield connection, {"timeout": left, "metadata": merged}
        except grpc.RpcError as error:
            raise self._error(error) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if pool.closed and not (task and task.cancelling()):  # gRPC cancelled the call.
                raise self._closed_error(may_be_billed=True) from None
            raise
        finally:
            pool.slots.put_nowait(slot)

    def _pool(self) -> Connections[_Connection, asyncio.LifoQueue[int]]:
        """Connections of the running event loop."""
        self._check_open()
        loop = asyncio.get_running_loop()
        if (pool := self._pools.get(loop)) is None:
            for ended in [each for each in list(self._pools) if each.is_closed()]:
                self._pools.pop(ended, None)
            slots: asyncio.LifoQueue[int] = asyncio.LifoQueue()
            for slot in self._slots:
                slots.put_nowait(slot)
            pool = self._pools[loop] = Connections(self._connect, slots)
        return pool

    def _connect(self) -> _Connection:
        channel = aio_channel(self._target, self._credentials, self._options, self._interceptors)
        return _Connection(
            channel, ImageGenerationServiceStub(channel), ConversionServiceStub(channel), set()
        )
