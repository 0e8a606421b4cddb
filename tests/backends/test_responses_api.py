"""The backend that asks a Responses API: real streams in, the parts of an answer out."""

import asyncio
import gc
import json
import random
import time
import weakref
from base64 import b64encode
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

import imagecall
from imagecall.backends.responses_api.backend import HttpBackend
from imagecall.backends.responses_api.stream import ResponseStream
from imagecall.errors import ConversionError, GenerationError
from imagecall.generation.assembly import StreamItem, reassemble
from imagecall.v1.image_generation_service_pb2 import (
    GenerateImageRequest,
    StreamEnd,
    StreamEnding,
    StreamImageRequest,
    StreamImageResponse,
)
from imagecall.v1.image_request_pb2 import ImageRequest
from tests.json_value import json_value
from tests.streams import PNG, Event, framed, happy, item, messages_of, numbered, response, without
from tests.upstream import HANG, JSON, RESET, Answer, Upstream, upstream

KEY = "sk-test-0123456789abcdef"
MIB = 1024 * 1024


@pytest.fixture
async def api() -> AsyncIterator[Upstream]:
    async with upstream() as server:
        yield server


@pytest.fixture
async def backend(api: Upstream) -> AsyncIterator[HttpBackend]:
    backend = HttpBackend(api.url, KEY)
    yield backend
    await backend.close()


def asked(**options: Any) -> StreamImageRequest:
    return StreamImageRequest(request=ImageRequest(prompt="a fox"), **options)


async def stream(backend: HttpBackend, **options: Any) -> list[StreamItem]:
    """Returns the events and the end of a stream, reassembled."""
    async with aclosing(backend.stream_image(asked(**options))) as parts:
        return [happening async for happening in reassemble(parts)]


async def whole_parts(
    backend: HttpBackend, request: StreamImageRequest
) -> AsyncGenerator[StreamImageResponse, None]:
    """The parts of an answer as messages."""
    async with aclosing(backend.stream_image(request)) as parts:
        async for part in parts:
            for message in messages_of(part):
                yield message


async def generate(backend: HttpBackend, **options: Any) -> Any:
    request = GenerateImageRequest(request=ImageRequest(prompt="a fox"), **options)
    return (await backend.generate_image(request)).response


def types(happenings: list[StreamItem]) -> list[str]:
    """The type of each event, and the ending."""
    return [
        StreamEnding.Name(happening.ending)
        if isinstance(happening, StreamEnd)
        else json.loads(imagecall.event_to_json(happening))["type"].removeprefix("response.")
        for happening in happenings
    ]


def events(happenings: list[StreamItem]) -> list[Any]:
    """The events as JSON values that compare exactly."""
    return [
        json_value(imagecall.event_to_json(happening))
        for happening in happenings
        if not isinstance(happening, StreamEnd)
    ]


def exactly(found: list[Event]) -> list[Any]:
    return [json_value(json.dumps(event).encode()) for event in found]


def end(happenings: list[StreamItem]) -> StreamEnd:
    last = happenings[-1]
    assert isinstance(last, StreamEnd)
    return last


ADDED = "response.output_item.added"
IMAGE_EVENTS = [
    "output_item.added",
    "image_generation_call.in_progress",
    "image_generation_call.generating",
    "image_generation_call.partial_image",
    "image_generation_call.completed",
    "output_item.done",
]


