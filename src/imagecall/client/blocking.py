"""Client whose calls block the thread: for threads, notebooks, Flask, Celery."""

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from queue import Empty, LifoQueue
from time import monotonic, sleep
from typing import Any, NamedTuple, Self, TypeAlias, TypeVar

import grpc
from google.protobuf.message import Message

from imagecall.client.attempts import Attempts
from imagecall.client.collection import Collection, Generation
from imagecall.client.connections import Connections
from imagecall.client.conversions import BulkConversion, formatting, parsing
from imagecall.client.events import ImageEvent, event_of
from imagecall.client.requests import image_request, stream_request
from imagecall.client.settings import Client, Metadata
from imagecall.conversion.converter import Profile
from imagecall.errors import ConversionError, GenerationError
from imagecall.generation.assembly import reassemble_blocking
from imagecall.generation.stored_responses import costs_nothing
from imagecall.rpc.channel import thread_channel
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

Interceptor: TypeAlias = (
    grpc.UnaryUnaryClientInterceptor
    | grpc.UnaryStreamClientInterceptor
    | grpc.StreamStreamClientInterceptor
)


_Item = TypeVar("_Item")
_Output = TypeVar("_Output")


class _Connection(NamedTuple):
    """Channel with its stubs."""

    channel: grpc.Channel
    generation: ImageGenerationServiceStub
    conversion: ConversionServiceStub


