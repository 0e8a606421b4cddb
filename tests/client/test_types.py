"""A user's file, for `mypy --strict`: the types of the clients without a cast or an ignore."""

from pathlib import Path
from typing import assert_type

import imagecall
from imagecall.client import (
    AsyncImageClient,
    FailedGeneration,
    Generation,
    Image,
    ImageClient,
    ImageEvent,
)
from imagecall.v1.image_response_pb2 import ImageResponse


def show(event: ImageEvent) -> None:
    for image in event.images:
        print(event.type, image.id, image.format, len(image.data), image.is_final)


def save(client: ImageClient, path: Path) -> Path | None:
    try:
        generation = client.generate("a fox", save_to=path, on_event=show, timeout=60)
    except FailedGeneration as failure:
        print(failure, failure.generation.images)
        return None
    except imagecall.ImagecallError as error:
        print(error.code, error.reason, error)
        return None
    assert_type(generation, Generation)
    return generation.image.path


def uses(client: ImageClient) -> None:
    assert_type(client.generate_image("a fox"), ImageResponse)
    for event in client.stream_image("a fox", metadata=[("x-request-id", "1")]):
        assert_type(event.images, tuple[Image, ...])
    for result in client.parse_calls(["{}", b"{}"]):
        if isinstance(result, imagecall.ConversionError):
            print(result.pointer)
        else:
            assert_type(result, imagecall.ImageGenerationCall)
    for text in client.format_calls([imagecall.ImageGenerationCall()]):
        assert_type(text, bytes | imagecall.ConversionError)


async def uses_asyncio() -> None:
    async with AsyncImageClient("127.0.0.1:1", token="secret") as client:
        assert_type(await client.generate("a fox", on_event=show), Generation)
        assert_type(await client.generate_image("a fox"), ImageResponse)
        async for event in client.stream_image("a fox"):
            assert_type(event, ImageEvent)
        async for result in client.parse_calls(["{}"]):
            assert_type(result, imagecall.ImageGenerationCall | imagecall.ConversionError)


def test_the_base_of_every_error_is_public() -> None:
    assert issubclass(FailedGeneration, imagecall.GenerationError)
    assert issubclass(imagecall.GenerationError, imagecall.ImagecallError)
    assert issubclass(imagecall.ConversionError, imagecall.ImagecallError)