@pytest.mark.parametrize("size", [64, 20_000, 300_000, 3 * MIB, 6 * MIB])
@pytest.mark.parametrize("style", ["openai", "openrouter"])
async def test_every_event_of_an_image_comes_as_it_was_sent(
    api: Upstream, backend: HttpBackend, style: str, size: int
) -> None:
    rng = random.Random(size)
    image, partial = PNG + rng.randbytes(size), PNG + rng.randbytes(size // 3)
    sent = happy(image, [partial])
    if style == "openai":
        api.say(
            framed(sent, named=True, done=False), content_type="text/event-stream; charset=utf-8"
        )
    else:
        api.say(b": OPENROUTER PROCESSING\n\n", framed(sent))
    happenings = await stream(backend)
    assert types(happenings) == [*IMAGE_EVENTS, "STREAM_ENDING_COMPLETED"]
    assert events(happenings) == exactly(sent[2:-1])
    assert (end(happenings).response.id, end(happenings).response.model) == ("resp_1", "gpt-5")
    assert (len(end(happenings).response.calls), end(happenings).missing_events) == (0, 0)
    everything = await stream(backend, include_other_events=True, include_document=True)
    assert events(everything) == exactly(sent[:-1])
    document = imagecall.document_to_json(end(everything).response.document)
    assert json_value(document) == json_value(json.dumps(sent[-1]["response"]).encode())


async def test_the_parts_of_an_answer_fit_into_the_usual_message(
    api: Upstream, backend: HttpBackend
) -> None:
    image = PNG + random.Random(2).randbytes(9 * MIB)
    api.say(framed(happy(image, done=item(image, note="x" * 5 * MIB))))
    request = asked(include_document=True, include_other_events=True)
    sizes = [part.ByteSize() async for part in whole_parts(backend, request)]
    assert max(sizes) < MIB + 1024
    assert sum(sizes) > 28 * MIB  # The image and the note come twice.


async def test_the_request_is_the_body_of_a_post_to_responses(
    api: Upstream, backend: HttpBackend
) -> None:
    api.say(framed(happy()))
    await stream(backend)
    api.say(json.dumps(response(item())).encode(), content_type=JSON)
    await generate(backend)
    streamed, plain = api.requests
    assert streamed.path == plain.path == "/v1/responses"
    assert streamed.headers["authorization"] == f"Bearer {KEY}"
    body = {"input": "a fox", "tools": [{"type": "image_generation"}]}
    assert streamed.body == body | {"stream": True}
    assert plain.body == body


@pytest.mark.parametrize("status", ["generating", "incomplete", "in_progress", "failed"])
async def test_no_status_is_rewritten(api: Upstream, backend: HttpBackend, status: str) -> None:
    final = item(status=status, revised_prompt="an orange fox", action="generate", odd=[1.50])
    api.say(framed(happy(done=final)))
    assert events(await stream(backend))[-1] == exactly(happy(done=final))[-2]
    api.say(json.dumps(response(final)).encode(), content_type=JSON)
    [call] = (await generate(backend)).calls
    assert json_value(imagecall.to_json(call)) == json_value(json.dumps(final).encode())


@pytest.mark.parametrize("result", ["https://example.com/a.png", "!not base64!", None, "iVBOR…"])
async def test_a_result_that_is_no_image_stays_what_it_is(
    api: Upstream, backend: HttpBackend, result: str | None
) -> None:
    api.say(framed(happy(done=item(result))))
    assert events(await stream(backend))[-1] == exactly(happy(done=item(result)))[-2]


async def test_a_large_data_url_comes_whole_and_in_messages_of_the_usual_size(
    api: Upstream, backend: HttpBackend
) -> None:
    url = "data:image/png;base64," + b64encode(PNG * 100_000).decode()
    api.say(framed(happy(done=item(url))))
    assert max([part.ByteSize() async for part in whole_parts(backend, asked())]) < 2 * MIB
    assert events(await stream(backend))[-1] == exactly(happy(done=item(url)))[-2]


async def test_the_image_keeps_its_place_however_the_keys_are_ordered(
    api: Upstream, backend: HttpBackend
) -> None:
    image, other = PNG + bytes(2 * MIB), PNG + bytes(MIB)
    tool = {"imageB64": b64encode(other).decode(), "id": "ig_1", "status": "completed"}
    tool |= {"type": "openrouter:image_generation", "result": b64encode(image).decode()}
    decoy = {"result": b64encode(other).decode()}
    finals = [
        {"result": b64encode(image).decode(), "type": "image_generation_call", "id": "ig_1"},
        {"type": "image_generation_call", "id": "ig_1", "meta": decoy, "result": None},
        {"type": "image_generation_call", "meta": decoy, "result": b64encode(image).decode()},
        tool,
        dict(reversed(tool.items())),
        {"type": "web_search_call", "id": "ws_1", "result": b64encode(image).decode()},
    ]
    for final in finals:
        done = {"type": "response.output_item.done", "item": final, "sequence_number": 0}
        for event in (done, dict(reversed(done.items()))):
            api.say(framed([event]))
            found = await stream(backend, include_other_events=True)
            assert events(found) == exactly([event])


async def test_two_images_are_two(api: Upstream, backend: HttpBackend) -> None:
    first, second = (item(PNG + bytes([n]) * 2 * MIB, id=f"ig_{n}") for n in (1, 2))
    sent = numbered(
        [
            *({"type": ADDED, "output_index": n, "item": {**one, "result": None}}
              for n, one in ((0, first), (1, second))),
            {"type": "response.output_item.done", "output_index": 1, "item": second},
            {"type": "response.output_item.done", "output_index": 0, "item": first},
            {"type": "response.completed", "response": response(first, second)},
        ]
    )  # fmt: skip
    api.say(framed(sent))
    happenings = await stream(backend)
    assert events(happenings) == exactly(sent[:-1])
    assert len(end(happenings).response.calls) == 0


@pytest.mark.parametrize("size", [100, 3 * MIB])
async def test_an_item_that_no_event_finished_is_taken_from_the_response(
    api: Upstream, backend: HttpBackend, size: int
) -> None:
    final = item(PNG + bytes(size))
    api.say(framed(without(happy(done=final), "done")))
    [call] = end(await stream(backend)).response.calls
    assert json_value(imagecall.to_json(call)) == json_value(json.dumps(final).encode())


async def test_an_item_under_another_id_in_the_response_is_not_given_twice(
    api: Upstream, backend: HttpBackend
) -> None:
    sent = happy(PNG + bytes(3 * MIB))
    sent[-1]["response"]["output"][0] = sent[-2]["item"] | {"id": "ig_tmp"}
    api.say(framed(sent))
    assert len(end(await stream(backend)).response.calls) == 0


@pytest.mark.parametrize("done", [True, False])
async def test_a_stream_without_an_announced_end_ends_all_the_same(
    api: Upstream, backend: HttpBackend, done: bool
) -> None:
    api.say(framed(without(happy(), "response.completed"), done=done))
    happenings = await stream(backend)
    assert types(happenings)[-2:] == ["output_item.done", "STREAM_ENDING_UNANNOUNCED"]
    assert (end(happenings).response.id, end(happenings).response.status) == (
        "resp_1",
        "in_progress",
    )


async def test_a_connection_that_stays_open_after_the_end_is_not_waited_for(
    api: Upstream, backend: HttpBackend
) -> None:
    api.say(framed(happy(), done=False), HANG)
    assert types(await stream(backend))[-1] == "STREAM_ENDING_COMPLETED"


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("failed", {"error": {"code": "server_error", "message": "we failed"}}),
        ("incomplete", {"incomplete_details": {"reason": "max_output_tokens"}}),
        ("cancelled", {}),
    ],
)
async def test_a_response_that_failed_is_an_end_that_says_so(
    api: Upstream, backend: HttpBackend, kind: str, keys: Event
) -> None:
    final = {"type": f"response.{kind}", "response": response(status=kind, **keys)}
    api.say(
        framed(
            [
                *without(happy(), "done", "image_generation_call.completed", "response.completed"),
                final,
            ]
        )
    )
    last = end(await stream(backend))
    assert StreamEnding.Name(last.ending) == f"STREAM_ENDING_{kind.upper()}"
    assert last.response.status == kind
    if kind == "failed":
        assert (last.response.error.code, last.response.error.message) == (
            "server_error",
            "we failed",
        )
    if kind == "incomplete":
        assert last.response.incomplete_details.reason == "max_output_tokens"


