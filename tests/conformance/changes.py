"""Changes of the messages of a right answer, each of which breaks one rule."""

import asyncio
import hashlib
import json
from collections.abc import Callable
from typing import Any

import grpc
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from imagecall.conformance.session import STREAM
from imagecall.v1 import image_generation_service_pb2 as pb
from tests.conformance.faulty import Failure
from tests.conformance.kinds import DETAILS, DONE


def halves(parts: list[Any]) -> list[Any]:
    """Splits each chunk in two, so that a stream has several chunks in a row."""
    split = []
    for part in parts:
        if part.HasField("chunk") and len(part.chunk.data) > 1:
            middle = len(part.chunk.data) // 2
            first = pb.StreamImageResponse()
            first.chunk.offset = part.chunk.offset
            first.chunk.data = part.chunk.data[:middle]
            part.chunk.offset += middle
            part.chunk.data = part.chunk.data[middle:]
            split.append(first)
        split.append(part)
    return split


def first_chunk(parts: list[Any]) -> int:
    return next(i for i, part in enumerate(parts) if part.HasField("chunk"))


def swapped(parts: list[Any]) -> list[Any]:
    parts = halves(parts)
    at = first_chunk(parts)
    parts[at : at + 2] = [parts[at + 1], parts[at]]
    return parts


def gap(parts: list[Any]) -> list[Any]:
    parts = halves(parts)
    del parts[first_chunk(parts)]
    return parts


def without_chunk_end(parts: list[Any]) -> list[Any]:
    for part in parts:
        part.chunk.ClearField("end") if part.HasField("chunk") else None
    return parts


def huge(parts: list[Any]) -> list[Any]:
    for part in parts:
        if part.HasField("event") and part.event.WhichOneof("variant") == DONE:
            item = part.event.output_item_done_event.item
            if item.WhichOneof("variant") == "output_image_generation_call":
                call = item.output_image_generation_call
                text = '"' + "a" * 5_000_000 + '"'
                call.extra_fields.add(name="padding", json=text)
    return parts


def inline(parts: list[Any]) -> list[Any]:
    """Puts the images into their events, without chunks."""
    kept, data = [], b""
    for part in parts:
        if part.HasField("chunk"):
            data += part.chunk.data
            continue
        event = part.event
        call = event.output_item_done_event.item.output_image_generation_call
        if event.WhichOneof("variant") == DONE and call.id:
            call.result.image = data
        if event.WhichOneof("variant") == "image_gen_call_partial_image_event":
            event.image_gen_call_partial_image_event.partial_image_b64.image = data
        data = b""
        kept.append(part)
    return kept


def doubled(parts: list[Any]) -> list[Any]:
    """Sends each partial image twice."""
    several: list[Any] = []
    for part in parts:
        several.append(part)
        if part.event.WhichOneof("variant") == "image_gen_call_partial_image_event":
            chunk_and_event = [
                pb.StreamImageResponse.FromString(p.SerializeToString()) for p in several[-2:]
            ]
            chunk_and_event[1].event.image_gen_call_partial_image_event.partial_image_index += 2
            several += chunk_and_event
    return renumbered(several)


def renumbered(parts: list[Any]) -> list[Any]:
    number = None
    for part in parts:
        if not part.HasField("event"):
            continue
        name = part.event.WhichOneof("variant")
        if name == "unknown_item":
            event = json.loads(part.event.unknown_item.json)
            number = event["sequence_number"] if number is None else number + 1
            part.event.unknown_item.json = json.dumps(event | {"sequence_number": number})
        else:
            event = getattr(part.event, name)
            number = event.sequence_number if number is None else number + 1
            event.sequence_number = number
    return parts


def without_image(parts: list[Any]) -> list[Any]:
    """Leaves out the finished image, its event, and the events after it."""
    place = next(i for i, part in enumerate(parts) if part.event.HasField(DONE))
    parts[-1].end.response.ClearField("document")
    return [part for part in parts[:place] if not _is_final(part)] + [parts[-1]]


def without_response(parts: list[Any]) -> list[Any]:
    """Leaves out the response of the end, and its chunks."""
    parts[-1].end.ClearField("response")
    last = max(i for i, part in enumerate(parts) if part.HasField("event"))
    return [*parts[: last + 1], parts[-1]]


