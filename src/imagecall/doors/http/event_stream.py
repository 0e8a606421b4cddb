"""Stream of events of the HTTP door, complete for every SDK.

The events of an API are passed on with new sequence numbers. Events that SDKs wait for and the API
did not send are added: at the beginning and the end of a stream, and for items without events; so
are missing keys of a response object and of an item. No value of the API is changed, except the id
of an item whose id differs between its first and its last event: SDKs accept only the first.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any, Final, NamedTuple, TypeGuard, cast

from imagecall.conversion.converter import EVENTS, event_pieces
from imagecall.conversion.document import PlacedCall
from imagecall.conversion.fields import refuse_unknown_fields, spellings
from imagecall.conversion.objects import RawObjectPlan, type_of
from imagecall.doors.http.answers import error_object, http_status_of, response_members
from imagecall.doors.http.item_events import (
    ADDED,
    Event,
    before,
    before_done,
    ending,
    event,
    note,
    type_of_item,
)
from imagecall.doors.http.output_items import (
    Followed,
    OutputItem,
    OutputItems,
    Placed,
    calls_of,
    item_of,
)
from imagecall.errors import ConversionError, ImagecallError, damaged_answer, pointer_to
from imagecall.generation.assembly import StreamItem
from imagecall.generation.calls_once import elsewhere
from imagecall.generation.response_keys import final_keys
from imagecall.json.pieces import (
    NOTHING_APART,
    Apart,
    Piece,
    check_depth_of,
    join_element_pieces,
    join_member_pieces,
    merged,
    under,
    under_each,
)
from imagecall.json.text import MAX_VALUES, JsonValue, elements, join_members, members, quote
from imagecall.v1.image_generation_service_pb2 import StreamEnd, StreamEnding
from imagecall.v1.image_response_pb2 import ImageResponse

_CREATED: Final = "response.created"
_IN_PROGRESS: Final = "response.in_progress"
_TYPES: Final = {number: tag for tag, number in spellings(StreamEnding.DESCRIPTOR).items() if tag}
"""Type of the event that ends a stream, by ending."""

_COMPLETED: Final = _TYPES[StreamEnding.STREAM_ENDING_COMPLETED]
_RAW: Final = cast("RawObjectPlan", EVENTS.fallback.plan)
"""Plan of an event that is kept as text."""

_NULL: Final = b"null"
_NUMBER: Final = "sequence_number"
_OUTPUT: Final = "output"
_ITEM: Final = "item"
_INDEX: Final = "output_index"


class Arrived(NamedTuple):
    """Event or end of a stream, with its large images set apart."""

    item: StreamItem
    apart: Apart = NOTHING_APART


class EventStream:
    """Formats the events of one stream as server-sent events.

    Args:
        keys: the keys of the response with their default values.
    """

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        self._keys = dict(keys)
        self._number = 0
        self._id = b""
        self._items = OutputItems()
        self._sent: dict[int, PlacedCall] = {}

    def size_of(self, arrived: Arrived) -> int:
        """Returns the number of bytes to format; an end may refer to each call that was sent."""
        size = arrived.item.ByteSize()
        if isinstance(arrived.item, StreamEnd):
            size += sum(call.ByteSize() for call, _ in self._sent.values())
        return size

    def lines(self, arrived: Arrived) -> Iterator[Sequence[Piece]]:
        """Yields the lines of an event or of the end, each in pieces. Raises GenerationError."""
        try:
            if isinstance(arrived.item, StreamEnd):
                yield from map(self._line, self._end(arrived.item, arrived.apart))
            else:
                yield from map(self._line, self._event(arrived))
        except ConversionError as error:
            raise damaged_answer(str(error)) from None

    def error(self, error: ImagecallError) -> Sequence[Piece]:
        """Returns the line of an error in the middle of a stream."""
        status = http_status_of(error)
        fields = {key: quote(value) for key, value in error_object(error, status).items()}
        values = fields | {"type": b'"error"', "code": quote(str(status))}
        return self._line(Event("error", _in_pieces(values | {"error": join_members(fields)})))

    def _line(self, event: Event | Arrived) -> Sequence[Piece]:
        """Returns the line of an event with the next sequence number."""
        number, self._number = self._number, self._number + 1
        if isinstance(event, Arrived):
            _set(_variant(event.item), _NUMBER, number)
            tag = EVENTS.chosen(event.item).plan.tag
            pieces = event_pieces(event.item, event.apart)  # type: ignore[arg-type]  # an event
        else:
            tag = event.type
            numbered = {**event.values, _NUMBER: [str(number).encode()]}
            pieces = check_depth_of(join_member_pieces(numbered))
        return server_sent(tag, pieces)

    def _event(self, arrived: Arrived) -> Iterator[Event | Arrived]:
        variant = EVENTS.chosen(arrived.item)
        variant_event = _variant(arrived.item)
        tag = variant_event.type if variant.option.fallback else variant.plan.tag
        if self._number == 0 and tag != _CREATED:
            yield from self._beginning()
        if variant.option.fallback:
            yield from self._other(arrived)
        elif _ITEM in variant_event.DESCRIPTOR.fields_by_name:
            item = OutputItem(variant_event.item, under(arrived.apart, f"{variant.name}.{_ITEM}"))
            yield from self._of_item(tag, item, variant_event, arrived)
        else:
            yield from self._of_call(tag, variant_event, arrived)

    def _beginning(self) -> Iterator[Event]:
        """Yields the events that begin a stream, if the backend does not send them.

        SDKs require the same id of the response in all events; this id is created by the door.
        """
        self._id = self._keys["id"]
        response = join_members(self._keys)
        for tag in (_CREATED, _IN_PROGRESS):
            yield event(tag, response=response)

    def _other(self, arrived: Arrived) -> Iterator[Event]:
        """Yields an event of the response, or of an item other than an image generation call."""
        refuse_unknown_fields(arrived.item, "")
        text, values = _RAW.checked(_variant(arrived.item))
        raws, tag = members(text), type_of(values)
        if self._id and tag in (_CREATED, _IN_PROGRESS):
            return
        if isinstance(values.get("response"), dict):
            raws["response"] = self._response(raws["response"])
        index, name = values.get(_INDEX), values.get("item_id")
        item = self._followed(
            tag, index if _is_index(index) else None, name if isinstance(name, str) else ""
        )
        if item is not None:
            yield from before(item, tag, values)
            note(item, tag, values)
        yield Event(tag, _in_pieces(raws))

    def _response(self, raw: bytes) -> bytes:
        """Returns an event's response with all keys; later events of the stream use its id."""
        values = members(raw)
        if self._id:
            values["id"] = self._id
        elif "id" in values:
            self._keys["id"] = values["id"]
        else:
            self._id = self._keys["id"]
        return join_members(self._keys | values)

    def _of_call(self, tag: str, variant_event: Any, arrived: Arrived) -> Iterator[Event | Arrived]:
        """Yields an event of an image generation call, after the events missing before it."""
        item = self._followed(tag, _index(variant_event), variant_event.item_id)
        if item is not None:
            yield from before(item, tag, {})
            note(item, tag, {})
            _set(variant_event, _INDEX, item.index)
        yield arrived

    def _followed(self, tag: str, index: int | None, name: str) -> Followed | None:
        """Returns the item of an event; a new one, if the event shows the item's type."""
        if index is None and not name:
            return None
        item = self._items.find(index, name)
        kind = type_of_item(tag)
        return self._items.add(index, name, kind) if item is None and kind else item

    def _of_item(
        self, tag: str, item: OutputItem, variant_event: Any, arrived: Arrived
    ) -> Iterator[Event | Arrived]:
        """Yields the event that adds an item or completes it, and the events missing before.

        A call that is done without its image waits for the end of the stream, which may have it.
        """
        begins = tag == ADDED
        index = _index(variant_event)
        followed = self._items.find(index, item.id, begins)
        if followed is None:
            followed = self._items.add(index, item.id, item.type)
        self._items.name(followed, item.id, item.type)
        if not begins and variant_event.HasField(_INDEX):
            self._sent[variant_event.output_index] = deepcopy(item.call), item.apart
        item.complete(followed.id)
        if begins and followed.added:
            return
        if begins:
            followed.added, followed.added_item = True, item
        else:
            followed.final = item
            if item.waits:
                return
            yield from before_done(followed, item, item.raws())
        item.drop_raws()  # The item is kept until the stream ends.
        _set(variant_event, _INDEX, followed.index)
        yield arrived

    def _end(self, end: StreamEnd, apart: Apart) -> Iterator[Event]:
        if self._number == 0:
            yield from self._beginning()
        response = under(apart, "response")
        values = _in_pieces(final_keys(self._keys))
        values |= response_members(end.response, response, self._sent)
        tag = _TYPES.get(end.ending, _COMPLETED)
        if self._id:
            values["id"] = [self._id]
        if end.ending not in _TYPES or values["status"] == [self._keys["status"]]:
            values["status"] = [quote(tag.removeprefix("response."))]
        output = _of_document(end.response, response, self._sent)
        placed = output or [Placed(None, item) for item in calls_of(end.response, response)]
        yield from self._missing(placed, tag == _COMPLETED)
        if not output:
            finals = (item.final.pieces() for item in self._items if item.final is not None)
            values[_OUTPUT] = join_element_pieces(finals)
        self._items, self._sent = OutputItems(), {}  # Frees images while the end is sent.
        yield event(tag, response=join_member_pieces(values))

    def _missing(self, output: Sequence[Placed], completed: bool) -> Iterator[Event]:
        """Yields the missing events of the items of the output, and of unfinished items."""
        for placed, followed in zip(output, self._items.matched(output), strict=True):
            item = placed.item
            if followed is None:
                followed = self._items.add(self._items.free(placed.at), item.id, item.type)
            if not followed.done:
                best = followed.final if followed.final and not item.has_result else item
                yield from ending(followed, best, completed)
        for followed in self._items:
            if not followed.done:
                yield from ending(followed, followed.final, completed)


