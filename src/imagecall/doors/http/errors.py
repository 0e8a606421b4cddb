"""Errors as answers of the HTTP door."""

from math import ceil
from typing import Any, Final

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from imagecall.doors.http.answers import (
    NOT_TO_BE_REPEATED,
    error_object,
    http_status_of,
    may_be_billed,
)
from imagecall.errors import MAX_RETRY_SECONDS, GenerationError, ImagecallError
from imagecall.observing.observer import note_failure

API: Final = "/v1/responses"
"""Path of the Responses API."""

IMAGES_API: Final = "/v1/images/generations"
"""Path of the Images API."""

JSON: Final = "application/json"


class NotTaken(OSError):
    """Answer that the client does not read in time."""


async def http_error(request: Request, error: Exception) -> Response:
    """Answers with an HTTP error, such as for an unknown path or method."""
    assert isinstance(error, HTTPException)
    message = error.detail
    if error.status_code in (404, 405):
        message = f"{message}: the APIs are at POST {API} and POST {IMAGES_API}"
    fields = {
        "code": error.status_code,
        "message": message,
        "type": "invalid_request",
        "param": None,
    }
    return _error(fields, error.status_code, dict(error.headers or {}))


async def error_response(request: Request, error: Exception) -> Response:
    """Answers with an error of the converters or of the backend.

    A call that may be billed gets a status that no SDK retries.
    """
    assert isinstance(error, ImagecallError)
    note_failure(error)
    if may_be_billed(error):
        fields = error_object(error, NOT_TO_BE_REPEATED)
        return _error(fields, NOT_TO_BE_REPEATED, {"x-should-retry": "false"})
    status = http_status_of(error)
    headers = {}
    if error.reason == "TOKEN_REQUIRED":
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, GenerationError) and error.retry_seconds is not None:
        headers["Retry-After"] = str(max(1, min(ceil(error.retry_seconds), MAX_RETRY_SECONDS)))
    return _error(error_object(error, status), status, headers)


def _error(fields: dict[str, Any], status: int, headers: dict[str, str]) -> Response:
    body = msgspec.json.encode({"error": fields})
    return Response(body, status, media_type=JSON, headers=headers)
