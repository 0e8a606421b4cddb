"""Answers that have each call once, for a request with calls_once.

The document of such an answer refers to a call that is elsewhere in the answer: see DocumentCall in
proto/imagecall/v1/document.proto.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from imagecall.conversion.document import Elsewhere, PlacedCall
from imagecall.errors import ConversionError, quoted
from imagecall.json.pieces import NOTHING_APART, Apart, under
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
    reference to no call.
    """
    found: dict[str, PlacedCall] = {}
    for place in response.document.calls:
        if place.HasField("call_index"):
            number = place.call_index
            if number >= len(response.calls):
                raise _damaged(place, f"is not in calls[{number}]")
            found[place.pointer] = response.calls[number], under(apart, f"calls[{number}]")
        elif place.HasField("output_index"):
            if sent is None or place.output_index not in sent:
                raise _damaged(place, f"is in no event with output_index {place.output_index}")
            found[place.pointer] = sent[place.output_index]
        else:
            continue
        if place.HasField("call"):
            raise _damaged(place, "is in the document and elsewhere")
    return found


def _damaged(place: DocumentCall, fault: str) -> ConversionError:
    return damaged(f"the call of {quoted(place.pointer)} {fault}", "document")
