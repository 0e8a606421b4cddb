"""Composes a whole response of a stream, for an API that streams where no stream was requested."""

from collections.abc import Sequence
from typing import Any, Final

from imagecall.conversion.converter import CALLS, EVENTS, to_json
from imagecall.generation.assembly import StreamItem
from imagecall.generation.calls_once import OUTPUT, leave_out_calls
from imagecall.generation.response import ENDINGS, response_to_json
from imagecall.json.text import join_elements, join_members, members, parse, quote
from imagecall.v1.document_kind_pb2 import DocumentKind
from imagecall.v1.document_pb2 import Document
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall
from imagecall.v1.image_generation_service_pb2 import (
    GenerateImageRequest,
    GenerateImageResponse,
    StreamEnd,
    StreamEnding,
)
from imagecall.v1.image_response_pb2 import ImageResponse

_ITEM_DONE: Final = "output_item_done_event"
_UNFINISHED: Final = frozenset({"", "in_progress", "queued"})
_STATUSES: Final = {number: tag.removeprefix("response.") for tag, number in ENDINGS.items()}
_COMPLETED: Final = _STATUSES[StreamEnding.STREAM_ENDING_COMPLETED]


def compose(stream: Sequence[StreamItem], request: GenerateImageRequest) -> GenerateImageResponse:
    """Composes the whole answer of a stream's end and of the final items in the stream's events.

    A response whose status is not final gets the status of the stream's ending; without an ending
    it is completed, as every image has come.
    """
    [*events, end] = stream
    assert isinstance(end, StreamEnd)
    items = [*_final_items(events), *end.response.calls]
    answer = GenerateImageResponse()
    response = answer.response
    response.CopyFrom(end.response)
    if response.status in _UNFINISHED:
        response.status = _STATUSES.get(end.ending, _COMPLETED)
    if request.include_document and not _has_output(response.document):
        response.document.CopyFrom(_document(response, items))
    del response.calls[:]
    response.calls.extend(item for item in items if not CALLS.chosen(item).option.fallback)
    if request.calls_once:
        leave_out_calls(response)
    return answer


def _final_items(events: Sequence[StreamItem]) -> list[ImageGenerationCall]:
    """Final items of events: by output index if every event has one, else in the order sent."""
    events_done: list[Any] = [
        event.output_item_done_event
        for event in events
        if not isinstance(event, StreamEnd) and EVENTS.chosen(event).name == _ITEM_DONE
    ]
    if all(event.HasField("output_index") for event in events_done):
        events_done.sort(key=lambda event: event.output_index)
    return [event.item for event in events_done if event.HasField("item")]


def _has_output(document: Document) -> bool:
    text = document.json.encode()
    return bool(text and parse(text).get("output"))


def _document(response: ImageResponse, items: Sequence[ImageGenerationCall]) -> Document:
    """Document of a response whose end had no document, or one without an output."""
    keys = members(response.document.json.encode() or b"{}") or members(response_to_json(response))
    document = Document(kind=DocumentKind.DOCUMENT_KIND_RESPONSE)
    output = []
    for index, item in enumerate(items):
        if CALLS.chosen(item).option.fallback:
            output.append(to_json(item))
        else:
            output.append(b"null")
            document.calls.add(pointer=f"{OUTPUT}{index}", call=item)
    keys |= {"output": join_elements(output), "status": quote(response.status)}
    document.json = join_members({"object": b'"response"'} | keys).decode()
    return document