class ImageClient(Client[Interceptor]):
    """Client whose calls block the thread.

    Threads may share a client. A process that forks may share it too: the child opens connections
    of its own. Every method raises an ImagecallError: GenerationError for a call that failed,
    ConversionError for a request that is refused; the iterators raise it as they are read.
    """

    _pools: dict[int, Connections[_Connection, LifoQueue[int]]]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections, cancels calls in progress and refuses further ones."""
        self._closed = True
        if pool := self._pools.pop(os.getpid(), None):
            for connection in pool.close():
                connection.channel.close()

    def generate(
        self,
        request: ImageRequest | str,
        *,
        save_to: str | Path | None = None,
        on_event: Callable[[ImageEvent], object] | None = None,
        timeout: float | None = None,
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
        with closing(self.stream_image(request, timeout=timeout, metadata=metadata)) as events:
            for event in map(images.add, events):
                if on_event:
                    on_event(event)
        return images.result()

    def generate_image(
        self,
        request: ImageRequest | str,
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
        include_document: bool = False,
    ) -> ImageResponse:
        """Calls GenerateImage: returns the response of the API, whatever its status is."""
        message = image_request(request, include_document)
        answer: GenerateImageResponse = self._unary("GenerateImage", message, timeout, metadata)
        return answer.response

    def stream_image(
        self,
        request: ImageRequest | str,
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
        include_document: bool = False,
        include_other_events: bool = False,
    ) -> Generator[ImageEvent, None, None]:
        """Calls StreamImage: yields the events with their images, then the end.

        Chunks that are lost, repeated, reordered or cut raise ConversionError with the reason
        CHUNKS_DAMAGED (DATA_LOSS). Closing the generator cancels the call.
        """
        message = stream_request(request, include_document, include_other_events)
        attempts = Attempts(timeout)
        while True:
            try:
                with self._call(attempts.seconds_left, metadata) as (connection, options):
                    call = connection.generation.StreamImage(message, **options)
                    try:
                        parts = attempts.noting(call)
                        yield from map(event_of, reassemble_blocking(parts, self._max_image_bytes))
                        return
                    finally:
                        call.cancel()
            except GenerationError as error:
                pause = attempts.pause_after(error)
            sleep(pause)

    def get_response(
        self,
        response_id: str,
        *,
        timeout: float | None = None,
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
        answer: GetImageResponseResponse = self._unary(
            "GetImageResponse", message, timeout, metadata, costs_nothing
        )
        return answer.response

    def cancel_response(
        self,
        response_id: str,
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
        include_document: bool = False,
    ) -> ImageResponse:
        """Calls CancelImageResponse: cancels a response in the background, and returns it."""
        message = CancelImageResponseRequest(id=response_id, include_document=include_document)
        answer: CancelImageResponseResponse = self._unary(
            "CancelImageResponse", message, timeout, metadata, costs_nothing
        )
        return answer.response

    def delete_response(
        self,
        response_id: str,
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> None:
        """Calls DeleteImageResponse: deletes a stored response."""
        message = DeleteImageResponseRequest(id=response_id)
        self._unary("DeleteImageResponse", message, timeout, metadata, costs_nothing)

    def parse_calls(
        self,
        items: Iterable[str | bytes],
        *,
        variant: str = "",
        profile: Profile = Profile.WIRE,
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> Generator[ImageGenerationCall | ConversionError, None, None]:
        """Calls ConvertCalls: yields the message of each JSON item, or its error, in order.

        gRPC iterates over the items in a thread of its own, as the results are read. An error of an
        item stops no other item.
        """
        return self._convert(
            parsing(variant, profile, self._max_image_bytes), items, timeout, metadata
        )

    def format_calls(
        self,
        calls: Iterable[ImageGenerationCall],
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> Generator[bytes | ConversionError, None, None]:
        """Calls ConvertCalls: yields the JSON of each message, or its error, in order.

        The inverse of `parse_calls`.
        """
        return self._convert(formatting(self._max_image_bytes), calls, timeout, metadata)

    def _unary(
        self,
        method: str,
        request: Message,
        timeout: float | None,
        metadata: Metadata,
        cost: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> Any:
        """Calls a method of the generation service; repeats a call that failed at no cost.

        `cost` is the context of each attempt: `costs_nothing` for a method that no API bills.
        """
        attempts = Attempts(timeout)
        while True:
            try:
                with cost(), self._call(attempts.seconds_left, metadata) as (connection, options):
                    return getattr(connection.generation, method)(request, **options)
            except GenerationError as error:
                pause = attempts.pause_after(error)
            sleep(pause)

    def _convert(
        self,
        conversion: BulkConversion[_Item, _Output],
        items: Iterable[_Item],
        timeout: float | None,
        metadata: Metadata,
    ) -> Generator[_Output | ConversionError, None, None]:
        with (
            conversion.checked(),
            costs_nothing(),
            self._call(timeout, metadata) as (connection, options),
        ):
            call = connection.conversion.ConvertCalls(conversion.requests(items), **options)
            try:
                for response in call:
                    yield from conversion.results(response)
            finally:
                call.cancel()

    @contextmanager
    def _call(
        self, timeout: float | None, metadata: Metadata
    ) -> Iterator[tuple[_Connection, dict[str, Any]]]:
        """Waits for a slot; yields its connection, and the options of the call."""
        end = None if timeout is None else monotonic() + timeout
        merged = self._call_metadata(metadata)
        pool = self._pool()
        try:
            slot = pool.slots.get(timeout=timeout)
        except (Empty, ValueError):  # ValueError: the timeout is negative.
            raise self._queue_error() from None
        try:
            if (connection := pool.get(slot)) is None:
                raise self._closed_error()
            left = None if end is None else end - monotonic()
            if left is not None and left <= 0:
                raise self._queue_error()
            yield connection, {"timeout": left, "metadata": merged}
        except grpc.RpcError as error:
            if pool.closed and error.code() is grpc.StatusCode.CANCELLED:
                raise self._closed_error(may_be_billed=True) from None
            raise self._error(error) from None
        except ValueError:
            if pool.closed:  # Between the two lines above.
                raise self._closed_error() from None
            raise
        finally:
            pool.slots.put(slot)

    def _pool(self) -> Connections[_Connection, LifoQueue[int]]:
        """Connections of this process."""
        self._check_open()
        if (pool := self._pools.get(os.getpid())) is None:
            slots: LifoQueue[int] = LifoQueue()
            for slot in self._slots:
                slots.put(slot)
            pool = self._pools.setdefault(os.getpid(), Connections(self._connect, slots))
        return pool

    def _connect(self) -> _Connection:
        channel = thread_channel(self._target, self._credentials, self._options)
        if self._interceptors:
            channel = grpc.intercept_channel(channel, *self._interceptors)
        return _Connection(
            channel, ImageGenerationServiceStub(channel), ConversionServiceStub(channel)
        )
