"""Collection of the images of a stream, each of which may be saved as it arrives."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from imagecall.client.events import Image, ImageEvent, calls_of
from imagecall.errors import GenerationError, cut_by_bytes
from imagecall.generation.ending import failure_of, model_lines
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall
from imagecall.v1.image_generation_service_pb2 import StreamEnd, StreamEnding
from imagecall.v1.image_response_pb2 import ImageResponse

_LONGEST_SENTENCE: Final = 1000
"""Longest sentence about a failure, in bytes: models may write pages."""


@dataclass(frozen=True, repr=False)
class Generation:
    """Result of a generation. Its repr has the sizes of the images.

    Attributes:
        images: finished images, in the order of their arrival.
        calls: the image generation calls, to send back in `ImageRequest.input_items`.
        response: the response without those calls: its id, model, usage, text, ...
    """

    images: tuple[Image, ...]
    calls: tuple[ImageGenerationCall, ...]
    response: ImageResponse

    def __repr__(self) -> str:
        return f"Generation(id={self.response.id!r}, images={self.images!r})"

    @property
    def image(self) -> Image:
        """The first image; `generate` returns at least one."""
        return self.images[0]


class FailedGeneration(GenerationError):
    """Response that failed, is incomplete, or has no image. It may cost money all the same.

    Attributes:
        generation: the images that arrived, which may be none, and the response.
    """

    def __init__(self, message: str, generation: Generation) -> None:
        error = generation.response.error
        metadata = {"upstream_code": error.code} if error.code else {}
        super().__init__("", message, code="ABORTED", may_be_billed=True, metadata=metadata)
        self.generation = generation


class Collection:
    """Finished images of a stream.

    Args:
        save_to: file for the first image; the second is saved beside it as NAME-2.EXT. None: no
            image is saved.
    """

    def __init__(self, save_to: str | Path | None) -> None:
        self._save_to = None if save_to is None else Path(save_to)
        self._images: list[Image] = []
        self._calls: list[ImageGenerationCall] = []
        self._end = StreamEnd()

    def saves(self, event: ImageEvent) -> bool:
        """Returns True for an event whose images `add` writes to files."""
        return self._save_to is not None and any(image.is_final for image in event.images)

    def add(self, event: ImageEvent) -> ImageEvent:
        """Adds an event, and returns it with the paths of images saved. Raises FileError."""
        event = replace(event, images=tuple(map(self._add_image, event.images)))
        self._calls += calls_of(event.message)
        self._end = event.end or self._end
        return event

    def result(self) -> Generation:
        """Returns the result, after the last event. Raises FailedGeneration."""
        response = self._end.response
        generation = Generation(tuple(self._images), tuple(self._calls), response)
        failure = failure_of(self._end)
        if self._end.ending == StreamEnding.STREAM_ENDING_UNANNOUNCED and self._images:
            failure = ""  # Some servers never announce the end; no image was lost.
        if not failure and not self._images:
            failure = "the response has no image"
        if failure:
            sentence = "; ".join([failure, *model_lines(response)])
            raise FailedGeneration(cut_by_bytes(sentence, _LONGEST_SENTENCE), generation)
        return generation

    def _add_image(self, image: Image) -> Image:
        if not image.is_final:
            return image
        if self._save_to is not None:
            path, number = self._save_to, len(self._images) + 1
            path = path if number == 1 else path.with_stem(f"{path.stem}-{number}")
            image.save(path)
            image = replace(image, path=path)
        self._images.append(image)
        return image
