"""Messages and errors of a gRPC backend without the token that the server sent to that backend."""

from collections.abc import Iterator, MutableMapping
from typing import Any, Final

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.rpc.status_pb2 import Status

from imagecall.backends.responses_api.errors import without_key
from imagecall.errors import GenerationError, ImagecallError

_MASK: Final = b"[key]"


def has_key(data: bytes, key: str) -> bool:
    """Tells whether the key stands in some bytes, and is long enough to be looked for."""
    return without_key(data, key) != data if key else False


def mask_message(message: Any, key: str) -> None:
    """Puts "[key]" in the place of the key in every text of a message."""
    if isinstance(message, AnyMessage):
        _mask_any(message, key)
        return
    for field, value in message.ListFields():
        if _is_map(field):
            _mask_map(value, key)
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            for inner in value if field.is_repeated else (value,):
                mask_message(inner, key)
        elif field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
            if field.is_repeated:
                value[:] = [masked(each, key) for each in value]
            else:
                setattr(message, field.name, masked(value, key))


def masked(value: Any, key: str) -> Any:
    """Returns a text, or bytes, without the key."""
    if isinstance(value, str):
        return without_key(value.encode(errors="surrogateescape"), key).decode(
            errors="surrogateescape"
        )
    return without_key(value, key)


def mask_error(error: ImagecallError, key: str) -> None:
    """Puts "[key]" in the place of the key wherever an error has it."""
    error.args = (masked(str(error), key),)
    error.pointer = masked(error.pointer, key)
    error.trailers = tuple((name, masked(value, key)) for name, value in error.trailers)
    if isinstance(error, GenerationError):
        _mask_map(error.metadata, key)
    if has_key(error.status, key):
        status = Status.FromString(error.status)
        mask_message(status, key)
        error.status = status.SerializeToString()


def _mask_map(values: MutableMapping[Any, Any], key: str) -> None:
    for name, value in list(values.items()):
        if isinstance(value, Message):
            mask_message(value, key)
            continue
        del values[name]
        values[masked(name, key) if isinstance(name, str) else name] = (
            masked(value, key) if isinstance(value, str | bytes) else value
        )


def _mask_any(detail: AnyMessage, key: str) -> None:
    """Masks a message of a type that is known here, or bytes, whose length stays."""
    if not has_key(detail.value, key):
        return
    for message in _unpacked(detail):
        mask_message(message, key)
        detail.value = message.SerializeToString()
        return
    filler = _MASK.ljust(len(key.encode()), b"*")
    detail.value = detail.value.replace(key.encode(), filler)


def _unpacked(detail: AnyMessage) -> Iterator[Any]:
    """Yields the message of a detail, if its type is known here."""
    try:
        kind = descriptor_pool.Default().FindMessageTypeByName(detail.TypeName())
        yield message_factory.GetMessageClass(kind).FromString(detail.value)
    except (KeyError, DecodeError):
        return


def _is_map(field: FieldDescriptor) -> bool:
    kind = field.message_type
    return kind is not None and kind.GetOptions().map_entry
