"""Request ids, which link the log lines of all servers that handle a request."""

import random
import re
from contextvars import ContextVar
from typing import Final

HEADER: Final = "x-request-id"
"""Name of the header, and of the metadata, with the request id."""

REQUEST_ID: Final = ContextVar("REQUEST_ID", default="")
"""Request id of the current task; "" without one."""

_VALID: Final = re.compile(r"[!-~]{1,128}")


def take_request_id(sent: object) -> str:
    """Sets the request id of the current task: the one sent if it is valid, else a new one."""
    request_id = sent if isinstance(sent, str) and _VALID.fullmatch(sent) else _new()
    REQUEST_ID.set(request_id)
    return request_id


def _new() -> str:
    return f"{random.getrandbits(128):032x}"  # Not a secret.
