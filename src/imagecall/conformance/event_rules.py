"""Rules of the events of a stream: identifiers, indices, order, statuses and partial images."""

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final

from imagecall.conformance.answer import StreamAnswer
from imagecall.conformance.rule import Check, Finding, Rule
from imagecall.conformance.session import Session, Skipped
from imagecall.conversion.converter import CALLS
from imagecall.generation.chunked_fields import image_fields

_CALL: Final = "response.image_generation_call."
_ADDED: Final = "response.output_item.added"
_DONE: Final = "response.output_item.done"
_PARTIAL: Final = f"{_CALL}partial_image"
_ORDER: Final = (
    _ADDED,
    f"{_CALL}in_progress",
    f"{_CALL}generating",
    _PARTIAL,
    f"{_CALL}completed",
    _DONE,
)
"""Types of the events of a call, in their order."""

Event = dict[str, Any]


def _is_of_call(event: Event) -> bool:
    """Reports an event of an image call."""
    kind = event.get("type")
    return kind in _ORDER and ("item" not in event or event["item"].get("type") in CALLS.by_type)


def _id_of(event: Event) -> Any:
    return event["item"].get("id") if "item" in event else event.get("item_id")


def _place(answer: StreamAnswer, event: Event) -> str:
    return f"{answer.name}, {event['type']}"


def _each(check: Callable[[StreamAnswer], Iterator[Finding]]) -> Check:
    """Check of every stream whose events can be read."""

    async def checked(session: Session) -> AsyncIterator[Finding]:
        answers = await session.streams()
        readable = [answer for answer in answers if answer.is_readable]
        if not readable:
            raise Skipped("hidden by the fault of json")
        for answer in readable:
            for finding in check(answer):
                yield finding

    return checked


def _of_calls(answer: StreamAnswer) -> list[Event]:
    return [event for event in answer.events if _is_of_call(event)]


def _ids(answer: StreamAnswer) -> Iterator[Finding]:
    ids: dict[Any, Any] = {}
    for event in _of_calls(answer):
        place, identifier, index = _place(answer, event), _id_of(event), event.get("output_index")
        if not isinstance(identifier, str) or not identifier:
            yield Finding(f"{place}: no id", "the id of the call")
        elif index is not None and ids.setdefault(index, identifier) != identifier:
            yield Finding(f"{place}: {identifier!r}", f"{ids[index]!r}, as in the events before")


def _indices(answer: StreamAnswer) -> Iterator[Finding]:
    indices: dict[Any, Any] = {}
    for event in answer.events:
        is_item = event.get("type") in (_ADDED, _DONE)
        if not (is_item or _is_of_call(event)):
            continue
        place, identifier, index = _place(answer, event), _id_of(event), event.get("output_index")
        if index is None or index < 0:
            came = "no index" if index is None else str(index)
            yield Finding(f"{place}: {came}", "the index of the item in the output")
        elif identifier and indices.setdefault(identifier, index) != index:
            yield Finding(f"{place}: {index}", f"{indices[identifier]}, as in the events before")


def _numbers(answer: StreamAnswer) -> Iterator[Finding]:
    last, gaps = -1, 0
    for event in answer.events:
        number = event.get("sequence_number")
        if not isinstance(number, int):
            yield Finding(f"{_place(answer, event)}: no number", "the sequence_number")
            return
        if number <= last:
            yield Finding(f"{_place(answer, event)}: {number}", f"a number above {last}")
            return
        gaps += number - last - 1 if last >= 0 else 0
        last = number
    missing = answer.end.missing_events if answer.end else 0
    if answer.other_events and gaps > missing:
        came = f"{answer.name}: {gaps} numbers are missing, and missing_events is {missing}"
        yield Finding(came, "numbers without a gap, or missing_events")


def _statuses(answer: StreamAnswer) -> Iterator[Finding]:
    for event in _of_calls(answer):
        if "item" in event and not event["item"].get("status"):
            yield Finding(f"{_place(answer, event)}: no status", "the status of the call")


def _order(answer: StreamAnswer) -> Iterator[Finding]:
    last: dict[Any, int] = defaultdict(lambda: -1)
    for event in _of_calls(answer):
        key, rank = event.get("output_index", 0), _ORDER.index(event["type"])
        if rank < last[key] or (rank == last[key] and event["type"] != _PARTIAL):
            before = _ORDER[last[key]]
            yield Finding(f"{_place(answer, event)}, after {before}", f"the order {_shown(_ORDER)}")
        last[key] = max(last[key], rank)


def _shown(types: tuple[str, ...]) -> str:
    return ", ".join(
        name.removeprefix("response.").removeprefix("image_generation_call.") for name in types
    )


def _partial_images(answer: StreamAnswer) -> Iterator[Finding]:
    indices = [e.get("partial_image_index") for e in answer.events if e.get("type") == _PARTIAL]
    limit = answer.partial_images
    if len(indices) > limit:
        yield Finding(f"{answer.name}: {len(indices)} partial images", f"at most {limit}")
    elif indices != [*range(len(indices))]:
        came = ", ".join(map(str, indices))
        yield Finding(f"{answer.name}: the indices {came}", "indices from 0, without a gap")


def _images(answer: StreamAnswer) -> Iterator[Finding]:
    end = answer.end
    if end is None or end.response.status not in ("", "completed"):
        return
    if not any(size for size in _sizes(answer)):
        came = f"{answer.name}: no image, or an empty one"
        yield Finding(came, "an image in the chunks of an OutputItemDoneEvent, or of the end")


def _sizes(answer: StreamAnswer) -> Iterator[int]:
    """Yields the sizes of finished images: in chunks, or, against the rule, in their event."""
    size = 0
    for part in answer.parts:
        match part.WhichOneof("part"):
            case "chunk":
                size += len(part.chunk.data)
            case "event":
                if part.event.HasField("output_item_done_event"):
                    item = part.event.output_item_done_event.item
                    yield size + sum(len(place.value) for place in image_fields(item))
                size = 0
            case "end":
                yield size if part.end.response.calls else 0


RULES: Final = (
    Rule(
        "call-id",
        "all events of a call have its id",
        "StreamEvent",
        _each(_ids),
    ),
    Rule(
        "output-index",
        "all events of an item have its index in the output",
        "StreamEvent",
        _each(_indices),
    ),
    Rule(
        "sequence-number",
        "each event has a sequence number, and the numbers rise by one",
        "StreamEvent",
        _each(_numbers),
    ),
    Rule(
        "call-status",
        "an item that was added or is done has a status",
        "StreamEvent",
        _each(_statuses),
    ),
    Rule(
        "event-order",
        "the events of a call come in the order that StreamImage lists",
        "ImageGenerationService.StreamImage",
        _each(_order),
    ),
    Rule(
        "partial-images",
        "a stream has at most as many partial images as were requested, numbered from 0",
        "ImageGenerationTool.partial_images",
        _each(_partial_images),
    ),
    Rule(
        "image",
        "a stream that completes has the image that was requested",
        "OutputItemDoneEvent",
        _each(_images),
    ),
)
