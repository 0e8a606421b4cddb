"""Mistakes of a server, each with the one rule that it breaks."""

import grpc

from imagecall.conformance.session import PLAIN
from imagecall.v1 import image_generation_service_pb2 as pb
from tests.conformance import changes
from tests.conformance.faulty import Faulty
from tests.conformance.kinds import (
    DETAILS,
    added,
    conversions,
    convert_failure,
    details,
    done,
    done_call,
    each,
    end,
    fails,
    last_chunks,
    plain,
    plain_calls,
    refusal,
    stream,
)

_UNKNOWN = grpc.StatusCode.UNKNOWN

MISTAKES: dict[str, tuple[str, Faulty]] = {
    # The twelve of the trial with a server in Go.
    "not_final": ("final-image", last_chunks(lambda end: setattr(end, "final_image", False))),
    "huge_message": ("message-size", stream(changes.huge)),
    "end_unspecified": ("ending", end(lambda end: end.ClearField("ending"))),
    "media_type": ("media-type", last_chunks(lambda end: setattr(end, "media_type", "image/gif"))),
    "no_media_type": ("media-type", last_chunks(lambda end: end.ClearField("media_type"))),
    "partial_final": (
        "final-image",
        last_chunks(lambda end: setattr(end, "final_image", bool(end.media_type))),
    ),
    "end_contradicts": (
        "ending-status",
        end(lambda end: setattr(end.response, "status", "failed")),
    ),
    "both_status": ("json", done_call(changes.both_statuses)),
    "bad_extra": ("json", done_call(changes.bad_extra)),
    "bad_other": (
        "json",
        each(
            lambda part: (
                setattr(part.event.unknown_item, "json", "{")
                if part.event.HasField("unknown_item")
                else None
            )
        ),
    ),
    "doc_bad_json": ("json", plain(lambda answer: setattr(answer.response.document, "json", "{"))),
    "no_id": ("call-id", done_call(lambda call: call.ClearField("id"))),
    "no_status": ("call-status", done_call(lambda call: call.ClearField("status"))),
    "no_index": ("output-index", done(changes.without_index, document=False)),
    "other_id": ("call-id", done_call(lambda call: setattr(call, "id", "ig_other"))),
    # Further ones: at least one for each rule.
    "empty_part": ("message-part", stream(lambda parts: [pb.StreamImageResponse(), *parts])),
    "junk": ("message-part", stream(lambda parts: [b"\xff\xff", *parts])),
    "no_end": ("end", stream(lambda parts: parts[:-1])),
    "two_ends": ("end", stream(lambda parts: [*parts, parts[-1]])),
    "event_after_end": ("end", stream(lambda parts: [*parts, parts[0]])),
    "order": ("chunk-order", stream(changes.swapped)),
    "gap": ("chunk-order", stream(changes.gap)),
    "no_chunk_end": ("chunk-end", stream(changes.without_chunk_end)),
    "size": ("chunk-size", last_chunks(lambda end: setattr(end, "size", 5))),
    "digest": ("chunk-digest", last_chunks(lambda end: setattr(end, "sha256", bytes(32)))),
    "no_digest": ("chunk-digest", last_chunks(lambda end: end.ClearField("sha256"))),
    "field": ("chunk-field", last_chunks(lambda end: setattr(end, "field", "other"))),
    "no_field": ("chunk-field", last_chunks(lambda end: end.ClearField("field"))),
    "inline": ("chunk-value", stream(changes.inline)),
    "bad_text": ("chunk-text", stream(changes.bad_text)),
    "doc_no_calls": ("document", plain(changes.document_without_calls)),
    "hang_after_end": ("status", Faulty(last=changes.hang)),
    "other_index": (
        "output-index",
        done(lambda event: setattr(event, "output_index", 7), document=False),
    ),
    "number": ("sequence-number", each(changes.other_number)),
    "number_gap": ("sequence-number", each(changes.gap_number)),
    "no_added_status": ("call-status", added(lambda call: call.ClearField("status"))),
    "event_order": ("event-order", stream(changes.reordered)),
    "partial_images": ("partial-images", stream(changes.doubled)),
    "no_image": ("image", stream(changes.without_image)),
    "nil_response": ("response", plain(lambda answer: answer.ClearField("response"))),
    "no_end_response": ("response", stream(changes.without_response)),
    "no_resp_status": (
        "response-status",
        plain(lambda answer: answer.response.ClearField("status")),
    ),
    "no_resp_id": ("response-id", plain(lambda answer: answer.response.ClearField("id"))),
    "other_resp_id": ("response-id", end(lambda end: setattr(end.response, "id", "resp_other"))),
    "repeated_call": ("response-calls", stream(changes.repeated_call)),
    "no_call_id": ("response-calls", plain_calls(lambda call: call.ClearField("id"))),
    "unimplemented": (
        "methods",
        fails(grpc.StatusCode.UNIMPLEMENTED, "no such method", lambda method, _: method == PLAIN),
    ),
    "blank_prompt": ("blank-prompt", refusal(lambda status: None)),
    "unknown_code": ("error-code", refusal(changes.unknown_code)),
    "no_message": ("error-message", refusal(lambda status: (status[0], "", status[2]))),
    "no_details": ("error-details", refusal(lambda status: (status[0], status[1], ()))),
    "bad_details": (
        "error-details",
        refusal(lambda status: (status[0], status[1], ((DETAILS, b"\xff"),))),
    ),
    "no_error_info": ("error-details", details(changes.without_detail("ErrorInfo"))),
    "no_bad_request": ("error-details", details(changes.without_detail("BadRequest"))),
    "other_reason": ("error-details", details(changes.other_reason)),
    "unknown_response": (
        "stored-responses",
        fails(grpc.StatusCode.INTERNAL, "no such row", lambda method, _: "GetImage" in method),
    ),
    "convert_junk": (
        "convert-call",
        Faulty(messages=lambda method, came: [b"\xff"] if "FormatCall" in method else came),
    ),
    "convert_call": ("convert-call", conversions(changes.wrong_conversion)),
    "convert_document": ("convert-document", conversions(changes.wrong_document)),
    "convert_refusal": ("convert-refusal", convert_failure("ParseCall", (_UNKNOWN, "no", ()))),
    "convert_many": ("convert-many", conversions(changes.wrong_order)),
    "convert_large": ("convert-large", conversions(changes.wrong_chunk)),
    "convert_damaged": ("convert-damaged", convert_failure("ConvertCalls", None)),
    "no_health": (
        "health",
        fails(grpc.StatusCode.UNIMPLEMENTED, "no", lambda method, _: "health" in method),
    ),
    "newer": (
        "newer-request",
        fails(
            grpc.StatusCode.INTERNAL,
            "unknown field",
            lambda _, request: b"\xaa\x38\x05later" in request,
        ),
    ),
}