async def test_usage_is_typed_and_keeps_what_it_has_no_field_for(
    api: Upstream, backend: HttpBackend
) -> None:
    usage = {"input_tokens": 10, "total_tokens": 20, "cost": 0.041, "output_tokens": "ten"}
    api.say(json.dumps(response(item(), usage=usage)).encode(), content_type=JSON)
    found = (await generate(backend)).usage
    assert (found.input_tokens, found.total_tokens, found.cost) == (10, 20, 0.041)
    assert {extra.name: extra.json for extra in found.extra_fields} == {
        "output_tokens": '"ten"',
    }


async def test_a_whole_response_answers_a_stream_of_an_api_that_does_not_stream(
    api: Upstream, backend: HttpBackend
) -> None:
    api.say(b" \n", json.dumps(response(item())).encode(), content_type=JSON)
    happenings = await stream(backend)
    assert types(happenings) == ["STREAM_ENDING_COMPLETED"]
    assert len(end(happenings).response.calls) == 1


STATUSES = {
    400: ("UPSTREAM_INVALID_REQUEST", "INVALID_ARGUMENT"),
    401: ("UPSTREAM_UNAUTHENTICATED", "UNAUTHENTICATED"),
    402: ("UPSTREAM_PAYMENT_REQUIRED", "FAILED_PRECONDITION"),
    403: ("UPSTREAM_FORBIDDEN", "PERMISSION_DENIED"),
    404: ("UPSTREAM_NOT_FOUND", "NOT_FOUND"),
    405: ("UPSTREAM_UNIMPLEMENTED", "UNIMPLEMENTED"),
    408: ("UPSTREAM_TIMEOUT", "DEADLINE_EXCEEDED"),
    409: ("UPSTREAM_CONFLICT", "ABORTED"),
    413: ("UPSTREAM_TOO_LARGE", "RESOURCE_EXHAUSTED"),
    418: ("UPSTREAM_INVALID_REQUEST", "INVALID_ARGUMENT"),
    422: ("UPSTREAM_INVALID_REQUEST", "INVALID_ARGUMENT"),
    429: ("UPSTREAM_RATE_LIMITED", "RESOURCE_EXHAUSTED"),
    500: ("UPSTREAM_UNAVAILABLE", "UNAVAILABLE"),
    501: ("UPSTREAM_UNIMPLEMENTED", "UNIMPLEMENTED"),
    502: ("UPSTREAM_UNAVAILABLE", "UNAVAILABLE"),
    503: ("UPSTREAM_UNAVAILABLE", "UNAVAILABLE"),
    504: ("UPSTREAM_TIMEOUT", "DEADLINE_EXCEEDED"),
    529: ("UPSTREAM_UNAVAILABLE", "UNAVAILABLE"),
    301: ("UPSTREAM_NOT_UNDERSTOOD", "FAILED_PRECONDITION"),
    204: ("UPSTREAM_NOT_UNDERSTOOD", "FAILED_PRECONDITION"),
}


async def failure(backend: HttpBackend, streaming: bool) -> GenerationError:
    with pytest.raises(GenerationError) as caught:
        await (stream(backend) if streaming else generate(backend))
    assert KEY not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("status", STATUSES)
async def test_a_status_of_the_api_is_a_reason_and_a_code(
    api: Upstream, backend: HttpBackend, status: int, streaming: bool
) -> None:
    body = {"error": {"message": "too bad", "type": "t", "code": "c", "param": "tools[0].size"}}
    headers = {"retry-after": "7", "x-request-id": "req_1"}
    if status == 204:
        api.answers = [Answer(status=204, chunked=False, content_type="")]
    else:
        api.say(json.dumps(body).encode(), status=status, content_type=JSON, headers=headers)
    error = await failure(backend, streaming)
    assert (error.reason, error.code) == STATUSES[status]
    if status >= 400:
        assert str(error) == f"the API answered {status}: too bad"
        assert (error.pointer, error.retry_seconds, error.may_be_billed) == (
            "/tools/0/size",
            7,
            False,
        )
        assert error.metadata == {
            "http_status": str(status),
            "upstream_code": "c",
            "upstream_type": "t",
            "upstream_request_id": "req_1",
        }


