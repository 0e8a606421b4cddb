"""Answers of the HTTP door, in the JSON that the SDKs of OpenAI and OpenRouter accept.

A response object has all keys of imagecall.generation.response_keys: a key that the upstream API
did not send is added, and a value that it sent is not changed.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from imagecall.conversion.converter import call_pieces
from imagecall.conversion.document import PlacedCall, document_members
from imagecall.errors import ConversionError, GenerationError, ImagecallError, damaged_answer
from imagecall.generation.backend import WholeAnswer, WithResponse
from imagecall.generation.calls_once import elsewhere
from imagecall.generation.response import response_to_json
from imagecall.generation.response_keys import final_keys
from imagecall.json.pieces import (
    NOTHING_APART,
    Apart,
    Piece,
    check_depth_of,
    join_element_pieces,
    join_member_pieces,
    under,
    under_each,
)
from imagecall.json.text import members
from imagecall.v1.image_response_pb2 import ImageResponse

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
"""HTTP status of each gRPC status code; 500 for others."""

_COMPLETED: Final = b'"completed"'
_TOO_LARGE: Final = frozenset({"TOO_LARGE", "TOO_MANY_VALUES", "UPSTREAM_TOO_LARGE"})
_ABSENT: Final = "NO_STORED_RESPONSES"
_FAULTS_OF_UPSTREAM: Final = frozenset({"UPSTREAM_ANSWER_TOO_LARGE", "UPSTREAM_NOT_UNDERSTOOD"})


NOT_TO_BE_REPEATED: Final = 424
"""HTTP status that no SDK retries."""


def may_be_billed(error: ImagecallError) -> bool:
    """Returns True if a second request may be billed again, so that no SDK may retry."""
    return error.code == "DATA_LOSS" or (isinstance(error, GenerationError) and error.may_be_billed)


def http_status_of(error: ImagecallError) -> int:
    """Returns the HTTP status of an error: the upstream API's status, if the error has one."""
    upstream_status = (
        error.metadata.get("http_status", "") if isinstance(error, GenerationError) else ""
    )
    if upstream_status.isdecimal() and 400 <= int(upstream_status) < 600:
        return int(upstream_status)
    if error.reason in _FAULTS_OF_UPSTREAM:
        return 502
    if error.reason == _ABSENT:
        return 404
    return 413 if error.reason in _TOO_LARGE else _STATUSES.get(error.code, 500)


def error_object(error: ImagecallError, status: int) -> dict[str, object]:
    """Returns an error as the SDKs expect it: OpenRouter's SDKs require a number as the code."""
    upstream_code = (
        error.metadata.get("upstream_code") if isinstance(error, GenerationError) else ""
    )
    return {
        "code": status,
        "message": str(error),
        "type": (error.reason or upstream_code or error.code).lower(),
        "param": error.pointer or None,
    }


def response_members(
    response: ImageResponse,
    apart: Apart = NOTHING_APART,
    sent: Mapping[int, PlacedCall] | None = None,
) -> dict[str, Sequence[Piece]]:
    """Returns the JSON pieces of each value of a response object, with the images set apart.

    `sent` has the items of the OutputItemDoneEvents before the response, by their output_index.
    Raises ConversionError if the response does not convert to JSON.
    """
    if response.HasField("document"):
        found = elsewhere(response, apart, sent)
        return document_members(response.document, under(apart, "document"), found)
    values: dict[str, Sequence[Piece]] = {
        key: [raw] for key, raw in members(response_to_json(response)).items()
    }
    images = under_each(apart, "calls")
    calls = (call_pieces(call, images[index]) for index, call in enumerate(response.calls))
    return values | {"output": join_element_pieces(calls)}


def answer_pieces(answer: WholeAnswer[WithResponse], keys: Mapping[str, bytes]) -> list[Piece]:
    """Returns the JSON pieces of the response object of an answer; `keys` are its default values.

    Raises GenerationError if the response does not convert to JSON.
    """
    defaults: dict[str, Sequence[Piece]] = {key: [raw] for key, raw in final_keys(keys).items()}
    defaults["status"] = [_COMPLETED]  # Without a status, an application waits for the end.
    try:
        values = response_members(answer.message.response, under(answer.images, "response"))
        return check_depth_of(join_member_pieces(defaults | values))
    except ConversionError as error:
        raise damaged_answer(str(error)) from None
