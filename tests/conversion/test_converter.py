"""JSON to message and back, over all cases and over made-up ones."""

import json
from base64 import b64encode
from typing import Any

import pytest
from google.protobuf import text_format
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

import imagecall
from imagecall.conversion.converter import CALLS, Profile
from imagecall.errors import CODES, ConversionError
from imagecall.v1.document_kind_pb2 import DOCUMENT_KIND_RESPONSE
from imagecall.v1.stream_event_pb2 import StreamEvent
from tests.cases import CASES, ITEMS, REFUSED_JSON, REFUSED_MESSAGES, Case, Refusal
from tests.json_value import json_value


@pytest.mark.parametrize("case", CASES)
def test_json_comes_back_as_the_same_value(case: Case) -> None:
    assert json_value(case.write(case.read(case.text))) == json_value(case.text)


@pytest.mark.parametrize("case", CASES)
def test_json_becomes_the_golden_message(case: Case) -> None:
    assert case.read(case.text) == case.message_class.FromString(case.golden.read_bytes())


@pytest.mark.parametrize("case", CASES)
def test_a_golden_message_comes_back_equal(case: Case) -> None:
    message = case.message_class.FromString(case.golden.read_bytes())
    assert case.read(case.write(message)) == message


@pytest.mark.parametrize("case", CASES)
def test_text_is_read_as_bytes_are(case: Case) -> None:
    assert case.read(case.text.decode()) == case.read(case.text)  # type: ignore[arg-type]  # str too


@pytest.mark.parametrize("case", ITEMS)
def test_an_item_is_read_as_the_variant_that_is_asked_for(case: Case) -> None:
    assert case.read(case.text).WhichOneof("variant") == case.path.parent.name


@pytest.mark.parametrize("case", ITEMS)
def test_known_keys_come_first_and_extra_keys_keep_their_order(case: Case) -> None:
    if case.path.parent.name == "unknown_item":
        return
    keys = list(json.loads(case.write(case.read(case.text))))
    first = [key for key in ("type", "id", "result", "status") if key in keys]
    assert keys[: len(first)] == first
    message = getattr(case.read(case.text), case.path.parent.name)
    extras = [extra.name for extra in message.extra_fields]
    assert keys[len(keys) - len(extras) :] == extras
    assert [key for key in json.loads(case.text) if key in extras] == extras


@pytest.mark.parametrize("case", REFUSED_JSON)
def test_bad_json_is_refused_with_its_reason_and_place(case: Refusal) -> None:
    options: dict[str, Any] = dict(case.options)
    data = case.path.read_bytes()
    with pytest.raises(ConversionError) as caught:
        if options.pop("event", False):
            imagecall.event_from_json(data)
        elif kind := options.pop("document", None):
            imagecall.document_from_json(data, kind=kind)
        else:
            profile = Profile[options.pop("profile", "WIRE")]
            imagecall.from_json(data, profile=profile, **options)
    assert (caught.value.reason, caught.value.pointer) == (case.reason, case.pointer)
    assert caught.value.code == CODES[case.reason]


@pytest.mark.parametrize("case", REFUSED_MESSAGES)
def test_a_message_that_would_not_come_back_is_refused(case: Refusal) -> None:
    text = case.path.read_text()
    with pytest.raises(ConversionError) as caught:
        if case.options.get("document"):
            imagecall.document_to_json(text_format.Parse(text, imagecall.Document()))
        else:
            imagecall.to_json(text_format.Parse(text, imagecall.ImageGenerationCall()))
    assert (caught.value.reason, caught.value.pointer) == (case.reason, case.pointer)


def test_the_strict_profile_takes_what_the_pages_show() -> None:
    for case in (param.values[0] for param in ITEMS):
        if case.path.stem in ("page", "png", "null_result"):
            variant = case.path.parent.name
            imagecall.from_json(case.text, variant=variant, profile=Profile.STRICT)