async def test_a_parameter_that_is_a_pointer_is_kept(api: Upstream, backend: HttpBackend) -> None:
    body = {"error": {"message": "no", "param": "/tools/0/a~1b"}}
    api.say(json.dumps(body).encode(), status=400, content_type=JSON)
    assert (await failure(backend, streaming=False)).pointer == "/tools/0/a~1b"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "1e999"}, None),
        ({"retry-after-ms": "abc", "retry-after": "5"}, 5),
    ],
)
async def test_retry_after_is_read_in_every_form(
    api: Upstream, backend: HttpBackend, headers: dict[str, str], seconds: float | None
) -> None:
    api.say(b"{}", status=429, content_type=JSON, headers=headers)
    assert (await failure(backend, True)).retry_seconds == seconds


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_key_that_the_api_quotes_is_not_shown(
    api: Upstream, backend: HttpBackend, streaming: bool
) -> None:
    message = f"Incorrect API key provided: {KEY}, or sk-abc***********wxyz."
    api.say(json.dumps({"error": {"message": message, "code": KEY}}).encode(), status=401)
    error = await failure(backend, streaming)
    assert str(error).endswith("provided: [key], or [key].")
    assert KEY not in repr(error.metadata)


ERRORS_WITHOUT_A_STATUS = [
    ({"error": {"message": "m", "code": 429}}, "UPSTREAM_RATE_LIMITED"),
    ({"error": {"message": "m", "code": "rate_limit_exceeded"}}, "UPSTREAM_RATE_LIMITED"),
    ({"error": {"message": "m", "type": "invalid_request_error"}}, "UPSTREAM_INVALID_REQUEST"),
    ({"error": "m"}, "UPSTREAM_UNAVAILABLE"),
    ({"error": {"message": "m"}}, "UPSTREAM_UNAVAILABLE"),
]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(("body", "reason"), ERRORS_WITHOUT_A_STATUS)
async def test_an_error_with_the_status_200_is_an_error(
    api: Upstream, backend: HttpBackend, body: Event, reason: str, streaming: bool
) -> None:
    api.say(json.dumps(body).encode(), content_type=JSON)
    error = await failure(backend, streaming)
    assert (error.reason, str(error), error.may_be_billed) == (reason, "the API failed: m", True)


@pytest.mark.parametrize(
    "event",
    [
        {"type": "error", "code": "server_error", "message": "m", "sequence_number": 5},
        {"type": "error", "error": {"message": "m", "type": "server_error"}},
        {"error": {"message": "m", "code": 502}},
    ],
)
async def test_an_error_event_is_an_error_after_what_came_before_it(
    api: Upstream, backend: HttpBackend, event: Event
) -> None:
    api.say(framed([*happy()[:5], event], done=False), HANG)
    seen = []
    with pytest.raises(GenerationError, match="the API failed: m") as caught:
        async for part in reassemble(backend.stream_image(asked())):
            seen.append(part)
    assert len(seen) == 3
    assert (caught.value.reason, caught.value.may_be_billed) == ("UPSTREAM_UNAVAILABLE", True)


NOT_AN_API = [
    (b"<!DOCTYPE html><html>", "text/html"),
    (b"  <html>", ""),
    (b'{"hello":"world"}', JSON),
    (b"[]", JSON),
    (b"", "text/plain"),
    (b"hello", "text/plain"),
    (b": comment\n\n", "text/event-stream"),
    (b"data: {}\n\ndata: 5\n\n", "text/event-stream"),
    (b"data: [DONE]\n\n", "text/event-stream"),
]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(("body", "content_type"), NOT_AN_API, ids=range(len(NOT_AN_API)))
async def test_what_is_no_responses_api_is_said_to_be_none(
    api: Upstream, backend: HttpBackend, body: bytes, content_type: str, streaming: bool
) -> None:
    api.say(*([body] if body else []), content_type=content_type)
    error = await failure(backend, streaming)
    assert (error.reason, error.code) == ("UPSTREAM_NOT_UNDERSTOOD", "FAILED_PRECONDITION")


async def test_html_with_a_status_is_told_by_its_status(
    api: Upstream, backend: HttpBackend
) -> None:
    api.say(b"<html>Bad gateway</html>", status=502, content_type="text/html")
    error = await failure(backend, True)
    assert (error.reason, str(error)) == ("UPSTREAM_UNAVAILABLE", "the API answered 502: with HTML")


LARGE = happy(PNG + bytes(8 * MIB))
CUT = {
    "in the middle of an image": [framed(LARGE)[: 3 * MIB]],
    "in the middle of an event": [framed(happy()).partition(b'"result"')[0]],
    "before the image": [framed(without(happy(), "done", "response.completed"), done=False)],
    "before anything": [],
}


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("where", CUT)
async def test_a_stream_that_is_cut_is_damaged(
    api: Upstream, backend: HttpBackend, where: str, chunked: bool
) -> None:
    api.say(*CUT[where], chunked=chunked, whole=False)
    error = await failure(backend, True)
    if where == "before anything" and not chunked:
        assert error.reason == "UPSTREAM_NOT_UNDERSTOOD"
    else:
        assert (error.reason, error.code, error.may_be_billed) == (
            "UPSTREAM_DAMAGED",
            "DATA_LOSS",
            True,
        )


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_whole_answer_that_is_cut_is_damaged(
    api: Upstream, backend: HttpBackend, chunked: bool
) -> None:
    body = json.dumps(response(item())).encode()
    api.say(body[:-40], content_type=JSON, chunked=chunked, whole=False)
    error = await failure(backend, False)
    assert (error.reason, error.code, error.may_be_billed) == (
        "UPSTREAM_DAMAGED",
        "DATA_LOSS",
        True,
    )


