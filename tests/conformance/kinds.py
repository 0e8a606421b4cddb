"""Kinds of mistakes: a change of a message of a method, of a status, of its details."""

from collections.abc import Callable
from typing import Any

import grpc
from google.rpc.status_pb2 import Status

from imagecall.conformance.session import PLAIN, STREAM
from imagecall.v1 import conversion_service_pb2 as conversion_pb
from imagecall.v1 import image_generation_service_pb2 as pb
from tests.conformance.faulty import Failure, Faulty

CONVERT = "/imagecall.v1.ConversionService/"
DETAILS = "grpc-status-details-bin"
DONE = "output_item_done_event"


def stream(change: Callable[[list[Any]], list[Any]]) -> Faulty:
    """Changes the parts of each stream."""

    def messages(method: str, came: list[bytes]) -> list[bytes]:
        if method != STREAM:
            return came
        parts = [pb.StreamImageResponse.FromString(message) for message in came]
        changed = change(parts)
        return [m if isinstance(m, bytes) else m.SerializeToString() for m in changed]

    return Faulty(messages=messages)


def each(change: Callable[[Any], object]) -> Faulty:
    """Changes each part of each stream."""

    def changed(parts: list[Any]) -> list[Any]:
        for part in parts:
            change(part)
        return parts

    return stream(changed)


def done(change: Callable[[Any], object], *, document: bool = True) -> Faulty:
    """Changes the event with the finished image; leaves out a `document` that refers to it."""

    def changed(part: Any) -> None:
        if not document and part.HasField("end"):
            part.end.response.ClearField("document")
        item = part.event.output_item_done_event.item
        if part.event.WhichOneof("variant") == DONE and item.WhichOneof("variant") == (
            "output_image_generation_call"
        ):
            change(part.event.output_item_done_event)

    return each(changed)


def done_call(change: Callable[[Any], object]) -> Faulty:
    return done(lambda event: change(event.item.output_image_generation_call))


def added(change: Callable[[Any], object]) -> Faulty:
    return each(
        lambda part: (
            change(part.event.output_item_added_event.item.output_image_generation_call)
            if part.event.output_item_added_event.item.HasField("output_image_generation_call")
            else None
        )
    )


def end(change: Callable[[Any], object]) -> Faulty:
    """Changes the end of each stream."""
    return each(lambda part: change(part.end) if part.HasField("end") else None)


def last_chunks(change: Callable[[Any], object]) -> Faulty:
    """Changes the end of each value in chunks."""
    return each(lambda part: change(part.chunk.end) if part.chunk.HasField("end") else None)


def plain(change: Callable[[Any], object]) -> Faulty:
    """Changes the response of GenerateImage."""

    def messages(method: str, came: list[bytes]) -> list[bytes]:
        if method != PLAIN:
            return came
        answers = [pb.GenerateImageResponse.FromString(message) for message in came]
        for answer in answers:
            change(answer)
        return [answer.SerializeToString() for answer in answers]

    return Faulty(messages=messages)


def plain_calls(change: Callable[[Any], object]) -> Faulty:
    def changed(answer: Any) -> None:
        for call in answer.response.calls:
            change(call.output_image_generation_call)

    return plain(changed)


def refusal(change: Callable[[Failure], Failure | None]) -> Faulty:
    """Changes the status of each generation that failed."""

    def failure(method: str, status: Failure) -> Failure | None:
        return change(status) if method in (PLAIN, STREAM) else status

    return Faulty(failure=failure)


def details(change: Callable[[Any], object]) -> Faulty:
    """Changes the google.rpc.Status of each call that failed."""

    def changed(status: Failure) -> Failure:
        code, text, trailers = status
        packed = Status.FromString(dict(trailers)[DETAILS])
        change(packed)
        return code, text, ((DETAILS, packed.SerializeToString()),)

    return refusal(changed)


def conversions(change: Callable[[str, Any], object]) -> Faulty:
    """Changes the responses of ConvertCalls."""

    def messages(method: str, came: list[bytes]) -> list[bytes]:
        name = method.removeprefix(CONVERT)
        if name == method:
            return came
        kind = getattr(conversion_pb, f"{name}Response")
        answers = [kind.FromString(message) for message in came]
        for answer in answers:
            change(name, answer)
        return [answer.SerializeToString() for answer in answers]

    return Faulty(messages=messages)


def fails(code: grpc.StatusCode, text: str, is_refused: Callable[[str, bytes], bool]) -> Faulty:
    """Refuses some requests."""

    def on_request(method: str, request: bytes) -> Failure | None:
        return (code, text, ()) if is_refused(method, request) else None

    return Faulty(on_request=on_request)


def convert_failure(prefix: str, other: Failure | None) -> Faulty:
    def failure(method: str, status: Failure) -> Failure | None:
        return other if method == CONVERT + prefix else status

    return Faulty(failure=failure)
