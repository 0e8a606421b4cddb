"""What the HTTP door says, in the JSON that the SDKs of OpenAI and OpenRouter take.

The keys that their response objects must have, and the order of events that their streams must
have, are those that these SDKs demand, whatever an API sent: a key that is missing is added, as
null where it may be null, and no value that is there is changed. An event that is missing at the
beginning or at the end of a stream is added too, and the sequence numbers are made anew.
"""

import secrets
import time
from collections.abc import Iterator, Mapping
from typing import Final

from imagecall.conversion.converter import CALLS, EVENTS, event_to_json
from imagecall.conversion.document import document_to_json
from imagecall.conversion.fields import spellings
from imagecall.conversion.objects import as_object
from imagecall.doors.http.large_images import LargeImages
from imagecall.errors import ConversionError, GenerationError, ImagecallError, damaged_answer
from imagecall.generation.assembly import StreamItem
from imagecall.generation.response import response_to_json
from imagecall.json.text import elements, join_elements, join_members, members, parse, quote
from imagecall.v1.document_kind_pb2 import DocumentKind
from imagecall.v1.document_pb2 import Document
from imagecall.v1.image_generation_service_pb2 import StreamEnd, StreamEnding
from imagecall.v1.image_response_pb2 import ImageResponse

_NULL: Final = b"null"
_UNLIMITED: Final = 2**40
_DEFAULTS: Final[Mapping[str, bytes]] = {
    "error": _NULL,
    "incomplete_details": _NULL,
    "instructions": _NULL,
    "metadata": b"{}",
    "parallel_tool_calls": b"true",
    "temperature": _NULL,
    "top_p": _NULL,
    "tool_choice": b'"auto"',
    "tools": b"[]",
    "frequency_penalty": _NULL,
    "presence_penalty": _NULL,
}
"""The keys of a response that a request can set, as they are where it does not."""

_CREATED: Final = "response.created"
_IN_PROGRESS: Final = "response.in_progress"
_TYPES: Final = {number: tag for tag, number in spellings(StreamEnding.DESCRIPTOR).items() if tag}
"""The type of the event that ends a stream, by the ending."""

_STATUSES: Final = {
    "CANCELLED": 499,
    "INVALID_ARGUMENT": 400,
    "UNAUTHENTICATED": 401,
    "FAILED_PRECONDITION": 400,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "ALREADY_EXISTS": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
    "DATA_LOSS": 502,
}
"""The HTTP status of each gRPC status code; 500 for others."""

_TOO_LARGE: Final = frozenset({"TOO_LARGE", "TOO_MANY_VALUES", "UPSTREAM_TOO_LARGE"})
_FAULTS_OF_UPSTREAM: Final = frozenset({"UPSTREAM_ANSWER_TOO_LARGE", "UPSTREAM_NOT_UNDERSTOOD"})
DONE: Final = b"data: [DONE]\n\n"
"""What ends every stream."""


NOT_TO_BE_REPEATED: Final = 424
"""The status of an answer that no SDK takes for a reason to send the request again."""


def may_be_billed(error: ImagecallError) -> bool:
    """Tells whether the request must not be sent again, as it may cost twice."""
    return error.code == "DATA_LOSS" or (isinstance(error, GenerationError) and error.may_be_billed)


def status_of(error: ImagecallError) -> int:
    """Returns the HTTP status that goes with an error: that of the API, if it has one."""
    known = error.metadata.get("http_status", "") if isinstance(error, GenerationError) else ""
    if known.isdecimal() and 400 <= int(known) < 600:
        return int(known)
    if error.reason in _FAULTS_OF_UPSTREAM:
        return 502
    return 413 if error.reason in _TOO_LARGE else _STATUSES.get(error.code, 500)


def error_object(error: ImagecallError, status: int) -> dict[str, object]:
    """Returns an error as the SDKs take it: the code is a number, or OpenRouter's refuse it."""
    foreign = error.metadata.get("upstream_code") if isinstance(error, GenerationError) else ""
    return {
        "code": status,
        "message": str(error),
        "type": (error.reason or foreign or error.code).lower(),
        "param": error.pointer or None,
    }


def _object(json: str) -> dict[str, bytes]:
    """The members of a JSON object. Raises ConversionError."""
    text = json.encode()
    as_object(parse(text))
    return members(text)


