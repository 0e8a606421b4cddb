"""The log on stderr, as text or as JSON, a line each.

Each line of a request has its id. Of an exception there are its type and where it came from, and
not its message, which may quote what nobody should read.
"""

import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from imagecall.observing.request_id import REQUEST_ID

_REQUEST_ID: Final = "request_id"


class _Quiet(logging.Formatter):
    """What both forms have."""

    def formatException(self, ei: Any) -> str:
        kind, _, trace = ei
        name = kind.__qualname__ if kind else "no exception"
        return "".join(traceback.format_tb(trace)) + name

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        """What is known beside the message."""
        found: dict[str, Any] = getattr(record, "fields", {})
        request_id = REQUEST_ID.get()
        return {**({_REQUEST_ID: request_id} if request_id else {}), **found}


class TextFormatter(_Quiet):
    """For people."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        record.exc_text = None  # As another handler wrote it.
        return super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:
        fields = self.fields(record).items()
        return super().formatMessage(record) + "".join(f" {key}={value}" for key, value in fields)


class JsonFormatter(_Quiet):
    """For programs."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **self.fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


def set_up_logs(form: str) -> None:
    """Logs to stderr, as "text" or as "json"."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # It tells of its own start and end.