HOLES = {
    "within an image": framed(LARGE)[: 2 * MIB] + b"\n\n" + framed(LARGE)[3 * MIB :],
    "within the json": framed(happy()).replace(b'0, "item"', b'0, "it'),
    "the image and the end": framed(without(happy(), "done", "response.completed")),
    "not base64 at the end": framed(LARGE).replace(b'"}, "sequence', b'*"}, "sequence'),
}  # fmt: skip


@pytest.mark.parametrize("where", HOLES)
async def test_a_stream_with_a_hole_is_damaged(
    api: Upstream, backend: HttpBackend, where: str
) -> None:
    api.say(HOLES[where])
    error = await failure(backend, True)
    assert (error.reason, error.code) == ("UPSTREAM_DAMAGED", "DATA_LOSS")
    assert len(str(error)) < 300


async def test_a_hole_that_costs_no_image_is_counted(api: Upstream, backend: HttpBackend) -> None:
    api.say(framed(without(happy(), "generating", "in_progress")))
    happenings = await stream(backend)
    assert types(happenings)[-2:] == ["output_item.done", "STREAM_ENDING_COMPLETED"]
    assert end(happenings).missing_events == 3
    api.say(framed([event | {"sequence_number": 0} for event in happy()]))
    assert end(await stream(backend)).missing_events == 0


@pytest.mark.parametrize("streaming", [False, True])
async def test_failures_of_the_connection_have_their_reasons(
    api: Upstream, backend: HttpBackend, streaming: bool
) -> None:
    api.answers = [Answer(status=None)]
    error = await failure(backend, streaming)
    assert (error.reason, error.code) == ("UPSTREAM_DISCONNECTED", "UNAVAILABLE")
    assert error.may_be_billed
    api.answers = [Answer([RESET], status=None)]
    assert (await failure(backend, streaming)).reason == "UPSTREAM_DISCONNECTED"
    api.answers = [Answer([b"not HTTP at all\r\n\r\n"], status=None, chunked=False)]
    assert (await failure(backend, streaming)).reason == "UPSTREAM_NOT_UNDERSTOOD"
    api.answers = [Answer([framed(happy()[:3], done=False), RESET])]
    assert (await failure(backend, streaming)).reason == "UPSTREAM_DAMAGED"
    api.answers = [Answer([HANG], status=None)]
    impatient = HttpBackend(api.url, KEY, idle_seconds=0.3)
    error = await failure(impatient, streaming)
    await impatient.close()
    assert (error.reason, error.code, error.may_be_billed) == (
        "UPSTREAM_TIMEOUT",
        "DEADLINE_EXCEEDED",
        True,
    )
    for url in ("http://127.0.0.1:1/v1", "https://127.0.0.1:1/v1"):
        other = HttpBackend(url, KEY)
        error = await failure(other, streaming)
        await other.close()
        assert (error.reason, error.code, error.may_be_billed) == (
            "UPSTREAM_UNREACHABLE",
            "UNAVAILABLE",
            False,
        )


async def test_a_failed_call_is_not_sent_again(api: Upstream, backend: HttpBackend) -> None:
    for answer in (Answer(status=503), Answer(status=None), Answer([RESET])):
        api.answers = [answer]
        before = len(api.requests)
        await failure(backend, True)
        await failure(backend, False)
        assert len(api.requests) == before + 2


async def test_an_answer_past_the_limit_is_refused(api: Upstream) -> None:
    backend = HttpBackend(api.url, max_bytes=MIB)
    api.say(framed(happy(PNG + bytes(5 * MIB))))
    assert len(await stream(backend)) == 6  # An image in a stream has no such limit.
    api.say(framed(happy(done=item("-" * 2 * MIB))))
    assert (await failure(backend, True)).reason == "UPSTREAM_ANSWER_TOO_LARGE"
    api.say(json.dumps(response(item(bytes(MIB)))).encode(), content_type=JSON)
    error = await failure(backend, False)
    assert (error.reason, error.code, error.may_be_billed) == (
        "UPSTREAM_ANSWER_TOO_LARGE",
        "RESOURCE_EXHAUSTED",
        True,
    )
    await backend.close()


@pytest.mark.timing
async def test_leaving_a_stream_ends_the_call_to_the_api_at_once(
    api: Upstream, backend: HttpBackend
) -> None:
    api.say(framed(happy()[:4], done=False), HANG)
    for streaming in (True, False):
        api.arrived.clear()
        api.left.clear()
        working = asyncio.create_task(stream(backend) if streaming else generate(backend))
        await api.arrived.wait()
        await asyncio.sleep(0.05)
        left = time.monotonic()
        working.cancel()
        await api.left.wait()
        assert time.monotonic() - left < 0.1
        with pytest.raises(asyncio.CancelledError):
            await working


