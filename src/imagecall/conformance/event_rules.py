"""Rules of the events of a stream: identifiers, indices, order, statuses and partial images."""

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final

from imagecall.conformance.answer import StreamAnswer
from imagecall.conformance.event import (
    ORDER,
    PARTIAL,
    Event,
    id_of,
    index_of,
    is_of_call,
    is_of_item,
    item_of,
    number_of,
    type_of,
)
from imagecall.conformance.rule import Check, Finding, Rule
from imagecall.conformance.session import Session, Skipped
from imagecall.errors import quoted
from imagecall.generation.chunked_fields import image_fields


def _place(answer: StreamAnswer, event: Event) -> str:
    return f"{answer.name}, {type_of(event)}"


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
    return [event for event in answer.events if is_of_call(event)]


def _ids(answer: StreamAnswer) -> Iterator[Finding]:
    ids: dict[int, str] = {}
    for event in _of_calls(answer):
        place, identifier, index = _place(answer, event), id_of(event), index_of(event)
        if identifier is None:
            yield Finding(f"{place}: no id", "the id of the call")
        elif index is not None and ids.setdefault(index, identifier) != identifier:
            expected = f"{quoted(ids[index])}, as in the events before"
            yield Finding(f"{place}: {quoted(identifier)}", expected)


def _indices(answer: StreamAnswer) -> Iterator[Finding]:
    indices: dict[str, int] = {}
    for event in answer.events:
        if not (is_of_item(event) or is_of_call(event)):
            continue
        place, identifier, index = _place(answer, event), id_of(event), index_of(event)
        if index is None:
            yield Finding(f"{place}: no index", "the index of the item in the output")
        elif identifier and indices.setdefault(identifier, index) != index:
            expected = f"{indices[identifier]}, as in the events before"
            yield Finding(f"{place}: {index}", expected)


def _numbers(answer: StreamAnswer) -> Iterator[Finding]:
    last, gaps = -1, 0
    for event in answer.events:
        number = number_of(event)
        if number is None:
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
        if is_of_item(event) and not item_of(event).get("status"):
            yield Finding(f"{_place(answer, event)}: no status", "the status of the call")


def _order(answer: StreamAnswer) -> Iterator[Finding]:
    last: dict[int | None, int] = defaultdict(lambda: -1)
    for event in _of_calls(answer):
        key, rank = index_of(event) or 0, ORDER.index(type_of(event))
        if rank < last[key] or (rank == last[key] and type_of(event) != PARTIAL):
            before = ORDER[last[key]]
            yield Finding(f"{_place(answer, event)}, after {before}", f"the order {_shown(ORDER)}")
        last[key] = max(last[key], rank)


def _shown(types: tuple[str, ...]) -> str:
    return ", ".join(
        name.removeprefix("response.").removeprefix("image_generation_call.") for name in types
    )


def _partial_images(answer: StreamAnswer) -> Iterator[Finding]:
    indices = [e.get("partial_image_index") for e in answer.events if type_of(e) == PARTIAL]
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
