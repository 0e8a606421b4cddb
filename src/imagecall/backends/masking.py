"""Masking of secrets in the errors of a backend, and in the messages of a gRPC backend."""

import hashlib
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, TypeVar

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.rpc.status_pb2 import Status

from imagecall.backends.secret_words import (
    LONGEST_CHARACTER,
    Secrets,
    has_secret,
    without_secrets,
    without_secrets_in_place,
)
from imagecall.errors import GenerationError, ImagecallError
from imagecall.formats import image_format
from imagecall.generation.backend import Part
from imagecall.v1.chunk_pb2 import Chunk, ChunkEnd
from imagecall.v1.image_generation_service_pb2 import StreamImageResponse
from imagecall.wire.chunks import RawChunk

_TEXT_FORMATS = (None, "svg")
"""Formats of values in chunks that may be text."""

_Message = TypeVar("_Message", bound=Message)


@contextmanager
def masked_errors(secrets: Secrets) -> Iterator[None]:
    """Replaces secrets with "[key]" in every part of an ImagecallError."""
    try:
        yield
    except ImagecallError as error:
        _mask_error(error, secrets)
        raise


def masked_message(message: _Message, secrets: Secrets) -> _Message:
    """Returns a message without secrets: "[key]" replaces them, in unknown fields with stars."""
    _mask_message(message, secrets)
    serialized = message.SerializeToString()
    if has_secret(serialized, secrets):
        message.ParseFromString(without_secrets_in_place(serialized, secrets))
    return message


def masked(value: Any, secrets: Secrets) -> Any:
    """Returns a text, or bytes, without secrets."""
    if isinstance(value, str):
        return without_secrets(value.encode(errors="surrogateescape"), secrets).decode(
            errors="surrogateescape"
        )
    return without_secrets(value, secrets)


class MaskedStream:
    """Masks secrets in the serialized parts of an answer to StreamImage.

    A text in chunks is masked at equal length, and gets a new digest. Its last bytes are held back,
    which may be the start of a secret.
    """

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets
        self._longest = max((len(secret) * LONGEST_CHARACTER for secret in secrets), default=0)
        self._is_image = False
        self._held, self._offset, self._digest = b"", 0, hashlib.sha256()

    def mask(self, part: bytes) -> Iterator[Part]:
        """Yields the parts to pass on for the next part."""
        if not self._secrets:
            yield part
            return
        message = StreamImageResponse.FromString(part)
        if not message.HasField("chunk"):
            yield _masked_part(part, message, self._secrets)
        elif self._is_image or self._begins_image(message.chunk):
            self._is_image = not message.chunk.HasField("end")
            yield part
        else:
            yield from self._text(message.chunk)

    def _begins_image(self, chunk: Chunk) -> bool:
        return chunk.offset == 0 and image_format(chunk.data) not in _TEXT_FORMATS

    def _text(self, chunk: Chunk) -> Iterator[RawChunk]:
        """Masks a chunk of a text, together with the bytes that are held back."""
        known = without_secrets_in_place(self._held + chunk.data, self._secrets)
        cut = len(self._held) if chunk.HasField("end") else max(0, len(known) - self._longest)
        if cut:
            yield self._passed(known[:cut])
        self._held = known[cut:]
        if chunk.HasField("end"):
            last = self._passed(self._held)
            yield last._replace(end=self._ended(chunk.end))
            self._held, self._offset, self._digest = b"", 0, hashlib.sha256()

    def _passed(self, data: bytes) -> RawChunk:
        """Returns the next chunk of a text."""
        self._digest.update(data)
        self._offset += len(data)
        return RawChunk(self._offset - len(data), data)

    def _ended(self, end: ChunkEnd) -> ChunkEnd:
        """Returns the end of a text with the digest of the masked text."""
        masked_end = masked_message(end, self._secrets)
        masked_end.sha256 = self._digest.digest()
        return masked_end


def _masked_part(part: bytes, message: StreamImageResponse, secrets: Secrets) -> bytes:
    """Returns an event or the end without secrets; unchanged if it has none."""
    if not has_secret(part, secrets):
        return part
    return masked_message(message, secrets).SerializeToString()


def _mask_error(error: ImagecallError, secrets: Secrets) -> None:
    error.args = (masked(str(error), secrets),)
    error.pointer = masked(error.pointer, secrets)
    error.trailers = tuple((name, masked(value, secrets)) for name, value in error.trailers)
    if isinstance(error, GenerationError):
        _mask_map(error.metadata, secrets)
    if has_secret(error.status, secrets):
        status = masked_message(Status.FromString(error.status), secrets)
        error.status = status.SerializeToString()


def _mask_message(message: Any, secrets: Secrets) -> None:
    """Replaces secrets with "[key]" in every text of a message that this process knows."""
    if isinstance(message, AnyMessage):
        _mask_any(message, secrets)
        return
    for field, value in message.ListFields():
        if _is_map(field):
            _mask_map(value, secrets)
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            for inner in value if field.is_repeated else (value,):
                _mask_message(inner, secrets)
        elif field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
            if field.is_repeated:
                value[:] = [masked(each, secrets) for each in value]
            else:
                setattr(message, field.name, masked(value, secrets))


def _mask_map(values: MutableMapping[Any, Any], secrets: Secrets) -> None:
    for name, value in list(values.items()):
        if isinstance(value, Message):
            _mask_message(value, secrets)
            continue
        del values[name]
        values[masked(name, secrets) if isinstance(name, str) else name] = (
            masked(value, secrets) if isinstance(value, str | bytes) else value
        )


def _mask_any(detail: AnyMessage, secrets: Secrets) -> None:
    """Masks a detail by field, if this process has its type."""
    if not has_secret(detail.value, secrets):
        return
    try:
        kind = descriptor_pool.Default().FindMessageTypeByName(detail.TypeName())
        message = message_factory.GetMessageClass(kind).FromString(detail.value)
    except (KeyError, DecodeError):
        return
    _mask_message(message, secrets)
    detail.value = message.SerializeToString()


def _is_map(field: FieldDescriptor) -> bool:
    kind = field.message_type
    return kind is not None and kind.GetOptions().map_entry
