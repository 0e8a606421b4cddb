"""Rules of the response: of GenerateImage, and in the end of a stream."""

from collections.abc import AsyncIterator, Iterator
from typing import Any, Final, TypeGuard

from imagecall.conformance.answer import StreamAnswer, sentence_of
from imagecall.conformance.event import CREATED, DONE, id_of, type_of
from imagecall.conformance.rule import Finding, Rule
from imagecall.conformance.session import Session
from imagecall.conversion.view import view
from imagecall.errors import quoted
from imagecall.generation.response import ending_of
from imagecall.v1.image_generation_service_pb2 import StreamEnd, StreamEnding
from imagecall.v1.image_response_pb2 import ImageResponse

_UNANNOUNCED: Final = StreamEnding.STREAM_ENDING_UNANNOUNCED


async def _ends(session: Session) -> list[tuple[StreamAnswer, StreamEnd]]:
    """The ends of the streams that have one."""
    return [(each, each.end) for each in await session.streams() if each.end is not None]


def _is_announced(end: StreamEnd | None) -> TypeGuard[StreamEnd]:
    """True for an end with a response that an API announced."""
    return end is not None and end.ending != _UNANNOUNCED and end.HasField("response")


async def _responses(session: Session) -> AsyncIterator[tuple[str, ImageResponse]]:
    """Yields the responses of both methods, with phrases for them."""
    for answer in await session.answers():
        if not isinstance(answer, StreamAnswer):
            if answer.response is not None:
                yield answer.name, answer.response
        elif _is_announced(answer.end):
            yield f"{answer.name}, StreamEnd", answer.end.response


async def _response(session: Session) -> AsyncIterator[Finding]:
    for answer in await session.answers():
        if isinstance(answer, StreamAnswer):
            if answer.end is not None and not answer.end.HasField("response"):
                yield Finding(f"{answer.name}: StreamEnd has no response", "the response")
        elif answer.fault is not None and answer.fault.rule == "response":
            yield Finding(f"{answer.name}: {sentence_of(answer.fault)}", "the response")


async def _ending(session: Session) -> AsyncIterator[Finding]:
    for answer, end in await _ends(session):
        if not end.ending:
            yield Finding(f"{answer.name}: STREAM_ENDING_UNSPECIFIED", "the ending of the stream")


async def _ending_status(session: Session) -> AsyncIterator[Finding]:
    for answer, end in await _ends(session):
        status = end.response.status
        implied = ending_of(end.response)
        if status and end.ending not in (0, _UNANNOUNCED, implied):
            name = (
                StreamEnding.Name(end.ending) if end.ending in StreamEnding.values() else end.ending
            )
            yield Finding(
                f"{answer.name}: {name}, and the status {quoted(status)}", "the same ending"
            )


async def _status(session: Session) -> AsyncIterator[Finding]:
    async for name, response in _responses(session):
        if not response.status:
            yield Finding(f"{name}: the response has no status", '"completed", or another')


async def _id(session: Session) -> AsyncIterator[Finding]:
    async for name, response in _responses(session):
        if not response.id:
            yield Finding(f"{name}: the response has no id", "an id")
    for answer, end in await _ends(session):
        for identifier in _created(answer):
            if end.response.id and identifier != end.response.id:
                came = f"{answer.name}, StreamEnd: {quoted(end.response.id)}"
                yield Finding(came, f"{quoted(str(identifier))}, as in {CREATED}")


def _created(answer: StreamAnswer) -> Iterator[Any]:
    """Yields the id of the response in the event that created it."""
    for event in answer.events:
        match event:
            case {"type": type, "response": {"id": str(identifier)}} if type == CREATED:
                yield identifier


async def _calls(session: Session) -> AsyncIterator[Finding]:
    for answer in await session.answers():
        if isinstance(answer, StreamAnswer):
            for finding in _repeated(answer):
                yield finding
        elif answer.response is not None:
            for finding in _incomplete(answer.name, answer.response):
                yield finding


def _repeated(answer: StreamAnswer) -> Iterator[Finding]:
    done = {id_of(event) for event in answer.events if type_of(event) == DONE} - {None}
    for call in answer.end.response.calls if answer.end else ():
        if (identifier := view(call).id) in done:
            came = f"{answer.name}, StreamEnd: the call {quoted(str(identifier))}"
            yield Finding(came, "only calls without an OutputItemDoneEvent")


def _incomplete(name: str, response: ImageResponse) -> Iterator[Finding]:
    if response.status == "completed" and not response.calls:
        yield Finding(f"{name}: no call", "the call of the image that was requested")
    for call in response.calls:
        values = view(call)
        for key, value in (("id", values.id), ("status", values.status), ("result", values.result)):
            if not value:
                yield Finding(f"{name}: a call has no {key}", f"the {key} of the call")


RULES: Final = (
    Rule(
        "response",
        "the response and the end of a stream have an ImageResponse",
        "GenerateImageResponse.response",
        _response,
    ),
    Rule("ending", "the end of a stream has its ending", "StreamEnd.ending", _ending),
    Rule(
        "ending-status",
        "the ending is that of the status of the response",
        "StreamEnd.ending",
        _ending_status,
    ),
    Rule("response-status", "a response has its status", "ImageResponse.status", _status),
    Rule("response-id", "a response has its id, the same in all events", "ImageResponse.id", _id),
    Rule(
        "response-calls",
        "a response has the calls that no event had, each with id, status and result",
        "ImageResponse.calls",
        _calls,
    ),
)
