"""The one exception of the package: a refused conversion, with its reason and its place.

The reasons, and the gRPC status code of each, are the values of ErrorReason in
proto/imagecall/v1/conversion_error.proto.
"""

from collections.abc import Mapping
from typing import Final

from imagecall.v1 import conversion_error_pb2, options_pb2

_PREFIX: Final = "ERROR_REASON_"
_MAX_POINTER: Final = 1024

CODES: Final[Mapping[str, str]] = {
    value.name.removeprefix(_PREFIX): value.GetOptions().Extensions[options_pb2.grpc_code]
    for value in conversion_error_pb2.ErrorReason.DESCRIPTOR.values
    if value.number
}
"""The gRPC status code name of each reason."""


class ConversionError(ValueError):
    """A text or message that was refused.

    `str()` of it is a sentence that names the culprit and the choices; it quotes no image.

    Attributes:
        reason: a stable UPPER_SNAKE word, a key of `CODES`.
        pointer: JSON Pointer (RFC 6901) of the culprit in the text that was given, or that would
            have been written; "" for the whole. Cut after 1,024 characters.
        code: name of the gRPC status code, such as "INVALID_ARGUMENT".
    """

    def __init__(self, reason: str, pointer: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.pointer = pointer if len(pointer) <= _MAX_POINTER else pointer[:_MAX_POINTER] + "…"
        self.code = CODES[reason]

    def under(self, prefix: str) -> "ConversionError":
        """The same error, seen from the document in which the text stands at `prefix`."""
        return ConversionError(self.reason, prefix + self.pointer, str(self))

    def __reduce__(self) -> tuple[type["ConversionError"], tuple[str, str, str]]:
        return type(self), (self.reason, self.pointer, str(self))


def pointer_to(*tokens: str | int) -> str:
    """The JSON Pointer (RFC 6901) of a place, from its keys and indices."""
    return "".join("/" + str(token).replace("~", "~0").replace("/", "~1") for token in tokens)


def printable(text: str) -> str:
    """The text with control and other unprintable characters as in JSON: \\u001b."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)


def quoted(name: str) -> str:
    """A name as it can stand in a sentence: in quotes, printable, cut after 64 characters."""
    return f'"{printable(name)}"' if len(name) <= 64 else f'"{printable(name[:64])}…"'


def malformed(name: str) -> ConversionError:
    """The error for bytes that are not a message of the type `name`."""
    message = f"the bytes are not a serialized {quoted(name)}"
    return ConversionError("MALFORMED_PROTOBUF", "", message)
