"""Exceptions of the package, each with a reason, a place and a gRPC status code.

The reasons, and the status code of each, are the values of ErrorReason in
proto/imagecall/v1/conversion_error.proto.
"""

from collections.abc import Mapping
from typing import Any, Final

from imagecall.v1 import conversion_error_pb2, options_pb2

_PREFIX: Final = "ERROR_REASON_"
_MAX_POINTER: Final = 1024
_VALUES: Final = {
    value.name.removeprefix(_PREFIX): value.GetOptions().Extensions
    for value in conversion_error_pb2.ErrorReason.DESCRIPTOR.values
    if value.number
}

CODES: Final[Mapping[str, str]] = {
    reason: options[options_pb2.grpc_code] for reason, options in _VALUES.items()
}
"""Name of the gRPC status code of each reason."""

REASONS_BY_HTTP_STATUS: Final[Mapping[int, str]] = {
    status: reason
    for reason, options in _VALUES.items()
    for status in options[options_pb2.http_status]
}
"""Reason for each HTTP status of an API."""

_SERVER_ERROR: Final = 500

MAX_RETRY_SECONDS: Final = 24 * 3600
"""Longest delay before a retry that an error has."""


class ImagecallError(Exception):
    """Base of every exception of the package.

    `str()` of an exception is a sentence that names the culprit and the choices; the sentence
    quotes no image and no API key.

    Attributes:
        reason: stable name in UPPER_SNAKE_CASE, a key of `CODES`; "" for a failure that has none,
            such as one of gRPC itself.
        pointer: JSON Pointer (RFC 6901) of the culprit in the JSON that was read, or that would
            have been written; "" for the whole. Cut after 1,024 characters.
        code: name of the gRPC status code, such as "INVALID_ARGUMENT".
        status: the serialized google.rpc.Status with which a gRPC server answered. Empty: the error
            does not come from a server, or came without details.
        trailers: further trailing metadata of the server's answer.
        rule: name of the rule in proto/README.md that an answer breaks; "" for no such rule.
    """

    status: bytes = b""
    rule: str = ""
    trailers: tuple[tuple[str, str | bytes], ...] = ()

    def __init__(self, reason: str, pointer: str, message: str, code: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.pointer = pointer if len(pointer) <= _MAX_POINTER else pointer[:_MAX_POINTER] + "…"
        self.code = code or CODES[reason]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self)._restore, (self.__dict__, str(self))

    @classmethod
    def _restore(cls, attributes: Mapping[str, Any], message: str) -> "ImagecallError":
        error = cls.__new__(cls, message)
        error.__dict__.update(attributes)
        error.args = (message,)
        return error


class ConversionError(ImagecallError, ValueError):
    """Refusal of a text or message."""

    def under(self, prefix: str) -> "ConversionError":
        """Error with `prefix` before its pointer: that of the text in a larger document."""
        return ConversionError(self.reason, prefix + self.pointer, str(self))


class FileError(ImagecallError, OSError):
    """Failure to read or write a file of the caller."""

    def __init__(self, message: str) -> None:
        super().__init__("", "", message, "FAILED_PRECONDITION")


class GenerationError(ImagecallError):
    """Failure of a call: in the backend, in the server, or in gRPC.

    Attributes:
        retry_seconds: delay before a retry, from the API's answer. None: the answer has none.
        may_be_billed: True if the API may have begun to bill, so that a retry can cost twice.
        metadata: "http_status", "upstream_code", "upstream_type" and "upstream_request_id", those
            that the API's answer has.
    """

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        pointer: str = "",
        code: str = "",
        retry_seconds: float | None = None,
        may_be_billed: bool = False,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(reason, pointer, message, code)
        self.retry_seconds = retry_seconds
        self.may_be_billed = may_be_billed
        self.metadata = dict(metadata or {})


def reason_of_http_status(status: int) -> str:
    """Reason for an HTTP status of an API, of 400 to 599."""
    general = 400 if status < _SERVER_ERROR else _SERVER_ERROR
    return REASONS_BY_HTTP_STATUS.get(status) or REASONS_BY_HTTP_STATUS[general]


def pointer_to(*tokens: str | int) -> str:
    """JSON Pointer (RFC 6901) of a place, from its keys and indices."""
    return "".join("/" + str(token).replace("~", "~0").replace("/", "~1") for token in tokens)


def printable(text: str) -> str:
    """Escapes control and other unprintable characters as in JSON: \\u001b."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)


def quoted(name: str, longest: int = 64) -> str:
    """Quotes a name for a sentence: escaped, and cut after `longest` characters."""
    return f'"{printable(name[:longest])}{"…" if len(name) > longest else ""}"'


def cut_by_bytes(text: str, size: int) -> str:
    """Cuts the text to about `size` bytes in UTF-8."""
    data = text.encode(errors="replace")
    return text if len(data) <= size else data[:size].decode(errors="ignore") + "…"


def damaged_answer(fault: str, backend: str = "API", rule: str = "") -> GenerationError:
    """Error for an answer of a backend that is incomplete or malformed."""
    message = f"the {backend}'s answer is damaged: {fault}"
    error = GenerationError("UPSTREAM_DAMAGED", message, may_be_billed=True)
    error.rule = rule
    return error


def too_large_answer(subject: str, limit: int, unit: str = "bytes") -> GenerationError:
    """Error for an answer of an API that is larger than a limit."""
    message = f"{subject} is larger than {limit:,} {unit}"
    return GenerationError("UPSTREAM_ANSWER_TOO_LARGE", message, may_be_billed=True)


def malformed(name: str) -> ConversionError:
    """Error for bytes that are not a message of the type `name`."""
    message = f"the bytes are not a serialized {quoted(name)}"
    return ConversionError("MALFORMED_PROTOBUF", "", message)
