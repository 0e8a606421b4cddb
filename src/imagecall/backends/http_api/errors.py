"""Failures of an HTTP API as GenerationErrors.

An HTTP status becomes the reason that has that status as an option in
proto/imagecall/v1/conversion_error.proto. For an error in a stream, or with the status 200, the
error's code or type determines the status.

Some APIs spell numbers as strings, and an absent value as "None"; some frame the body of an error
as an event of a stream.
"""

import codecs
import re
import time
import unicodedata
from collections.abc import Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any, Final

from imagecall.backends.secret_words import Secrets, without_secrets
from imagecall.errors import (
    MAX_RETRY_SECONDS,
    ConversionError,
    GenerationError,
    cut_by_bytes,
    pointer_to,
    printable,
    reason_of_http_status,
)
from imagecall.json.text import JsonValue, parse
from imagecall.v1.image_response_pb2 import ResponseError

_MAX_MESSAGE: Final = 600
_MAX_POINTER: Final = 300
_MAX_WORD: Final = 100
_MAX_BODY: Final = 300
_SERVER_ERROR: Final = 500
_STATUSES: Final = {
    "invalid_request_error": 400,
    "invalid_prompt": 400,
    "image_content_policy_violation": 400,
    "moderation_blocked": 400,
    "content_policy_violation": 400,
    "authentication_error": 401,
    "invalid_api_key": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "model_not_found": 404,
    "timeout": 504,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "overloaded_error": 503,
    "server_error": 500,
}
"""HTTP status for each code or type of an error, as APIs pair them."""

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_EVENT_DATA: Final = re.compile(rb"^data:[ ]?(.*?)\r?$", re.MULTILINE)
_DIGITS: Final = re.compile(r"[0-9]{3}")
_NONE: Final = "None"
_CONTROL: Final = "Cc"
_PARAM: Final = re.compile(r"[^.\[\]]+")
_KEY: Final = re.compile(r"\b(?:sk|key|pk|rk)-[\w*.-]{3,}[\w*]", re.ASCII)


def _masked(text: str, secrets: Secrets) -> str:
    """Masks secrets, and words that look like part of a key, in a sentence of an API."""
    return _KEY.sub("[key]", without_secrets(text.encode(errors="replace"), secrets).decode())


def error_answer(
    status: int, headers: Mapping[str, str], body: bytes, secrets: Secrets
) -> GenerationError:
    """Builds the error for an answer with a status other than 200."""
    body = without_secrets(body, secrets)  # Before a sentence is cut from its start.
    error = _error_in(body)
    return _error(status, error, _sentence_of(error, body), headers, secrets, may_be_billed=False)


def error_event(error: JsonValue, secrets: Secrets, headers: Mapping[str, str]) -> GenerationError:
    """Builds the error for an error object in a stream, or in an answer with the status 200."""
    fields = error if isinstance(error, dict) else {"message": str(error)}
    sentence = _text(fields, "message") or _text(fields, "detail")
    return _error(_status_of(fields), fields, sentence, headers, secrets, may_be_billed=True)


def not_understood(answer: str, may_be_billed: bool = False) -> GenerationError:
    """Builds the error for an answer that no such API sends."""
    message = f"no API for images is at the base URL: it answered with {answer}"
    return GenerationError("UPSTREAM_NOT_UNDERSTOOD", message, may_be_billed=may_be_billed)


def _error(
    status: int,
    fields: Mapping[str, Any],
    sentence: str,
    headers: Mapping[str, str],
    secrets: Secrets,
    may_be_billed: bool,
) -> GenerationError:
    if not 400 <= status < 600:
        return not_understood(f"the status {status}", may_be_billed or 200 <= status < 300)
    metadata = {
        "http_status": "" if may_be_billed else str(status),
        "upstream_code": _word(fields, "code"),
        "upstream_type": _word(fields, "type"),
        "upstream_request_id": headers.get("x-request-id", ""),
    }
    head = "the API failed" if may_be_billed else f"the API answered {status}"
    message = f"{head}: {sentence}" if sentence else head
    return GenerationError(
        reason_of_http_status(status),
        cut_by_bytes(printable(_masked(message, secrets)), _MAX_MESSAGE),
        pointer=cut_by_bytes(_masked(_pointer(fields.get("param")), secrets), _MAX_POINTER),
        retry_seconds=_retry_seconds(headers),
        may_be_billed=may_be_billed,
        metadata={
            name: cut_by_bytes(printable(_masked(value, secrets)), _MAX_WORD)
            for name, value in metadata.items()
            if value
        },
    )


