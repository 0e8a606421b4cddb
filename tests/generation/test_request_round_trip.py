"""The body of a request through an ImageRequest: what is written is what was read."""

import json
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagecall.errors import ConversionError
from imagecall.generation.request import request_from_json, request_to_json
from imagecall.v1.image_request_pb2 import EmptyTools, ImageRequest, InputImage
from tests.streams import PNG


def again(body: Any) -> Any:
    """The body that is made of the request that a body was read as, after a hop by gRPC."""
    read = request_from_json(json.dumps(body))
    request = ImageRequest.FromString(read.request.SerializeToString())
    return json.loads(request_to_json(request, stream=read.stream))


TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)
WORDS = TEXTS.filter(lambda text: bool(text.strip()))
VALUES: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
URLS = st.sampled_from(
    [
        "https://x/a.png",
        "data:image/png;base64," + b64encode(PNG).decode(),
        "data:image/png;base64,iVBORw0KGgo",
        "data:image/gif;base64," + b64encode(PNG).decode(),
        "data:application/octet-stream;base64,Pw==",
        "data:,",
        "",
    ]
)


def objects(required: Any, optional: Any, **more: Any) -> Any:
    """Objects with some keys always and others at times, also with keys that nobody knows."""
    extra = st.dictionaries(st.sampled_from(["x", "y"]), VALUES, max_size=1)
    known = st.fixed_dictionaries(required, optional=optional | more)
    return st.tuples(known, extra).map(lambda both: both[1] | both[0])


DETAILS = st.sampled_from(["auto", "low", "high", "original", "", None, 5])
PARTS = st.one_of(
    objects({"type": st.just("input_text"), "text": TEXTS}, {}),
    objects(
        {"type": st.just("input_image"), "image_url": URLS},
        {"detail": DETAILS, "file_id": st.none() | st.just("file_1") | st.just("")},
    ),
    objects({"type": st.just("input_image"), "file_id": TEXTS}, {"detail": DETAILS}),
    objects({"type": st.just("input_file"), "file_id": TEXTS}, {}),
    VALUES,
)
MESSAGES = objects(
    {
        "role": st.sampled_from(["user", "user", "assistant", "system", "developer"]),
        "content": WORDS | st.lists(PARTS, max_size=4) | TEXTS,
    },
    {"type": st.just("message") | st.none(), "id": TEXTS, "status": st.just("completed")},
)
CALLS = st.fixed_dictionaries(
    {"type": st.just("image_generation_call"), "id": TEXTS},
    optional={
        "result": st.sampled_from([None, "iVBORw0KGgo=", "https://x/a.png", "<value>"]),
        "status": st.sampled_from(["completed", "generating", "in_progress", "failed"]),
    },
)
ITEMS = st.one_of(
    MESSAGES,
    CALLS,
    objects({"id": TEXTS}, {"type": st.just("item_reference") | st.none()}),
    objects({"type": st.sampled_from(["reasoning", "function_call", ""])}, {"name": TEXTS}),
)
TOOLS = st.one_of(
    objects(
        {"type": st.sampled_from(["image_generation", "openrouter:image_generation"])},
        {
            "size": st.just("1024x1024") | VALUES,
            "partial_images": st.integers() | VALUES,
            "svg": st.just({}) | VALUES,
            "parameters": st.just({"model": "m"}) | VALUES,
        },
    ),
    objects({"type": st.sampled_from(["function", "web_search"])}, {"name": TEXTS}),
)
CONTEXT = {"prompt": st.just({"id": "p"}), "conversation": st.just("c") | st.none()}
BODIES = objects(
    {},
    {
        "model": st.none() | WORDS,
        "input": st.one_of(WORDS, st.lists(ITEMS, min_size=1, max_size=4)),
        "tools": st.none() | st.lists(TOOLS, max_size=2),
        "tool_choice": st.sampled_from(["auto", "none", {"type": "function", "name": "f"}, None]),
        "modalities": VALUES,
    },
    **CONTEXT,
)


@settings(max_examples=150)  # Each takes 10 ms.
@given(BODIES)
def test_a_body_is_written_as_it_was_read(body: Any) -> None:
    try:
        written = again(body)
    except ConversionError as error:
        assert "input" not in body, (body, error)
        assert (error.reason, error.pointer) == ("EMPTY_PROMPT", "/input")
        return
    assert json.dumps(written, sort_keys=True) == json.dumps(body, sort_keys=True)


IMAGE = {"type": "input_image", "image_url": "data:image/png;base64," + b64encode(PNG).decode()}
TEXT = {"type": "input_text", "text": "a fox"}
LIFTED: dict[str, tuple[Any, int]] = {
    "a short message": ([{"role": "user", "content": "a fox"}], 0),
    "a message of parts": ([{"role": "user", "content": [TEXT]}], 0),
    "a message that was sent before": (
        [{"type": "message", "id": "msg_1", "role": "user", "content": [TEXT]}],
        0,
    ),
    "images without a detail": ([{"role": "user", "content": [TEXT, IMAGE, IMAGE]}], 2),
    "an image before the text": (
        [{"type": "message", "role": "user", "content": [IMAGE | {"detail": "low"}, TEXT]}],
        1,
    ),
    "keys that nobody knows": (
        [{"role": "user", "x": 1.50, "content": [TEXT | {"cache": {}}, IMAGE | {"detail": None}]}],
        1,
    ),
    "what is said before": (
        [{"role": "system", "content": "be brief"}, {"role": "user", "content": [TEXT, IMAGE]}],
        1,
    ),
}


