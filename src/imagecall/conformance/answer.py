"""Answers of the server under check: messages as they came, the status, and the first fault."""

from functools import cached_property
from typing import Any, Final

from google.protobuf.message import DecodeError

from imagecall.conversion.converter import event_to_json
from imagecall.errors import ConversionError, ImagecallError
from imagecall.generation.assembly import MAX_IMAGE_BYTES
from imagecall.generation.checked_answer import AnswerLimits, CheckedStream, checked_response
from imagecall.json.text import MAX_BYTES, parse
from imagecall.v1.image_generation_service_pb2 import (
    GenerateImageResponse,
    StreamEnd,
    StreamImageResponse,
)
from imagecall.v1.image_response_pb2 import ImageResponse

LIMITS: Final = AnswerLimits(MAX_IMAGE_BYTES, MAX_BYTES)


class PlainAnswer:
    """Answer to GenerateImage.

    Attributes:
        name: phrase for the request.
        message: the serialized response; None if the call failed.
        error: failure of the call.
    """

    def __init__(
        self, name: str, message: bytes | None = None, error: ImagecallError | None = None
    ) -> None:
        self.name = name
        self.message = message
        self.error = error

    @cached_property
    def fault(self) -> ImagecallError | None:
        """First fault of the answer."""
        try:
            checked_response(GenerateImageResponse, self.message or b"", LIMITS, calls_once=True)
        except ImagecallError as error:
            return error
        return None

    @cached_property
    def response(self) -> ImageResponse | None:
        """The response; None if it is not set or cannot be read."""
        try:
            answer = GenerateImageResponse.FromString(self.message or b"")
        except DecodeError:
            return None
        return answer.response if answer.HasField("response") else None


class StreamAnswer:
    """Answer to StreamImage.

    Attributes:
        name: phrase for the request.
        partial_images: number of partial images that the request asks for.
        other_events: True if the request asks for the events of other items, and for the document.
        messages: serialized messages of the stream.
        error: failure of the call.
        has_status: True if a status followed the messages.
        seconds: time of the call.
    """

    def __init__(self, name: str, partial_images: int = 0, other_events: bool = False) -> None:
        self.name = name
        self.partial_images = partial_images
        self.other_events = other_events
        self.messages: list[bytes] = []
        self.error: ImagecallError | None = None
        self.has_status = False
        self.seconds = 0.0

    @cached_property
    def fault(self) -> ImagecallError | None:
        """First fault of the answer."""
        stream = CheckedStream(LIMITS, calls_once=self.other_events)
        try:
            for message in self.messages:
                stream.check(message)
            stream.finish()
        except ImagecallError as error:
            return error
        return None

    @cached_property
    def parts(self) -> list[StreamImageResponse]:
        """The messages that can be read."""
        return [part for message in self.messages if (part := _read(message)) is not None]

    @cached_property
    def end(self) -> StreamEnd | None:
        """The first end."""
        return next((part.end for part in self.parts if part.HasField("end")), None)

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events before the end as JSON, up to the first that does not convert."""
        return self._converted[0]

    @property
    def is_readable(self) -> bool:
        """True if every event before the end converts to JSON."""
        return self._converted[1]

    @cached_property
    def _converted(self) -> tuple[list[dict[str, Any]], bool]:
        """The events as JSON, images as empty strings; False if one does not convert."""
        events: list[dict[str, Any]] = []
        for part in self.parts:
            if part.HasField("end"):
                break
            if part.HasField("event"):
                try:
                    event: Any = parse(event_to_json(part.event))
                except ConversionError:
                    return events, False
                events.append(event)
        return events, True


def _read(message: bytes) -> StreamImageResponse | None:
    try:
        return StreamImageResponse.FromString(message)
    except DecodeError:
        return None


def sentence_of(fault: ImagecallError) -> str:
    """Sentence about a fault, without the words about a backend."""
    return str(fault).rpartition("answer is damaged: ")[2]
