"""A fault of ours that nobody foresaw, as an error that tells nothing of the inside."""

import logging
import secrets
import traceback
from typing import Final

from imagecall.errors import GenerationError

_log: Final = logging.getLogger(__name__)


def internal_error(error: Exception) -> GenerationError:
    """INTERNAL, with a number that stands in the log too, where no message is: it may quote.

    The call may have cost something.
    """
    number = secrets.token_hex(8)
    where = "".join(traceback.format_tb(error.__traceback__))
    _log.error("internal error %s: %s\n%s", number, type(error).__qualname__, where)
    message = f"internal error; the server's log has it under the number {number}"
    return GenerationError("", message, code="INTERNAL", may_be_billed=True)