@pytest.mark.parametrize(
    ("variant", "is_open"),
    [
        ("input_image_generation_call1", False),
        ("input_image_generation_call2", False),
        ("instructions_image_generation_call1", False),
        ("instructions_image_generation_call2", False),
        ("output_image_generation_call", False),
        ("open_responses_input_item_image_generation_call", True),
        ("output_image_generation_call_item", True),
        ("output_image_generation_server_tool_item", True),
    ],
)
def test_the_strict_profile_knows_which_status_lists_are_open(variant: str, is_open: bool) -> None:
    tag = CALLS.variants[variant].plan.tag
    text = json.dumps({"type": tag, "id": "ig_1", "result": None, "status": "incomplete"})
    if is_open:
        call = imagecall.from_json(text, variant=variant, profile=Profile.STRICT)
        assert json.loads(imagecall.to_json(call)) == json.loads(text)
    else:
        with pytest.raises(ConversionError, match="in_progress, completed, generating, failed"):
            imagecall.from_json(text, variant=variant, profile=Profile.STRICT)


def test_a_text_past_the_limit_is_refused_unread() -> None:
    text = b'{"type":"image_generation_call"}'
    assert imagecall.from_json(text, max_bytes=len(text))
    with pytest.raises(ConversionError, match="32 bytes; the limit is 31") as caught:
        imagecall.from_json(text, max_bytes=len(text) - 1)
    assert (caught.value.reason, caught.value.code) == ("TOO_LARGE", "RESOURCE_EXHAUSTED")
    with pytest.raises(ConversionError, match="limit"):
        imagecall.from_json(b"\xff" * 100, max_bytes=99)
    with pytest.raises(ConversionError, match="limit"):
        imagecall.from_json("é" * 60, max_bytes=99)


def test_a_message_whose_text_is_past_the_limit_is_refused() -> None:
    call = imagecall.from_json(b'{"type":"image_generation_call"}')
    with pytest.raises(ConversionError, match="limit is 31"):
        imagecall.to_json(call, max_bytes=31)


def test_half_a_surrogate_pair_in_a_str_is_refused() -> None:
    with pytest.raises(ConversionError) as caught:
        imagecall.from_json('{"type":"image_generation_call","id":"\ud800"}')
    assert (caught.value.reason, caught.value.pointer) == ("LONE_SURROGATE", "/id")


def test_a_message_of_a_newer_schema_is_not_cut() -> None:
    field_100 = b"\xa2\x06\x01x"
    variant = imagecall.ImageGenerationCall.DESCRIPTOR.fields_by_name[
        "output_image_generation_call"
    ]
    member = bytes([variant.number << 3 | 2])
    for wire, pointer in (
        (field_100, ""),
        (member + b"\x04" + field_100, ""),
        (member + b"\x06\x12\x04" + field_100, "/result"),
        (member + b"\x09\x2a\x07\x0a\x01n" + field_100, "/n"),
    ):
        call = imagecall.ImageGenerationCall.FromString(wire)
        with pytest.raises(ConversionError, match="number 100") as caught:
            imagecall.to_json(call)
        assert (caught.value.reason, caught.value.pointer) == ("UNKNOWN_FIELD", pointer)


def test_what_an_older_schema_kept_as_text_is_taken_by_this_one() -> None:
    call = imagecall.ImageGenerationCall()
    call.output_image_generation_call.extra_fields.add(name="size", json='"auto"')
    text = imagecall.to_json(call)
    assert json.loads(text) == {"type": "image_generation_call", "size": "auto"}
    assert imagecall.from_json(text).output_image_generation_call.size == "auto"
    call.unknown_item.type = "openrouter:image_generation"
    call.unknown_item.json = '{"type":"openrouter:image_generation","id":"a"}'
    text = imagecall.to_json(call)
    assert text.decode() == call.unknown_item.json
    assert imagecall.from_json(text).output_image_generation_server_tool_item.id == "a"
    json_left = json.dumps({"output": [json.loads(text)]})
    kept = imagecall.Document(kind=DOCUMENT_KIND_RESPONSE, json=json_left)
    assert json.loads(imagecall.document_to_json(kept)) == json.loads(kept.json)


