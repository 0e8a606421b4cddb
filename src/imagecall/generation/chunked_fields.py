"""Moves values of a message into chunks, which are sent before the message, and back.

An option marks the fields whose values are moved: images always, other values where they are long;
the moved value is empty in the message. See StreamImageResponse in
proto/imagecall/v1/image_generation_service.proto.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cache
from itertools import islice
from typing import Any, Final, NamedTuple

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from imagecall.errors import quoted, too_large_answer
from imagecall.generation.whole_image import WholeImage
from imagecall.json.pieces import Apart, Data
from imagecall.sizes import APART, MEDIUM, MESSAGE
from imagecall.v1 import options_pb2
from imagecall.wire.chunks import Assembly, RawChunk, damaged, raw_chunks

MAX_PATH: Final = 500
"""Longest path from a sender that a sentence quotes uncut."""

_MAX_LISTED: Final = 3
_MAX_UTF8: Final = 4  # bytes of a character


class Place(NamedTuple):
    """Field of a message: the message that holds the field, its name there, and its path."""

    owner: Any
    name: str
    path: str
    """Names from the whole message on, as in ChunkEnd.field."""
    is_image: bool

    @property
    def value(self) -> Any:
        return getattr(self.owner, self.name)

    @value.setter
    def value(self, value: bytes | str) -> None:
        setattr(self.owner, self.name, value)


def image_fields(message: Message) -> list[Place]:
    """Fields of a message that hold an image."""
    return [place for place in _places(message) if place.is_image]


def images_in(message: Message, apart: Apart) -> list[Data]:
    """Images in a message or kept beside it, without the empty ones."""
    images = [apart.get(place.path) or (place.value,) for place in image_fields(message)]
    return [image for image in images if any(map(len, image))]


def text_fields(message: Message) -> list[Place]:
    """Fields of a message that hold a text that may be long."""
    return [place for place in _places(message) if not place.is_image]


def detach_values(message: Message, sent: Collection[str] = ()) -> Iterator[RawChunk | WholeImage]:
    """Empties the large values of a message, and yields the images, and the chunks of the others.

    `sent` holds the paths of images that are empty already, as they have been sent. Raises
    GenerationError if the rest of the message is too large.
    """
    for place in image_fields(message):
        if place.path not in sent:
            image = place.value
            place.value = b""
            yield WholeImage(place.path, image)
    if message.ByteSize() < APART:
        return
    for least in (APART, MEDIUM):
        for place in text_fields(message):
            text = place.value.encode() if len(place.value) > least // _MAX_UTF8 else b""
            if len(text) > least:
                place.value = ""
                yield from raw_chunks(text, field=place.path)
        if message.ByteSize() <= MESSAGE:
            return
    raise too_large_answer("the part of an event that cannot be sent in chunks", MESSAGE)


def restore_values(
    message: Message,
    values: Mapping[str, Assembly],
    image_of: Callable[[Assembly], bytes] = Assembly.whole,
) -> None:
    """Puts large values back into their fields, by path: the inverse of `detach_values`.

    `image_of` returns the bytes to set in the field of an image. Raises ConversionError
    (CHUNKS_DAMAGED) unless there is a value for every image, and a field for every value.
    """
    places = _places(message)
    of_images = {place.path: place for place in places if place.is_image}
    of_texts = {place.path: place for place in places if not place.is_image}
    _check_places(of_images, of_texts, values)
    for path, value in values.items():
        try:
            if path in of_images:
                of_images[path].value = image_of(value)
            else:
                of_texts[path].value = value.whole().decode()
        except UnicodeDecodeError:
            raise damaged(f"the chunks of {path} are not UTF-8", "chunk-text") from None


def _check_places(
    of_images: Mapping[str, Place], of_texts: Mapping[str, Place], values: Mapping[str, Assembly]
) -> None:
    """Raises ConversionError unless values came for all the fields to be filled, and no others."""
    arrived = f"chunks came for {_listed(values)}" if values else "no chunks came"
    missing = [path for path in of_images if path not in values]
    missing += [path for path, text in of_texts.items() if not (text.value or path in values)]
    if missing:
        inline = sum(len(of_images[path].value) for path in missing if path in of_images)
        note = f", and not {inline:,} bytes in the message" if inline else ""
        stray = any(path not in of_images and path not in of_texts for path in values)
        rule = "chunk-field" if stray else "chunk-value"
        raise damaged(f"{arrived}; expected those of {_listed(missing)}{note}", rule)
    for path in values:
        place = of_images.get(path) or of_texts.get(path)
        if place is None:
            name = quoted(path, MAX_PATH)
            message = f"{arrived}; {name} is not an image or a long text that is set"
            raise damaged(message, "chunk-field")
        if place.value:
            message = f"{arrived}; {path} has {len(place.value):,} bytes in the message too"
            raise damaged(message, "chunk-value")


def _listed(paths: Iterable[str]) -> str:
    """List of the first paths, for a sentence."""
    first = [quoted(path, MAX_PATH) for path in islice(paths, _MAX_LISTED + 1)]
    return ", ".join([*first[:_MAX_LISTED], *(["..."] if len(first) > _MAX_LISTED else [])])


class _Step(NamedTuple):
    """Field on the way to a value that is moved, or the field of the value itself."""

    name: str
    leads_on: bool
    is_repeated: bool
    has_presence: bool
    is_image: bool


def _places(message: Message) -> list[Place]:
    """Fields of a message whose values are moved, by number."""
    places: list[Place] = []
    _add_places(message, "", places)
    return places


def _add_places(message: Message, prefix: str, places: list[Place]) -> None:
    for step in _steps(message.DESCRIPTOR):
        name, path = step.name, prefix + step.name
        if step.is_repeated:
            for index, inner in enumerate(getattr(message, name)):
                _add_places(inner, f"{path}[{index}].", places)
        elif step.has_presence and not message.HasField(name):
            continue
        elif step.leads_on:
            _add_places(getattr(message, name), f"{path}.", places)
        else:
            places.append(Place(message, name, path, step.is_image))


@cache
def _steps(descriptor: Descriptor) -> tuple[_Step, ...]:
    """Fields, by number, that have the option or lead to a field that has it."""
    steps = []
    for field in sorted(descriptor.fields, key=lambda field: field.number):
        inner, mode = field.message_type, field.GetOptions().Extensions[options_pb2.in_chunks]
        if _steps(inner) if inner is not None else mode:
            assert inner is not None or not field.is_repeated, "each value needs a path of its own"
            is_image = mode == options_pb2.IN_CHUNKS_ALWAYS
            has_presence = field.has_presence
            steps.append(
                _Step(field.name, inner is not None, field.is_repeated, has_presence, is_image)
            )
    return tuple(steps)