def _is_final(part: Any) -> bool:
    return bool(part.chunk.end.final_image)


def reordered(parts: list[Any]) -> list[Any]:
    """Begins the call after it was generated."""
    places = [
        i
        for i, part in enumerate(parts)
        if part.event.WhichOneof("variant")
        in ("image_gen_call_in_progress_event", "image_gen_call_generating_event")
    ]
    first, second = places
    parts[first], parts[second] = parts[second], parts[first]
    return renumbered_in_place(parts)


def renumbered_in_place(parts: list[Any]) -> list[Any]:
    events = [part.event for part in parts if part.HasField("event")]
    known = [getattr(e, e.WhichOneof("variant")) for e in events if not e.HasField("unknown_item")]
    numbers = sorted(event.sequence_number for event in known)
    for event, number in zip(known, numbers, strict=True):
        event.sequence_number = number
    return parts


def other_number(part: Any) -> None:
    name = part.event.WhichOneof("variant")
    if name == "image_gen_call_completed_event":
        part.event.image_gen_call_completed_event.sequence_number = 0


def gap_number(part: Any) -> None:
    name = part.event.WhichOneof("variant")
    if name == DONE:
        part.event.output_item_done_event.sequence_number += 100


def bad_text(parts: list[Any]) -> list[Any]:
    """Sends the document in chunks that are not UTF-8."""
    ending = parts[-1].end
    if not ending.response.HasField("document"):
        return parts
    ending.response.document.json = ""
    chunk = pb.StreamImageResponse()
    chunk.chunk.data = b"\xff\xfe"
    chunk.chunk.end.size = 2
    chunk.chunk.end.sha256 = hashlib.sha256(b"\xff\xfe").digest()
    chunk.chunk.end.field = "response.document.json"
    return [*parts[:-1], chunk, parts[-1]]


def bad_extra(call: Any) -> None:
    call.extra_fields.add(name="seed", json="{bad")


def document_without_calls(answer: Any) -> None:
    document = answer.response.document
    del document.calls[:]
    document.json = '{"output":[null]}'


def repeated_call(parts: list[Any]) -> list[Any]:
    [call] = [
        part.event.output_item_done_event.item
        for part in parts
        if part.event.output_item_done_event.item.HasField("output_image_generation_call")
    ]
    again = parts[-1].end.response.calls.add()
    again.output_image_generation_call.id = call.output_image_generation_call.id
    return parts


def both_statuses(call: Any) -> None:
    call.unknown_status = "later"


def without_index(event: Any) -> None:
    event.ClearField("output_index")


async def hang(method: str) -> None:
    if method == STREAM:
        await asyncio.sleep(20)


def first_detail(status: Any, kind: str) -> int:
    return next(i for i, detail in enumerate(status.details) if detail.type_url.endswith(kind))


def without_detail(kind: str) -> Callable[[Any], None]:
    def change(status: Any) -> None:
        del status.details[first_detail(status, kind)]

    return change


def other_reason(status: Any) -> None:
    status.details[first_detail(status, "ErrorInfo")].Pack(
        ErrorInfo(reason="NO_SUCH_REASON", domain="imagecall")
    )


def unknown_code(status: Failure) -> Failure:
    _, text, trailers = status
    packed = Status.FromString(dict(trailers)[DETAILS])
    packed.code = grpc.StatusCode.UNKNOWN.value[0]
    return grpc.StatusCode.UNKNOWN, text, ((DETAILS, packed.SerializeToString()),)


def wrong_conversion(name: str, answer: Any) -> None:
    if name == "FormatCall":
        answer.json = answer.json.replace("1.50", "1.5")


def wrong_document(name: str, answer: Any) -> None:
    if name == "FormatDocument":
        answer.json = answer.json.replace('"m"', '"n"')


def wrong_order(name: str, answer: Any) -> None:
    for result in answer.results if name == "ConvertCalls" else ():
        if result.WhichOneof("output") in ("call", "error"):
            result.index += 1


def wrong_chunk(name: str, answer: Any) -> None:
    for result in answer.results if name == "ConvertCalls" else ():
        if result.call_chunk.HasField("end"):
            result.call_chunk.end.sha256 = bytes(32)
