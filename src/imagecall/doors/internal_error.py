"""Unexpected exceptions as INTERNAL errors that reveal nothing."""

import logging
import secrets
import traceback
from typing import Final

from imagecall.errors import GenerationError

_log: Final = logging.getLogger(__name__)


def internal_error(error: Exception) -> GenerationError:
    """Logs an exception, and returns an INTERNAL error with a number that the log line has too.

    The log line omits the message of the exception, which may quote a request. The call may be
    billed.
    """
    number = secrets.token_hex(8)
    where = "".join(traceback.format_tb(error.__traceback__))
    _log.error("internal error %s: %s\n%s", number, type(error).__qualname__, where)
    message = f"internal error; see the number {number} in the server's log"
    return GenerationError("", message, code="INTERNAL", may_be_billed=True)