def server_sent(tag: str, pieces: Iterable[Piece]) -> Sequence[Piece]:
    """Returns the lines of a server-sent event: its type, and its JSON in one line."""
    name = b"event: %b\n" % tag.encode() if tag.isprintable() else b""
    return [name + b"data: ", *map(_in_one_line, merged(pieces)), b"\n\n"]


def _of_document(
    response: ImageResponse, apart: Apart, sent: Mapping[int, PlacedCall]
) -> list[Placed]:
    """Returns the output items of a response's document; none without a document."""
    raws = members(response.document.json.encode()) if response.HasField("document") else {}
    output = raws.get(_OUTPUT, _NULL)
    images = under_each(apart, "document.calls")
    calls = {
        place.pointer: OutputItem(place.call, under(images[number], "call"))
        for number, place in enumerate(response.document.calls)
        if place.HasField("call")
    }
    calls |= {
        pointer: OutputItem(call, images)
        for pointer, (call, images) in elsewhere(response, apart, sent).items()
    }
    placed: list[Placed] = []
    for index, raw in enumerate(elements(output) if output.startswith(b"[") else []):
        item = calls.get(pointer_to(_OUTPUT, index)) or item_of(raw)
        if item is not None:
            placed.append(Placed(index, item))
    return placed


def _variant(item: StreamItem) -> Any:
    """Returns the variant that a StreamEvent holds."""
    return getattr(item, EVENTS.chosen(item).name)


def _index(variant_event: Any) -> int | None:
    index: int | None = variant_event.output_index if variant_event.HasField(_INDEX) else None
    return index if _is_index(index) else None


def _is_index(value: JsonValue) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < MAX_VALUES


def _set(variant_event: Any, name: str, value: int) -> None:
    """Sets a number of an event, and drops any other value of its key."""
    setattr(variant_event, name, value)
    for number, extra in reversed(list(enumerate(variant_event.extra_fields))):
        if extra.name == name:
            del variant_event.extra_fields[number]


def _in_pieces(values: Mapping[str, bytes]) -> dict[str, Sequence[Piece]]:
    return {key: [raw] for key, raw in values.items()}


def _in_one_line(piece: Piece) -> Piece:
    """Replaces line breaks by spaces: in JSON, line breaks occur only between tokens."""
    if isinstance(piece, bytes):
        return piece.replace(b"\n", b" ").replace(b"\r", b" ")
    return piece
