"""Unexpected exceptions as INTERNAL errors that reveal nothing."""

import logging
import secrets
import traceback
from typing import Final

from imagecall.errors import GenerationError

_log: Final = logging.getLogger(__name__)


def internal_error(error: Exception) -> GenerationError:
    """Logs an exception, and returns an INTERNAL error with the number of its log line.

    The log has no message of the exception, as that may quote a request. The call may be billed.
    """
    number = secrets.token_hex(8)
    where = "".join(traceback.format_tb(error.__traceback__))
    _log.error("internal error %s: %s\n%s", number, type(error).__qualname__, where)
    message = f"internal error; the server's log has it under the number {number}"
    return GenerationError("", message, code="INTERNAL", may_be_billed=True)