async def test_parts_come_as_soon_as_the_api_has_said_them(
    api: Upstream, backend: HttpBackend
) -> None:
    image = PNG + random.Random(4).randbytes(24 * MIB)
    body = framed(happy(image))
    api.say(body[: len(body) // 4], HANG)  # Its rest never comes.
    parts: list[StreamImageResponse] = []
    async with aclosing(whole_parts(backend, asked())) as found:
        async for part in found:
            parts.append(part)
            if part.chunk.offset > MIB:
                break


@pytest.mark.parametrize(
    "url",
    [
        "http://u:p@x/v1",
        "http://a b/v1",
        "http://exa_mple..com/v1",
        "",
        "ftp://x/v1",
        "http://",
        "https://x/v1#a",
        "https://x/v1?key=secret#a",
        "http://x:99999/v1",
        "127.0.0.1:80",
    ],
)
def test_what_is_no_base_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        HttpBackend(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("key", ["a b", "a\nb", "ключ", "a\x00"])
def test_what_is_no_key_is_refused_and_not_quoted(key: str) -> None:
    with pytest.raises(ValueError, match="API key") as caught:
        HttpBackend("https://x/v1", key)
    assert key not in str(caught.value)


async def test_a_bad_request_is_refused_before_the_api_is_asked(
    api: Upstream, backend: HttpBackend
) -> None:
    with pytest.raises(ConversionError) as caught:
        await backend.generate_image(GenerateImageRequest(request=ImageRequest(prompt=" \n")))
    assert (caught.value.reason, caught.value.pointer) == ("EMPTY_PROMPT", "/input")
    assert api.requests == []


@pytest.mark.parametrize(
    "text", [rb"\\/AAAA", rb"\\u0041AAA", rb"\u0022,\u0022a\u0022:", rb"\"", rb"\n"]
)
@pytest.mark.parametrize("place", ["done", "completed"])
async def test_escapes_in_a_large_string_never_become_more_than_they_are(
    api: Upstream, backend: HttpBackend, place: str, text: bytes
) -> None:
    value = json.loads(b'"' + b64encode(bytes(2 * MIB))[:-4] + text + b"A" * 50_000 + b'"')
    sent = happy(done=item(value)) if place == "done" else without(happy(done=item(value)), "done")
    api.say(framed(sent))
    happenings = await stream(backend)
    if place == "done":
        assert events(happenings) == exactly(sent[2:-1])
    else:
        [call] = end(happenings).response.calls
        assert json_value(imagecall.to_json(call)) == json_value(json.dumps(item(value)).encode())


async def test_a_large_text_that_is_base64_but_for_its_end_is_kept_up_to_the_limit(
    api: Upstream, backend: HttpBackend
) -> None:
    text = b64encode(bytes(4 * MIB)).decode().rstrip("=")
    for result in (text, text + "\n", text + "*"):
        api.say(framed(happy(done=item(result))))
        assert events(await stream(backend))[-1] == exactly(happy(done=item(result)))[-2]


async def test_odd_numbers_and_ids_do_not_cost_the_image(
    api: Upstream, backend: HttpBackend
) -> None:
    sent = happy(partials=[PNG])
    for changes in (
        {"sequence_number": "3"},
        {"sequence_number": 3.0},
        {"sequence_number": True},
        {"sequence_number": 5_000_000_000_000},
        {"output_index": "0", "item_id": 5, "sequence_number": None},
        {"output_index": None, "partial_image_index": None},
    ):
        changed = [event | {k: v for k, v in changes.items() if k in event} for event in sent]
        api.say(framed(changed))
        happenings = await stream(backend)
        assert events(happenings) == exactly(changed[2:-1])
        assert len(end(happenings).response.calls) == 0
    api.say(framed([*sent[:-1], sent[-1] | {"sequence_number": 5_000_000_000}]))
    assert end(await stream(backend)).missing_events == 2**31 - 1


async def test_an_item_is_known_by_its_id_where_the_output_is_numbered_otherwise(
    api: Upstream, backend: HttpBackend
) -> None:
    sent = happy(PNG + bytes(MIB))
    other = item(PNG + b"b", id="ig_b")
    sent[-1]["response"]["output"].insert(0, other)
    api.say(framed(sent))
    [call] = end(await stream(backend)).response.calls
    assert imagecall.view(call).id == "ig_b"


async def test_an_item_is_final_however_its_events_name_it(
    api: Upstream, backend: HttpBackend
) -> None:
    sent = without(happy(), "response.completed")
    done = {key: value for key, value in sent[-1].items() if key != "output_index"}
    for changed in ([*sent[:-1], done], [*sent[:2], sent[-1], *sent[2:-1]]):
        api.say(framed(changed))
        assert end(await stream(backend)).ending == StreamEnding.STREAM_ENDING_UNANNOUNCED


async def test_a_fault_in_what_nobody_needs_does_not_cost_the_image(
    api: Upstream, backend: HttpBackend
) -> None:
    delta = b'data: {"type":"response.output_text.delta","delta":"\\ud83d"}\n\n'
    api.say(delta, framed(happy()))
    assert types(await stream(backend))[-1] == "STREAM_ENDING_COMPLETED"
    found = end(await stream(backend, include_other_events=True))
    assert (found.ending, found.missing_events) == (StreamEnding.STREAM_ENDING_COMPLETED, 1)
    image = framed(without(happy(), "response.completed"), done=False)
    for last in (
        b'data: {"type":"response.completed","response":{"a":"\\ud83d"}}\n\n',
        b'data: {"type":"response.completed"}\n\n',
        b'data: {"type":"response.completed","response":null}\n\n',
    ):
        api.say(image, last)
        happenings = await stream(backend)
        assert types(happenings)[-1] == "STREAM_ENDING_COMPLETED"
        assert end(happenings).response.id == "resp_1"
        api.say(last)
        error = await failure(backend, True)
        assert error.reason == "UPSTREAM_DAMAGED"


async def test_an_error_is_told_by_the_name_of_its_event_too(
    api: Upstream, backend: HttpBackend
) -> None:
    limited = {"message": "m", "code": "rate_limit_exceeded"}
    for event in (
        b"event: error\ndata: " + json.dumps(limited).encode() + b"\n\n",
        framed([{"type": "response.error", "error": limited}]),
    ):
        api.say(framed(happy()[:4], done=False), event)
        assert (await failure(backend, True)).reason == "UPSTREAM_RATE_LIMITED"


async def test_an_error_keeps_its_status_whatever_becomes_of_its_body(api: Upstream) -> None:
    backend = HttpBackend(api.url, KEY)
    body = json.dumps({"error": {"message": "too bad", "code": "c"}}).encode()
    api.say(body[:9], 0.05, body[9:], status=429, content_type=JSON)
    assert str(await failure(backend, True)) == "the API answered 429: too bad"
    api.say(body[:9], status=503, content_type=JSON, headers={"retry-after": "1"}, whole=False)
    error = await failure(backend, True)
    assert (error.reason, error.retry_seconds) == ("UPSTREAM_UNAVAILABLE", 1)
    api.say(HANG, status=401, content_type=JSON)
    start = time.monotonic()
    assert (await failure(backend, False)).reason == "UPSTREAM_UNAUTHENTICATED"
    assert time.monotonic() - start < 60  # Far less than the longest silence of an answer.
    for said in (b"too bad", b'[{"error":{"message":"too bad"}}]', b'{"detail":"too bad"}'):
        api.say(said, status=400, content_type="text/plain", headers={"x-request-id": "\xff"})
        assert str(await failure(backend, True)) == "the API answered 400: too bad"
    await backend.close()


async def test_the_key_is_masked_wherever_the_api_quotes_it(api: Upstream) -> None:
    key = "a-key-without-a-prefix-" + "x" * 100
    backend = HttpBackend(api.url, key)
    api.say(
        json.dumps({"error": {"message": key, "code": key, "type": key, "param": key}}).encode(),
        status=401,
    )
    error = await failure(backend, True)
    assert "a-key" not in str(error) + repr(error.metadata) + error.pointer
    final = {
        "type": "response.failed",
        "response": response(status="failed", error={"message": key}),
    }
    api.say(framed([final]))
    happenings = await stream(backend, include_document=True)
    assert "a-key" not in str(happenings)
    assert end(happenings).response.error.message == "[key]"
    api.say(json.dumps(response(error={"message": key})).encode(), content_type=JSON)
    assert "a-key" not in str(await generate(backend, include_document=True))
    await backend.close()


@pytest.mark.timing
async def test_a_flood_of_events_does_not_keep_other_calls_waiting(
    api: Upstream, backend: HttpBackend
) -> None:
    flood = b'data: {"type":"response.output_text.delta","delta":"a"}\n\n' * 20_000
    api.say(flood, framed(happy()))
    reading = asyncio.create_task(stream(backend))
    longest = 0.0
    while not reading.done():
        start = time.monotonic()
        await asyncio.sleep(0)
        longest = max(longest, time.monotonic() - start)
    assert types(await reading)[-1] == "STREAM_ENDING_COMPLETED"
    assert longest < 0.2


@pytest.mark.timing
async def test_a_slow_client_is_no_silence_of_the_api(api: Upstream) -> None:
    backend = HttpBackend(api.url, idle_seconds=1.5)
    api.say(framed(happy(PNG + random.Random(5).randbytes(20 * MIB))))
    async with aclosing(whole_parts(backend, asked())) as parts:
        async for part in parts:
            if part.HasField("chunk") and part.chunk.offset == 0:
                await asyncio.sleep(2)
    assert part.HasField("end")
    await backend.close()


async def test_two_large_images_of_one_event_stay_two(api: Upstream, backend: HttpBackend) -> None:
    first, second = PNG + bytes(20_000), PNG + bytes(5 * MIB)
    for a, b in ((first, second), (second, first)):
        final = {"type": "openrouter:image_generation", "imageB64": b64encode(a).decode()}
        final |= {"result": b64encode(b).decode(), "id": "ig_1", "status": "completed"}
        event = {"type": "response.output_item.done", "item": final, "sequence_number": 0}
        body = framed([event])
        api.say(*(body[at : at + 65_536] for at in range(0, len(body), 65_536)))
        assert events(await stream(backend)) == exactly([event])


async def test_an_image_that_only_the_response_has_is_given(
    api: Upstream, backend: HttpBackend
) -> None:
    whole, other = item(PNG + bytes(MIB)), item(PNG + b"b", id="ig_2")
    for empty in ({**whole, "result": None}, {k: v for k, v in whole.items() if k != "result"}):
        sent = [
            *happy(done=empty)[:-1],
            {"type": "response.completed", "response": response(whole)},
        ]
        api.say(framed(sent))
        [call] = end(await stream(backend)).response.calls
        assert json_value(imagecall.to_json(call)) == json_value(json.dumps(whole).encode())
    for one, two in ((whole, whole | {"result": other["result"]}), (whole | {"id": ""},) * 2):
        sent = [
            *happy(done=one)[:-1],
            {"type": "response.completed", "response": response(one, two)},
        ]
        api.say(framed(sent))
        assert len(end(await stream(backend)).response.calls) == 1


async def test_an_image_that_was_begun_is_missed_whatever_its_number(
    api: Upstream, backend: HttpBackend
) -> None:
    done = happy()[-2]
    added = {"type": ADDED, "output_index": 0, "item": item(None, id="ig_2")}
    api.say(framed([done, added], done=False))
    assert (await failure(backend, True)).reason == "UPSTREAM_DAMAGED"
    api.say(framed([done | {"item": item(id="")}, added | {"output_index": 1}], done=False))
    assert (await failure(backend, True)).reason == "UPSTREAM_DAMAGED"
    both = b'{"type":"response.completed","response":{"output":[%b,%b],"a":"\\ud83d"}}'
    items = [json.dumps(item(id=name)).encode() for name in ("ig_1", "ig_2")]
    api.say(framed([done], done=False), b"data: " + both % (*items,) + b"\n\n")
    assert (await failure(backend, True)).reason == "UPSTREAM_DAMAGED"


async def test_nesting_too_deep_in_another_event_does_not_cost_the_image(
    api: Upstream, backend: HttpBackend
) -> None:
    for depth in (200, 5_000, 100_000):
        deep = b'{"type":"response.foo","a":' + b"[" * depth + b"]" * depth + b"}"
        api.say(b"data: " + deep + b"\n\n", framed(happy()))
        try:
            assert types(await stream(backend))[-1] == "STREAM_ENDING_COMPLETED"
        except GenerationError as error:
            assert (error.reason, depth >= 5_000) == ("UPSTREAM_DAMAGED", True)


async def test_events_that_change_places_are_not_missing(
    api: Upstream, backend: HttpBackend
) -> None:
    sent = happy()
    api.say(framed([*sent[:3], sent[4], sent[3], *sent[5:]]))
    assert end(await stream(backend)).missing_events == 0


@pytest.mark.timing
@pytest.mark.parametrize("line", [b"data:\n", b"data: \n", b":\n", b"x\r\n"])
async def test_an_event_has_so_many_lines_and_no_more(
    api: Upstream, backend: HttpBackend, line: bytes
) -> None:
    rest = framed(happy())
    api.say(line * 10_000 + b"\n" + rest)
    if not line.startswith(b"data"):
        assert types(await stream(backend))[-1] == "STREAM_ENDING_COMPLETED"
    api.say(line * 10_001 + b"\n" + rest)
    error = await failure(backend, True)
    assert error.reason == "UPSTREAM_ANSWER_TOO_LARGE"
    assert "10,000 lines" in str(error)
    api.say(line * 5_000_000)
    begun = time.process_time()
    assert (await failure(backend, True)).reason == "UPSTREAM_ANSWER_TOO_LARGE"
    assert time.process_time() - begun < 1


async def test_empty_data_lines_without_end_are_refused(api: Upstream) -> None:
    backend = HttpBackend(api.url, max_bytes=10_000)
    api.say(b"data:\n" * 20_000)
    assert (await failure(backend, True)).reason == "UPSTREAM_ANSWER_TOO_LARGE"
    await backend.close()


async def test_values_that_are_long_in_utf8_or_many_leave_their_message(
    api: Upstream, backend: HttpBackend
) -> None:
    notes = {f"note{n}": "\u6c49" * 80_000 for n in range(20)}
    api.say(framed(happy(done=item(**notes))))
    sizes = [part.ByteSize() async for part in whole_parts(backend, asked())]
    assert max(sizes) < 4 * MIB
    assert events(await stream(backend))[-1] == exactly(happy(done=item(**notes)))[-2]
    api.say(framed(happy(done=item(revised_prompt="a" * 5 * MIB))))
    error = await failure(backend, True)
    assert (error.reason, error.may_be_billed) == ("UPSTREAM_ANSWER_TOO_LARGE", True)


async def test_two_large_images_under_one_id_are_not_taken_for_each_other(
    api: Upstream, backend: HttpBackend
) -> None:
    one, two = item(PNG + bytes(MIB)), item(PNG + bytes(2 * MIB))
    body = framed(
        [*happy(done=one)[:-1], {"type": "response.completed", "response": response(one, two)}]
    )
    api.say(*(body[at : at + 65_536] for at in range(0, len(body), 65_536)))
    error = await failure(backend, True)
    assert (error.reason, error.may_be_billed) == ("UPSTREAM_DAMAGED", True)
    whole = await stream(backend, include_document=True)
    assert len(end(whole).response.calls) == 1


@pytest.mark.timing
async def test_a_stream_that_is_left_is_not_kept_until_python_looks_for_cycles(
    api: Upstream, backend: HttpBackend
) -> None:
    body = framed(happy(PNG + bytes(2 * MIB)))
    api.say(body[: 2 * MIB], HANG)
    gc.collect()
    gc.disable()
    try:
        parts = backend.stream_image(asked())
        await anext(parts)
        [left] = [held for held in gc.get_objects() if type(held) is ResponseStream]
        of_this = weakref.ref(left)
        del left
        await parts.aclose()
        assert of_this() is None
    finally:
        gc.enable()
