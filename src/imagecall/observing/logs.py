"""Log on stderr, with one line of text or JSON for each record.

Each line about a request has the request id. For an exception the log has the type and the stack,
but not the message, which may quote a secret or an image.
"""

import logging
import os
import sys
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final

import msgspec

import imagecall
from imagecall.observing.request_id import REQUEST_ID

_STEPS: Final = logging.getLogger("imagecall.server")
"""Logger of the steps of a server: start, listen, drain, stop."""

_REQUEST_ID: Final = "request_id"
_QUOTING: Final = ("asyncio", "grpc", "opentelemetry.util")
"""Loggers whose messages quote metadata, exceptions or headers."""


class _Formatter(logging.Formatter):
    """Base of both formatters: adds fields, and omits text that may quote a secret."""

    def message(self, record: logging.LogRecord) -> str:
        """Returns the message, or only its format string if the logger quotes."""
        if record.name.startswith(_QUOTING):
            return str(record.msg).partition("\n")[0]
        return record.getMessage()

    def formatException(self, ei: Any) -> str:
        kind, _, trace = ei
        name = kind.__qualname__ if kind else "no exception"
        return "".join(traceback.format_tb(trace)) + name

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        """Returns the fields of a line beside its message."""
        extra: dict[str, Any] = getattr(record, "fields", {})
        request_id = REQUEST_ID.get()
        return {**({_REQUEST_ID: request_id} if request_id else {}), **extra}


class TextFormatter(_Formatter):
    """Formatter of lines for people: the message, then NAME=VALUE of each field."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        record.exc_text = None  # Another handler sets it, with the message of the exception.
        return super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = self.message(record)
        fields = self.fields(record).items()
        return super().formatMessage(record) + "".join(f" {key}={value}" for key, value in fields)


class JsonFormatter(_Formatter):
    """Formatter of lines for programs: one JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": self.message(record),
            **self.fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


def set_up_logs(form: str, *, steps: bool) -> None:
    """Configures logging to stderr, as "text" or as "json".

    Warnings and uncaught exceptions of Python get this form too. gRPC's core, which has a form of
    its own, is silent unless GRPC_VERBOSITY is set.

    Args:
        form: form of the lines.
        steps: true to log the steps of the server, which workers leave to their parent.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # Omits its start and end.
    _STEPS.setLevel(logging.INFO if steps else logging.WARNING)
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    os.environ["GRPC_VERBOSITY"] = os.environ.get("GRPC_VERBOSITY") or "NONE"


def log_step(step: str, **fields: str) -> None:
    """Logs a step of the server, with the version and further fields."""
    _STEPS.info(step, extra={"fields": {"version": imagecall.__version__, **fields}})


def _log_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    logging.getLogger("imagecall").critical("uncaught", exc_info=(kind, error, trace))
