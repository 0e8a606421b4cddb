"""Answers that have each call once, for a request with calls_once.

The document of such an answer refers to a call that is elsewhere in the answer: see DocumentCall in
proto/imagecall/v1/document.proto.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from imagecall.conversion.document import Elsewhere, PlacedCall
from imagecall.errors import ConversionError, quoted
from imagecall.json.pieces import NOTHING_APART, Apart, under_each
from imagecall.turns import take_turn
from imagecall.v1.document_pb2 import Document, DocumentCall
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall
from imagecall.v1.image_response_pb2 import ImageResponse
from imagecall.wire.chunks import damaged

OUTPUT: Final = "/output/"
"""Prefix of the JSON Pointers of the calls of a response."""


def output_calls(document: Document) -> Iterator[tuple[int, DocumentCall]]:
    """Yields each call of a response's output, with its index there."""
    for place in document.calls:
        if place.pointer.startswith(OUTPUT):
            yield int(place.pointer.removeprefix(OUTPUT)), place


def leave_out_calls(response: ImageResponse) -> None:
    """Leaves the calls out of a document that are in ImageResponse.calls, in the same order."""
    places = (place for _, place in output_calls(response.document))
    for number, (place, call) in enumerate(zip(places, response.calls, strict=False)):
        take_turn()
        if place.call == call:
            place.ClearField("call")
            place.call_index = number


def leave_out_sent(document: Document, is_sent: Callable[[int, ImageGenerationCall], bool]) -> None:
    """Leaves the calls out of a document that are the items of OutputItemDoneEvents.

    `is_sent` is true if the last of those events with an index has an equal item.
    """
    for index, place in output_calls(document):
        if place.HasField("call") and is_sent(index, place.call):
            place.ClearField("call")
            place.output_index = index


def elsewhere(
    response: ImageResponse,
    apart: Apart = NOTHING_APART,
    sent: Mapping[int, PlacedCall] | None = None,
) -> Elsewhere:
    """Returns the calls to which the document of a response refers, by their pointers.

    `apart` has the images of the response that are set apart, `sent` the items of the
    OutputItemDoneEvents by their output_index. Raises ConversionError (CHUNKS_DAMAGED) for a
    reference to no call, and for a second reference to a call.
    """
    found: dict[str, PlacedCall] = {}
    used: set[tuple[str, int]] = set()
    images = under_each(apart, "calls")
    for place in response.document.calls:
        field = _field_of(place)
        if field in ("", "call"):
            continue
        index = getattr(place, field)
        if (field, index) in used:
            raise _damaged(place, f"has {field} {index}, as another place has")
        used.add((field, index))
        if field == "call_index":
            if index >= len(response.calls):
                raise _damaged(place, f"is not in calls[{index}]")
            found[place.pointer] = response.calls[index], images[index]
        else:
            if sent is None or index not in sent:
                raise _damaged(place, f"is in no event with output_index {index}")
            found[place.pointer] = sent[index]
    return found


def _field_of(place: DocumentCall) -> str:
    """Returns the field with a call or a reference to it; "" if none is set."""
    fields = [name for name in ("call", "call_index", "output_index") if place.HasField(name)]
    if len(fields) > 1:
        raise _damaged(place, f"has {' and '.join(fields)}, of which only one may be set")
    return fields[0] if fields else ""


def _damaged(place: DocumentCall, fault: str) -> ConversionError:
    return damaged(f"the call of {quoted(place.pointer)} {fault}", "document")
