"""Output items as input items."""

import json

import pytest

import imagecall
from imagecall.errors import ConversionError


def replay(value: object) -> tuple[object, tuple[str, ...]]:
    result = imagecall.to_input(imagecall.from_json(json.dumps(value)))
    assert result.call.WhichOneof("variant") == "input_image_generation_call1"
    return json.loads(imagecall.to_json(result.call)), result.dropped


def test_only_the_four_keys_are_sent_back() -> None:
    item = {"type": "image_generation_call", "id": "a", "result": "aGk=", "status": "generating"}
    assert replay(item) == (item, ())
    extra = {"size": "auto", "revised_prompt": "x", "background": None, "response_id": "r"}
    assert replay(item | extra) == (
        item,
        ("background", "response_id", "revised_prompt", "size"),
    )


def test_nothing_is_made_up() -> None:
    item = {"type": "image_generation_call", "id": "a"}
    assert replay(item) == (item, ())
    assert replay(item | {"result": None}) == (item | {"result": None}, ())


def test_a_status_that_no_server_takes_back_is_dropped() -> None:
    item = {"type": "image_generation_call", "id": "a", "result": None}
    assert replay(item | {"status": "incomplete"}) == (item, ("status",))


def test_an_item_of_the_server_tool_is_sent_back_as_an_image_generation_call() -> None:
    item = {"id": "a", "result": "https://example.com/a.png", "status": "completed"}
    tool = {"type": "openrouter:image_generation", "imageUrl": "x", "prompt": "p", **item}
    assert replay(tool) == (
        {"type": "image_generation_call", **item},
        ("prompt", "imageUrl"),
    )


@pytest.mark.parametrize(
    ("text", "reason", "pointer"),
    [
        ('{"type":"image_generation_call","result":null}', "NOT_REPLAYABLE", "/id"),
        ('{"type":"message","id":"a"}', "NOT_REPLAYABLE", "/type"),
    ],
)
def test_what_cannot_be_sent_back_is_refused(text: str, reason: str, pointer: str) -> None:
    with pytest.raises(ConversionError) as caught:
        imagecall.to_input(imagecall.from_json(text))
    assert (caught.value.reason, caught.value.pointer) == (reason, pointer)


def test_a_message_that_is_no_item_is_refused() -> None:
    call = imagecall.ImageGenerationCall()
    with pytest.raises(ConversionError) as caught:
        imagecall.to_input(call)
    assert caught.value.reason == "EMPTY_ONEOF"
    call.MergeFromString(b"\x2a\x06\x0a\x01a\xf8\x7f\x01")
    with pytest.raises(ConversionError) as caught:
        imagecall.to_input(call)
    assert caught.value.reason == "UNKNOWN_FIELD"