def _status_of(fields: Mapping[str, Any]) -> int:
    """HTTP status of an error, by its code, status or type; 500 if none of these is known."""
    for key in ("code", "status", "status_code", "type"):
        value = fields.get(key)
        number = _number(value)
        if number is not None and 400 <= number < 600:
            return number
        if isinstance(value, str) and value in _STATUSES:
            return _STATUSES[value]
    return _SERVER_ERROR


def _number(value: JsonValue) -> int | None:
    """Integer, or a string of three digits as an integer; None for another value."""
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        return int(value)
    return value if isinstance(value, int) else None


def error_fields(value: JsonValue) -> Mapping[str, Any]:
    """Members of the error object of a JSON body or event; empty if there is none."""
    if isinstance(value, list) and value:
        value = value[0]
    if not isinstance(value, dict):
        return {}
    error = value.get("error") or value
    if isinstance(error, dict):
        return error
    sentence = _text(value, "message")  # {"error": "server_error", "message": SENTENCE}
    return {"message": sentence, "code": error} if sentence else {"message": str(error)}


def _error_in(body: bytes) -> Mapping[str, Any]:
    """Members of the error object of a body, JSON or framed as an event; empty if there is none."""
    body = body.removeprefix(_BYTE_ORDER_MARK)
    for text in (body, *_EVENT_DATA.findall(body)):
        with suppress(ConversionError):
            if error := error_fields(parse(text)):
                return error
    return {}


def _sentence_of(error: Mapping[str, Any], body: bytes) -> str:
    """Sentence of an answer about its error."""
    if message := _text(error, "message") or _text(error, "detail"):
        return message
    if body.lstrip()[:1] == b"<":
        return "with HTML"
    if body.strip() in (b"", b"{}"):
        return ""
    text = _decoded(body)
    return f"with {len(body):,} bytes that are not text" if text is None else text


def _decoded(body: bytes) -> str | None:
    """Beginning of a body as one line of text; None if the body is not text."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    try:
        text = decoder.decode(body[:_MAX_BODY], final=len(body) <= _MAX_BODY)
    except UnicodeDecodeError:
        return None
    line = " ".join(text.split())
    return None if any(unicodedata.category(letter) == _CONTROL for letter in line) else line


def _text(fields: Mapping[str, Any], key: str) -> str:
    value = fields.get(key)
    return value if isinstance(value, str) else ""


def _word(fields: Mapping[str, Any], key: str) -> str:
    value = fields.get(key)
    is_word = isinstance(value, str | int) and not isinstance(value, bool) and value != _NONE
    return str(value) if is_word else ""


def _pointer(param: JsonValue) -> str:
    """JSON Pointer for a parameter that OpenAI names in the form `tools[0].size`.

    A parameter that is a pointer already, as those of this project's door are, is kept.
    """
    if isinstance(param, str) and param.startswith("/"):
        return param
    tokens = _PARAM.findall(param) if isinstance(param, str) and param != _NONE else []
    return pointer_to(*tokens)


def _retry_seconds(headers: Mapping[str, str]) -> float | None:
    """Seconds until a retry, by Retry-After (RFC 9110, 10.2.3) or OpenAI's retry-after-ms."""
    seconds: float | None = None
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1)):
        with suppress(ValueError):
            if seconds is None and (text := headers.get(name)):
                seconds = _seconds(text) * unit
    return seconds if seconds is not None and 0 <= seconds <= MAX_RETRY_SECONDS else None


def _seconds(text: str) -> float:
    """Seconds of a Retry-After header, whose value may be a date. Raises ValueError."""
    try:
        return float(text)
    except ValueError:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())


def response_error(error: JsonValue) -> ResponseError:
    """Error of a response, from the error of a stream."""
    fields = error_fields({"error": error})
    converted = ResponseError()
    if isinstance(code := fields.get("code"), str | int):
        converted.code = _protobuf_text(code)
    if isinstance(message := fields.get("message"), str):
        converted.message = _protobuf_text(message)
    return converted


def _protobuf_text(value: str | int) -> str:
    """Text without lone surrogates, which protobuf refuses."""
    return str(value).encode(errors="replace").decode()
