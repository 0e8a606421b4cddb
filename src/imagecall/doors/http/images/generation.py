"""Generation of the images of one request: a call to the backend for each, all at once.

The first failure ends all calls.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, TypeAlias

from imagecall.conversion.converter import EVENTS
from imagecall.doors.http.answers import http_status_of
from imagecall.doors.http.calls import Calls
from imagecall.doors.http.event_stream import Arrived
from imagecall.doors.http.images.pictures import Picture, no_image, partial_picture, picture_of
from imagecall.doors.http.images.request import in_images_api
from imagecall.doors.http.output_items import OutputItem, calls_of
from imagecall.errors import ConversionError, GenerationError, ImagecallError, damaged_answer
from imagecall.generation.call_context import CALL, request_size
from imagecall.generation.offload import run_offloaded
from imagecall.generation.own_task import merged
from imagecall.json.pieces import under
from imagecall.v1.image_generation_service_pb2 import (
    GenerateImageRequest,
    StreamEnd,
    StreamImageRequest,
)
from imagecall.v1.image_request_pb2 import ImageRequest
from imagecall.v1.image_response_pb2 import ImageResponse
from imagecall.v1.stream_event_pb2 import StreamEvent

_PARTIAL_IMAGE: Final = "image_gen_call_partial_image_event"
_ITEM_DONE: Final = "output_item_done_event"
_IDEMPOTENCY_KEY: Final = "idempotency-key"
_SENT_AGAIN: Final = frozenset({408, 409, 429})
_SERVER_ERROR: Final = 500


@dataclass(frozen=True)
class Done:
    """Finished call: its images, at least one, and its response."""

    pictures: list[Picture]
    response: ImageResponse


Progress: TypeAlias = tuple[int, Picture | Done]
"""Partial image, or the result, of the call with this number."""


async def generate_all(calls: Calls, request: ImageRequest, count: int) -> list[Done]:
    """Returns the results of `count` calls. Raises ImagecallError."""
    with calls.admission.further(count - 1), _errors_of(count):
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(_generate(calls, request, number)) for number in range(count)
                ]
        except ExceptionGroup as errors:  # Of a TaskGroup: its first error ended the others.
            raise errors.exceptions[0] from None
        return [task.result() for task in tasks]


async def stream_all(
    calls: Calls, request: ImageRequest, count: int
) -> AsyncGenerator[Progress, None]:
    """Yields the progress of `count` calls, as it comes. Raises ImagecallError."""
    with calls.admission.further(count - 1), _errors_of(count):
        streams = [_stream(calls, request, number) for number in range(count)]
        # A task of its own costs an iteration of the event loop for each item.
        items = streams[0] if count == 1 else merged(streams)
        async with aclosing(items):
            async for item in items:
                yield item


@contextmanager
def _errors_of(count: int) -> Iterator[None]:
    """Changes errors: their pointers, and those of one call if others may already be billed."""
    try:
        yield
    except GenerationError as error:
        status = http_status_of(error)
        if count > 1 and (status in _SENT_AGAIN or status >= _SERVER_ERROR):
            error.may_be_billed = True
        raise in_images_api(error) from None
    except ImagecallError as error:
        raise in_images_api(error) from None


async def _generate(calls: Calls, request: ImageRequest, number: int) -> Done:
    _set_idempotency_key(number)
    wrap = partial(GenerateImageRequest, request=request)  # It copies the request.
    answer = await calls.generate(await run_offloaded(request_size(request), wrap))
    response = answer.message.response
    items = list(calls_of(response, under(answer.images, "response")))
    return await run_offloaded(answer.size, _done, items, response)


async def _stream(
    calls: Calls, request: ImageRequest, number: int
) -> AsyncGenerator[Progress, None]:
    """Yields the partial images, then the result."""
    _set_idempotency_key(number)
    items: list[OutputItem] = []
    wrap = partial(StreamImageRequest, request=request)  # It copies the request.
    asked = await run_offloaded(request_size(request), wrap)
    async with aclosing(calls.stream(asked)) as stream:
        async for arrived in stream:
            if isinstance(arrived.item, StreamEnd):
                response = arrived.item.response
                items += calls_of(response, under(arrived.apart, "response"))
                size = sum(item.call.ByteSize() for item in items)
                yield number, await run_offloaded(size, _done, items, response)
                items = []
            elif (name := EVENTS.chosen(arrived.item).name) == _PARTIAL_IMAGE:
                size = arrived.item.ByteSize()
                picture = await run_offloaded(size, _partial, arrived)
                if picture is not None:
                    yield number, picture
            elif name == _ITEM_DONE:
                item = OutputItem(
                    arrived.item.output_item_done_event.item,
                    under(arrived.apart, f"{_ITEM_DONE}.item"),
                )
                items += [item] if item.is_image else []


def _done(items: Iterable[OutputItem], response: ImageResponse) -> Done:
    """Returns the result of a call. Raises GenerationError if the call has no image."""
    with _readable():
        pictures = [picture for item in items if (picture := picture_of(item)) is not None]
        if not pictures:
            raise no_image(response, items)
    return Done(pictures, response)


def _partial(arrived: Arrived) -> Picture | None:
    assert isinstance(arrived.item, StreamEvent)
    with _readable():
        return partial_picture(arrived.item, arrived.apart)


@contextmanager
def _readable() -> Iterator[None]:
    """Raises GenerationError (UPSTREAM_DAMAGED) for an answer that does not convert to JSON."""
    try:
        yield
    except ConversionError as error:
        raise damaged_answer(str(error)) from None


def _set_idempotency_key(number: int) -> None:
    """Gives a further call an Idempotency-Key of its own, if the caller sent one.

    With the same key an API would return the first image again.
    """
    if number:
        call = CALL.get()
        metadata = tuple(
            (name, f"{value!s}-{number}" if name.lower() == _IDEMPOTENCY_KEY else value)
            for name, value in call.metadata
        )
        CALL.set(replace(call, metadata=metadata))
