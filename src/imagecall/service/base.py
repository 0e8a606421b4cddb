"""Base of a service: a generator of images becomes the answers of ImageGenerationService."""

import asyncio
import inspect
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from contextlib import aclosing
from functools import partial
from typing import Any, Final, TypeVar, cast

from imagecall.access.budget import MEMORY
from imagecall.backends.made_answer import parts_of, whole_response
from imagecall.errors import ConversionError, pointer_to, quoted
from imagecall.generation.backend import Part
from imagecall.generation.call_context import request_size
from imagecall.generation.image_answer import Answer, Made
from imagecall.generation.image_events import Event
from imagecall.generation.offload import run_offloaded
from imagecall.generation.own_task import in_own_task
from imagecall.generation.request import extra_values, request_to_json
from imagecall.service.options import image_options
from imagecall.service.threads import in_threads
from imagecall.v1.image_generation_service_pb2 import (
    GenerateImageRequest,
    GenerateImageResponse,
    StreamImageRequest,
)
from imagecall.v1.image_request_pb2 import ImageRequest

_T = TypeVar("_T")

_QUIET_SECONDS: Final = 1.0
"""Time after which the stream of an answer begins, even if the generator has yielded nothing.

A failure before that time is the answer's status, at the HTTP door too.
"""

_BACKGROUND: Final = "background"
_REQUEST_COPIES: Final = 2
"""Copies of a request while it is checked."""


class ImageService(ABC):
    """Image service of which a subclass writes one method. It is a `Backend`."""

    @abstractmethod
    def generate(self, request: ImageRequest) -> AsyncIterator[Event] | Iterator[Event]:
        """Generates the images of a request, whose prompt is not blank; yields events.

        The method is an async generator; or a plain one, which runs in a thread. To refuse a
        request, or to fail, it raises GenerationError; any other exception becomes INTERNAL,
        without its text. A call that is cancelled, or past its deadline, ends the generator at its
        await, or a plain one at its next yield.
        """

    async def close(self) -> None:  # noqa: B027  # A service may have nothing to release.
        """Releases what the service holds, when `imagecall serve` stops. By default nothing."""

    async def generate_image(self, request: GenerateImageRequest) -> GenerateImageResponse:
        """Generates images and returns them when all are done."""
        answer = self._answer(request.request)
        return await whole_response(answer, request)

    async def stream_image(self, request: StreamImageRequest) -> AsyncGenerator[Part, None]:
        """Generates images and yields the events of the generation."""
        answer = self._answer(request.request)
        async with aclosing(parts_of(answer, other_events=request.include_other_events)) as parts:
            async for part in parts:
                yield part

    async def _answer(self, request: ImageRequest) -> AsyncGenerator[Made, None]:
        await _check(request)
        answer = Answer(request.model, image_options(request).partial_images or 0)
        async with aclosing(in_own_task(_events(self.generate(request)))) as events:
            async with aclosing(_with_quiet_start(events)) as events_or_none:
                async for event in events_or_none:
                    for made in answer.beginning() if event is None else answer.of(event):
                        yield made
            for made in answer.end():
                yield made


async def _check(request: ImageRequest) -> None:
    """Raises ConversionError for a request that no API would take, or that wants a later answer."""
    size = request_size(request)
    with MEMORY.get().part() as part:
        part.add(_REQUEST_COPIES * size)
        await run_offloaded(size, partial(request_to_json, stream=False), request)
    if extra_values(request).get(_BACKGROUND, b"null") not in (b"null", b"false"):
        text = "the service answers at once, not in the background: omit the key"
        raise ConversionError(
            "UNSUPPORTED", pointer_to(_BACKGROUND), f"{quoted(_BACKGROUND)}: {text}"
        )


def _events(generator: Any) -> AsyncGenerator[Event, None]:
    """Returns what `generate` returned as an async generator. Raises TypeError."""
    if inspect.isasyncgen(generator):
        return cast("AsyncGenerator[Event, None]", generator)
    if inspect.isgenerator(generator):
        return in_threads(cast("Generator[Event, None, None]", generator))
    if inspect.iscoroutine(generator):
        generator.close()
    raise TypeError(f"generate() returned {type(generator).__name__}; write it with yield")


async def _with_quiet_start(events: AsyncGenerator[_T, None]) -> AsyncGenerator[_T | None, None]:
    """Yields the events; before them None, if the first one takes longer than _QUIET_SECONDS."""
    first = asyncio.ensure_future(anext(events, None))
    try:
        await asyncio.wait({first}, timeout=_QUIET_SECONDS)
        if not first.done():
            yield None
        if (event := await first) is None:
            return
        yield event
    finally:
        if not first.done():
            first.cancel()
            await asyncio.wait({first})
    async for event in events:
        yield event