def test_a_profile_that_is_none_is_refused() -> None:
    for profile in ("WIRE", "STRICT", None):
        with pytest.raises(ConversionError) as caught:
            imagecall.from_json('{"type":"x"}', profile=profile)  # type: ignore[arg-type]  # wrong
        assert caught.value.reason == "UNKNOWN_PROFILE"


def test_the_strict_profile_takes_an_unknown_item_that_is_asked_for() -> None:
    text = '{"type":"message"}'
    call = imagecall.from_json(text, variant="unknown_item", profile=Profile.STRICT)
    assert call.unknown_item.type == "message"


def test_an_item_of_an_event_is_the_variant_that_is_read_there() -> None:
    event = StreamEvent()
    event.output_item_done_event.item.input_image_generation_call2.id = "a"
    with pytest.raises(ConversionError) as caught:
        imagecall.event_to_json(event)
    assert (caught.value.reason, caught.value.pointer) == ("NOT_CANONICAL", "/item")


@pytest.mark.parametrize("depth", [98, 99])
def test_what_is_nested_too_deep_within_an_event_is_refused(depth: int) -> None:
    event = StreamEvent()
    call = event.output_item_done_event.item.output_image_generation_call
    call.extra_fields.add(name="x", json="[" * depth + "]" * depth)
    if depth == 98:
        assert imagecall.event_from_json(imagecall.event_to_json(event)) == event
    else:
        with pytest.raises(ConversionError) as caught:
            imagecall.event_to_json(event)
        assert (caught.value.reason, caught.value.pointer) == ("TOO_DEEP", "/item/x" + "/0" * 98)


@pytest.mark.parametrize("text", [bytearray(b"{}"), memoryview(b"{}"), None, 5])
def test_what_is_no_text_is_a_type_error(text: Any) -> None:
    with pytest.raises(TypeError):
        imagecall.from_json(text)


def test_an_error_names_no_more_of_a_key_than_a_sentence_takes() -> None:
    key = "k" * 100_000
    with pytest.raises(ConversionError) as caught:
        imagecall.from_json(f'{{"type":"image_generation_call","{key}":1,"{key}":2}}')
    assert caught.value.pointer == "/" + "k" * 1023 + "…"
    assert len(str(caught.value)) < 200


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20
)
RESULTS = st.none() | st.text() | st.binary().map(lambda data: b64encode(data).decode())
KNOWN = st.fixed_dictionaries(
    {"type": st.sampled_from(["image_generation_call", "openrouter:image_generation", "x"])},
    optional={
        "id": st.text(),
        "result": RESULTS,
        "status": st.sampled_from(["completed", "in_progress", "", "incomplete"]) | st.text(),
        "size": VALUES,
        "revised_prompt": VALUES,
        "imageB64": VALUES | RESULTS,
        "prompt": SCALARS,
    },
)
ITEM_VALUES = st.builds(
    lambda extra, known: extra | known, st.dictionaries(st.text(), VALUES, max_size=4), KNOWN
)


@settings(max_examples=60)  # Each takes 30 ms.
@given(ITEM_VALUES, st.booleans())
def test_any_item_comes_back_as_the_same_value(value: dict[str, Any], ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only).encode()
    try:
        call = imagecall.from_json(text)
    except ConversionError as error:
        assert error.reason == "WRONG_TYPE"
        return
    written = imagecall.to_json(call)
    assert json_value(written) == json_value(text)
    assert imagecall.from_json(written, variant=call.WhichOneof("variant") or "") == call


@given(st.data())
def test_a_mutated_message_is_refused_or_comes_back_equal(data: st.DataObject) -> None:
    case = data.draw(st.sampled_from([param.values[0] for param in ITEMS]))
    wire = bytearray(case.golden.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        index = data.draw(st.integers(0, len(wire) - 1))
        wire[index] = data.draw(st.integers(0, 255))
    try:
        call = imagecall.ImageGenerationCall.FromString(bytes(wire))
        text = imagecall.to_json(call)
    except (DecodeError, ConversionError):
        return
    variant = call.WhichOneof("variant")
    assert variant
    if variant == "unknown_item":
        variant = "output_image_generation_call"
    assert imagecall.from_json(text, variant=variant) == call
