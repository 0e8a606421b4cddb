"""Answers of both methods of a backend, from an answer that is made in this process."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from imagecall.access.budget import MEMORY
from imagecall.generation.backend import Part
from imagecall.generation.chunked_fields import image_fields
from imagecall.generation.composition import compose
from imagecall.generation.image_answer import Made
from imagecall.generation.offload import run_offloaded
from imagecall.generation.parts import parts_with_image
from imagecall.v1.image_generation_service_pb2 import (
    GenerateImageRequest,
    GenerateImageResponse,
)

_IMAGE_COPIES: Final = 2
"""Copies of an image while a whole response is composed."""


async def whole_response(
    answer: AsyncGenerator[Made, None], request: GenerateImageRequest
) -> GenerateImageResponse:
    """Composes the response of an answer to a request; closes the answer."""
    items, size = [], 0
    with MEMORY.get().part() as memory:
        async with aclosing(answer):
            async for made in answer:
                if made.is_final:
                    await memory.grow(_IMAGE_COPIES * made.image_bytes)
                    _put_image(made)
                    size += made.image_bytes
                items.append(made.message)
        return await run_offloaded(size, compose, items, request)


async def parts_of(
    answer: AsyncGenerator[Made, None], *, other_events: bool
) -> AsyncGenerator[Part, None]:
    """Yields the parts of an answer; closes the answer.

    Events that concern no image call are left out unless `other_events`.
    """
    with MEMORY.get().part() as memory:
        async with aclosing(answer):
            async for made in answer:
                if made.is_other and not other_events:
                    continue
                await memory.grow(made.image_bytes - memory.size)
                for part in parts_with_image(made.message, made.image):
                    yield part


def _put_image(made: Made) -> None:
    """Puts the image into its message."""
    if made.image is None:
        return
    for place in image_fields(made.message):
        place.value = made.image