@pytest.mark.parametrize("what", LIFTED)
def test_the_prompt_and_the_images_of_a_message_are_in_their_fields(what: str) -> None:
    items, count = LIFTED[what]
    request = request_from_json(json.dumps({"input": items})).request
    assert request.prompt == "a fox"
    assert [image.image for image in request.input_images] == [PNG] * count
    assert len(request.input_items) == len(items) - 1
    assert again({"input": items}) == {"input": items}


def test_a_message_in_the_usual_form_needs_no_other() -> None:
    parts = [TEXT, IMAGE | {"detail": "high"}]
    message = {"type": "message", "role": "user", "content": parts}
    request = request_from_json(json.dumps({"input": [message]})).request
    assert request.message_json == ""


def test_what_is_put_into_a_message_can_be_changed() -> None:
    items = [{"role": "user", "content": [IMAGE, TEXT]}]
    request = request_from_json(json.dumps({"input": items})).request
    request.prompt = 'a "cat"'
    request.input_images[0].url = "https://x/b.png"
    [message] = json.loads(request_to_json(request, stream=False))["input"]
    assert message["content"] == [
        {"type": "input_image", "image_url": "https://x/b.png"},
        {"type": "input_text", "text": 'a "cat"'},
    ]


def test_items_without_a_type_have_the_one_that_apis_take_them_for() -> None:
    items = [{"role": "assistant", "content": "a"}, {"id": "ig_1"}, {"type": None, "id": "msg_1"}]
    request = request_from_json(json.dumps({"input": items})).request
    types = [item.unknown_item.type for item in request.input_items]
    assert types == ["message", "item_reference", "item_reference"]
    assert again({"input": items}) == {"input": items}


EMPTY: dict[int, Any] = {
    EmptyTools.EMPTY_TOOLS_UNSPECIFIED: {"tools": [{"type": "image_generation"}]},
    EmptyTools.EMPTY_TOOLS_ABSENT: {},
    EmptyTools.EMPTY_TOOLS_ARRAY: {"tools": []},
    EmptyTools.EMPTY_TOOLS_NULL: {"tools": None},
}


@pytest.mark.parametrize("name", EmptyTools.keys())
def test_a_message_can_ask_for_no_tools_in_each_way(name: str) -> None:
    number = EmptyTools.Value(name)
    request = ImageRequest(prompt="a", empty_tools=number)
    body = json.loads(request_to_json(request, stream=False))
    assert body == {"input": "a"} | EMPTY[number]
    if number:
        assert request_from_json(json.dumps(body)).request == request
    request.tools.add().image_generation_tool.size = "auto"
    assert len(json.loads(request_to_json(request, stream=False))["tools"]) == 1


FORMS = {
    "of another": '{"role":"assistant","content":""}',
    "without a place": '{"role":"user","content":"a cat"}',
    "with a place too many": '{"role":"user","content":[{"type":"input_text","text":""},'
    '{"type":"input_text","text":""},{"type":"input_image","image_url":""}]}',
    "without an image": '{"role":"user","content":""}',
    "with an image too many": '{"role":"user","content":[{"type":"input_text","text":""},'
    '{"type":"input_image","image_url":""},{"type":"input_image","image_url":""}]}',
    "with an image already": '{"role":"user","content":[{"type":"input_text","text":""},'
    '{"type":"input_image","image_url":"https://x/"}]}',
    "with a detail already": '{"role":"user","content":[{"type":"input_text","text":""},'
    '{"type":"input_image","image_url":"","detail":"low"}]}',
    "without content": '{"role":"user"}',
    "that is no object": "[]",
}


@pytest.mark.parametrize("what", FORMS)
def test_a_form_that_the_values_do_not_fill_is_refused(what: str) -> None:
    image = InputImage(image=PNG, detail="high")
    request = ImageRequest(prompt="a fox", input_images=[image], message_json=FORMS[what])
    with pytest.raises(ConversionError) as caught:
        request_to_json(request, stream=False)
    assert (caught.value.reason, caught.value.pointer) == ("NOT_CANONICAL", "/input/0")


def test_a_form_that_is_no_json_is_refused() -> None:
    with pytest.raises(ConversionError) as caught:
        request_to_json(ImageRequest(prompt="a", message_json="{"), stream=False)
    assert (caught.value.reason, caught.value.pointer) == ("NOT_JSON", "/input/0")


def test_a_key_is_made_by_its_field_or_stands_among_the_others_not_both() -> None:
    request = ImageRequest(prompt="a", model="m")
    request.extra_fields.add(name="model", json="null")
    with pytest.raises(ConversionError) as caught:
        request_to_json(request, stream=False)
    assert (caught.value.reason, caught.value.pointer) == ("NOT_CANONICAL", "/model")


def test_an_unknown_way_to_ask_for_no_tools_is_refused() -> None:
    request = ImageRequest.FromString(b"\x0a\x01a\x38\x63")
    with pytest.raises(ConversionError) as caught:
        request_to_json(request, stream=False)
    assert (caught.value.reason, caught.value.pointer) == ("UNKNOWN_ENUM_NUMBER", "/tools")
