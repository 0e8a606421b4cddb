"""The id of a request: one for all hops, which the logs of each have."""

import random
import re
from contextvars import ContextVar
from typing import Final

HEADER: Final = "x-request-id"
"""The header, or the metadata, that has it."""

REQUEST_ID: Final = ContextVar("REQUEST_ID", default="")
"""That of the request that the current task works for; "": there is none."""

_SANE: Final = re.compile(r"[!-~]{1,128}")


def take_request_id(sent: object) -> str:
    """Makes the id that a caller sent that of the current task, or a new one if it is not sane."""
    known = isinstance(sent, str) and _SANE.fullmatch(sent)
    # It is no secret.
    found = sent if isinstance(sent, str) and known else f"{random.getrandbits(128):032x}"
    REQUEST_ID.set(found)
    return found
