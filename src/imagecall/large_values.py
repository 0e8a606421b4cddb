"""The values of a message that go in chunks beside it, taken out and put back.

Which they are is an option of their fields, and how they go is said at StreamImageResponse in
proto/imagecall/v1/image_generation_service.proto: images first and always, then the other values
that are long, each in the order of the fields, by number, depth first. What is left in the message
is an empty value.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, Final, NamedTuple

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from imagecall.chunks import damaged, split
from imagecall.formats import media_type
from imagecall.v1 import options_pb2
from imagecall.v1.chunk_pb2 import Chunk

LONG: Final = 256 * 1024
"""The number of characters past which a text goes in chunks."""


class Place(NamedTuple):
    """A field of a message: the message that holds it, and its name there."""

    owner: Any
    name: str

    @property
    def value(self) -> Any:
        return getattr(self.owner, self.name)

    @value.setter
    def value(self, value: bytes | str) -> None:
        setattr(self.owner, self.name, value)


def images(message: Message) -> list[Place]:
    """The places that hold an image, in order."""
    return list(_places(message, options_pb2.IN_CHUNKS_ALWAYS))


def first_image(message: Message) -> Place | None:
    """The place of the first image that the message can have. None: that one is not set."""
    for field in _leading_to(message.DESCRIPTOR, options_pb2.IN_CHUNKS_ALWAYS):
        if field.containing_oneof is not None and not message.HasField(field.name):
            if len(field.containing_oneof.fields) > 1:
                continue  # Another member is set.
            return None
        if field.message_type is None:
            return Place(message, field.name)
        inner = getattr(message, field.name)
        if field.is_repeated:
            return first_image(inner[0]) if inner else None
        return first_image(inner) if message.HasField(field.name) else None
    return None


def texts(message: Message) -> list[Place]:
    """The places that hold a text that may be long, in order."""
    return list(_places(message, options_pb2.IN_CHUNKS_LONG))


def take_out(message: Message, sent: int = 0) -> Iterator[Chunk]:
    """The chunks of the large values of a message, each of which is left empty.

    The first `sent` images are empty already: their chunks have been sent.
    """
    for place in images(message)[sent:]:
        image = place.value
        place.value = b""
        yield from split(image, media_type(image))
    for place in texts(message):
        if len(place.value) > LONG:
            text = place.value.encode()
            place.value = ""
            yield from split(text)


def put_back(message: Message, values: Sequence[bytes]) -> None:
    """Puts large values back where they were: the inverse of `take_out`.

    Raises ConversionError: CHUNKS_DAMAGED if they are more or fewer than the places for them.
    """
    places = [*images(message), *(place for place in texts(message) if not place.value)]
    if len(places) != len(values):
        raise damaged(f"{len(values)} sequences of chunks came for {len(places)} empty values")
    for place, value in zip(places, values, strict=True):
        try:
            place.value = value if isinstance(place.value, bytes) else value.decode()
        except UnicodeDecodeError:
            raise damaged("the chunks of a text are not UTF-8") from None


def _places(message: Message, mode: options_pb2.InChunks.ValueType) -> Iterator[Place]:
    for field in _leading_to(message.DESCRIPTOR, mode):
        if field.message_type is None:
            if not field.has_presence or message.HasField(field.name):
                yield Place(message, field.name)
        elif field.is_repeated:
            for inner in getattr(message, field.name):
                yield from _places(inner, mode)
        elif message.HasField(field.name):
            yield from _places(getattr(message, field.name), mode)


@cache
def _leading_to(
    descriptor: Descriptor, mode: options_pb2.InChunks.ValueType
) -> tuple[FieldDescriptor, ...]:
    """The fields of a message that have the option, or lead to one that has it, by number."""
    fields = sorted(descriptor.fields, key=lambda field: field.number)
    return tuple(
        field
        for field in fields
        if (
            _leading_to(field.message_type, mode)
            if field.message_type is not None
            else field.GetOptions().Extensions[options_pb2.in_chunks] == mode
        )
    )