class Answers:
    """What is said in answer to one request.

    In what it gives, markers stand for the large images that were taken out of messages.

    Args:
        asked: the body of the request, its values as raw JSON text.
    """

    def __init__(self, asked: Mapping[str, bytes]) -> None:
        self.images = LargeImages()
        echoed = {key: asked.get(key, value) for key, value in _DEFAULTS.items()}
        self._keys = {
            "id": quote(f"resp_{secrets.token_hex(16)}"),
            "object": b'"response"',
            "created_at": str(int(time.time())).encode(),
            "completed_at": _NULL,
            "model": asked.get("model", b'""'),
            "status": b'"in_progress"',
            "output": b"[]",
            **echoed,
        }

    def response(self, response: ImageResponse) -> bytes:
        """A whole response, with the keys that SDKs demand.

        Its large images are taken. Raises GenerationError if it is not what a backend may answer.
        """
        self.images.take(response)
        try:
            return document_to_json(self._document(response), max_bytes=_UNLIMITED)
        except ConversionError as error:
            raise damaged_answer(str(error)) from None

    def _document(self, response: ImageResponse) -> Document:
        """The document of a response, with the keys that SDKs demand."""
        if response.HasField("document"):
            document = response.document
            said = _object(document.json)
        else:
            said = members(response_to_json(response))
            said["output"] = join_elements([_NULL] * len(response.calls))
            document = Document(kind=DocumentKind.DOCUMENT_KIND_RESPONSE)
            for index, call in enumerate(response.calls):
                document.calls.add(pointer=f"/output/{index}", call=call)
        document.json = join_members(self._keys | said).decode()
        return document

    def events(self) -> "EventAnswers":
        """A stream of events."""
        return EventAnswers(self, self._keys)


class EventAnswers:
    """The events of one stream, with what is between them: their numbers, the final items."""

    def __init__(self, answers: Answers, keys: Mapping[str, bytes]) -> None:
        self._answers = answers
        self._keys = dict(keys)
        self._number = 0
        self._id = b""
        self._final: list[bytes] = []

    def lines(self, happening: StreamItem) -> Iterator[bytes]:
        """An event, or the end, as server-sent events."""
        if isinstance(happening, StreamEnd):
            yield from self._end(happening)
            return
        self._answers.images.take(happening)
        try:
            event = members(event_to_json(happening))
        except ConversionError as error:
            raise damaged_answer(str(error)) from None
        tag = str(parse(event["type"]))
        if self._number == 0 and tag != _CREATED:
            yield from self._beginning()
        variant = EVENTS.chosen(happening)
        if variant.option.fallback:
            if self._id and tag in (_CREATED, _IN_PROGRESS):
                return
            if event.get("response", b"").startswith(b"{"):
                said = members(event["response"]) | ({"id": self._id} if self._id else {})
                event["response"] = join_members(self._keys | said)
        elif "item" in event:
            event["item"] = self._item(tag, event["item"])
        yield self._line(tag, event)

    def pieces(self, line: bytes) -> Iterator[bytes]:
        """A line with its large images, in pieces."""
        return self._answers.images.pieces(line)

    def error(self, error: ImagecallError) -> bytes:
        """An error in the middle of a stream."""
        status = status_of(error)
        said = {key: quote(value) for key, value in error_object(error, status).items()}
        event = said | {"type": b'"error"', "code": quote(str(status))}
        return self._line("error", event | {"error": join_members(said)})

    def _beginning(self) -> Iterator[bytes]:
        """The events with which a stream begins, where a backend does not send them.

        SDKs demand that the response has one id from beginning to end, which then is ours.
        """
        self._id = self._keys["id"]
        response = join_members(self._keys)
        for tag in (_CREATED, _IN_PROGRESS):
            yield self._line(tag, {"type": quote(tag), "response": response})

    def _item(self, tag: str, item: bytes) -> bytes:
        """An item; that of an image has a result from the beginning, if only null."""
        fields = members(item)
        if parse(fields.get("type", _NULL)) in CALLS.by_type:
            fields.setdefault("result", _NULL)
        whole = join_members(fields)
        if tag == "response.output_item.done":
            self._final.append(whole)
        return whole

    def _end(self, end: StreamEnd) -> Iterator[bytes]:
        if self._number == 0:
            yield from self._beginning()
        said = members(self._answers.response(end.response))
        tag = _TYPES.get(end.ending, _TYPES[StreamEnding.STREAM_ENDING_COMPLETED])
        if self._id:
            said["id"] = self._id
        if end.ending not in _TYPES or said["status"] == self._keys["status"]:
            said["status"] = quote(tag.removeprefix("response."))
        output = elements(said["output"]) if said["output"].startswith(b"[") else []
        if not end.response.HasField("document") or not output:
            said["output"] = join_elements([*self._final, *output])
        yield self._line(tag, {"type": quote(tag), "response": join_members(said)})
        yield DONE

    def _line(self, tag: str, event: dict[str, bytes]) -> bytes:
        event["sequence_number"] = str(self._number).encode()
        self._number += 1
        name = b"event: %b\n" % tag.encode() if tag.isprintable() else b""
        # Line breaks in JSON stand between values only, where a space does as well.
        data = join_members(event).replace(b"\n", b" ").replace(b"\r", b" ")
        return b"%bdata: %b\n\n" % (name, data)
