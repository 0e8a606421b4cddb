"""Masking of secrets in messages and errors of a gRPC backend, which may quote its caller's."""

from collections.abc import Iterator, MutableMapping
from typing import Any, Final

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.rpc.status_pb2 import Status

from imagecall.backends.responses_api.errors import Secrets, without_secrets
from imagecall.errors import GenerationError, ImagecallError

_MASK: Final = b"[key]"


def has_secret(data: bytes, secrets: Secrets) -> bool:
    """Returns true if the bytes contain a secret."""
    return any(secret.encode() in data for secret in secrets)


def mask_message(message: Any, secrets: Secrets) -> None:
    """Replaces secrets with "[key]" in every text of a message."""
    if isinstance(message, AnyMessage):
        _mask_any(message, secrets)
        return
    for field, value in message.ListFields():
        if _is_map(field):
            _mask_map(value, secrets)
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            for inner in value if field.is_repeated else (value,):
                mask_message(inner, secrets)
        elif field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
            if field.is_repeated:
                value[:] = [masked(element, secrets) for element in value]
            else:
                setattr(message, field.name, masked(value, secrets))


def masked(value: Any, secrets: Secrets) -> Any:
    """Returns a text, or bytes, without secrets."""
    if isinstance(value, str):
        return without_secrets(value.encode(errors="surrogateescape"), secrets).decode(
            errors="surrogateescape"
        )
    return without_secrets(value, secrets)


def mask_error(error: ImagecallError, secrets: Secrets) -> None:
    """Replaces secrets with "[key]" in every part of an error."""
    error.args = (masked(str(error), secrets),)
    error.pointer = masked(error.pointer, secrets)
    error.trailers = tuple((name, masked(value, secrets)) for name, value in error.trailers)
    if isinstance(error, GenerationError):
        _mask_map(error.metadata, secrets)
    if has_secret(error.status, secrets):
        status = Status.FromString(error.status)
        mask_message(status, secrets)
        error.status = status.SerializeToString()


def _mask_map(values: MutableMapping[Any, Any], secrets: Secrets) -> None:
    for name, value in list(values.items()):
        if isinstance(value, Message):
            mask_message(value, secrets)
            continue
        del values[name]
        values[masked(name, secrets) if isinstance(name, str) else name] = (
            masked(value, secrets) if isinstance(value, str | bytes) else value
        )


def _mask_any(detail: AnyMessage, secrets: Secrets) -> None:
    """Masks a detail: by field if this process has its type, else in its bytes, at equal length."""
    if not has_secret(detail.value, secrets):
        return
    for message in _unpacked(detail):
        mask_message(message, secrets)
        detail.value = message.SerializeToString()
        return
    for secret in map(str.encode, secrets):
        detail.value = detail.value.replace(secret, _MASK.ljust(len(secret), b"*"))


def _unpacked(detail: AnyMessage) -> Iterator[Any]:
    """Yields the message of a detail, if this process has its type."""
    try:
        kind = descriptor_pool.Default().FindMessageTypeByName(detail.TypeName())
        yield message_factory.GetMessageClass(kind).FromString(detail.value)
    except (KeyError, DecodeError):
        return


def _is_map(field: FieldDescriptor) -> bool:
    kind = field.message_type
    return kind is not None and kind.GetOptions().map_entry
