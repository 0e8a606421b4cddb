"""An ImageRequest as the body of a POST /responses."""

import json
from typing import Any

import pytest

import imagecall
from imagecall.errors import ConversionError
from imagecall.generation.request import MAX_TEXT, request_from_json, request_to_json
from imagecall.v1.extra_field_pb2 import ExtraField
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall
from imagecall.v1.image_request_pb2 import ImageRequest, InputImage
from tests.streams import PNG

OUTPUT_ITEM = (
    '{"id":"ig_1","type":"image_generation_call","status":"generating","result":"iVBORw0KGgo=",'
    '"size":"1024x1024","action":"generate"}'
)


def body(request: ImageRequest, stream: bool = False) -> Any:
    return json.loads(request_to_json(request, stream=stream))


def test_a_prompt_alone_is_the_input() -> None:
    assert body(ImageRequest(prompt="a “fox”\n")) == {
        "input": "a “fox”\n",
        "tools": [{"type": "image_generation"}],
    }
    assert body(ImageRequest(prompt="a", model="gpt-5"), stream=True) == {
        "model": "gpt-5",
        "input": "a",
        "tools": [{"type": "image_generation"}],
        "stream": True,
    }


def test_tools_are_those_given_in_either_spelling() -> None:
    tools = [
        {"type": "image_generation", "size": "1024x1024", "partial_images": 2, "new": 1.50},
        {
            "type": "openrouter:image_generation",
            "parameters": {"model": "m", "aspect_ratio": "1:1"},
        },
        {"type": "function", "name": "f"},
    ]
    request = ImageRequest(
        prompt="a", tools=[imagecall.tool_from_json(json.dumps(tool)) for tool in tools]
    )
    assert body(request)["tools"] == tools
    assert b'"new":1.5' in request_to_json(request, stream=False)


def test_images_follow_the_prompt_in_a_message() -> None:
    request = ImageRequest(prompt="make it blue")
    request.input_images.append(InputImage(image=PNG))
    request.input_images.append(InputImage(image=b"?"))
    request.input_images.append(InputImage(url="https://example.com/a.png"))
    request.input_images.append(InputImage(file_id="file_1"))
    [message] = body(request)["input"]
    assert (message["type"], message["role"]) == ("message", "user")
    text, *images = message["content"]
    assert text == {"type": "input_text", "text": "make it blue"}
    assert [image["type"] for image in images] == ["input_image"] * 4
    assert [image["detail"] for image in images] == ["auto"] * 4
    assert images[0]["image_url"].startswith("data:image/png;base64,iVBOR")
    assert images[1]["image_url"] == "data:application/octet-stream;base64,Pw=="
    assert images[2]["image_url"] == "https://example.com/a.png"
    assert images[3]["file_id"] == "file_1"


def test_earlier_items_stand_before_the_prompt_as_the_apis_take_them_back() -> None:
    message = '{"type":"message","role":"assistant","content":"done"}'
    items = [imagecall.from_json(text) for text in (OUTPUT_ITEM, message)]
    found = body(ImageRequest(prompt="bluer", input_items=items))["input"]
    assert found == [
        {
            "type": "image_generation_call",
            "id": "ig_1",
            "result": "iVBORw0KGgo=",
            "status": "generating",
        },
        json.loads(message),
        {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "bluer"}],
        },
    ]
    assert body(ImageRequest(input_items=items))["input"] == found[:2]


def test_other_keys_are_passed_on_untouched() -> None:
    request = ImageRequest(
        prompt="a",
        extra_fields=[
            ExtraField(name="temperature", json="1.0e0"),
            ExtraField(name="tool_choice", json='{"type": "image_generation"}'),
        ],
    )
    text = request_to_json(request, stream=False)
    assert text.endswith(b'"temperature":1.0e0,"tool_choice":{"type": "image_generation"}}')


def a_request(**fields: Any) -> ImageRequest:
    return ImageRequest(**({"prompt": "a"} | fields))


def an_item(text: str) -> ImageGenerationCall:
    return imagecall.from_json(text)


NO_BYTES = '{"type":"image_generation_call","id":"ig_1","result":""}'
REFUSED = {
    "no prompt": (a_request(prompt=""), "EMPTY_PROMPT", "/input"),
    "a blank prompt": (a_request(prompt=" \n\t"), "EMPTY_PROMPT", "/input"),
    "an image and no prompt": (
        a_request(prompt="", input_images=[InputImage(image=PNG)]),
        "EMPTY_PROMPT",
        "/input",
    ),
    "an item without an id": (
        a_request(input_items=[an_item(OUTPUT_ITEM), an_item('{"type":"image_generation_call"}')]),
        "NOT_REPLAYABLE",
        "/input/1/id",
    ),
    "an item whose chunks were not put in": (
        a_request(input_items=[an_item(NO_BYTES)]),
        "NOT_REPLAYABLE",
        "/input/0",
    ),
    "an empty item": (a_request(input_items=[ImageGenerationCall()]), "EMPTY_ONEOF", "/input/0"),
    "an empty image": (a_request(input_images=[InputImage()]), "EMPTY_ONEOF", "/input/0/content/1"),
    "an image of no bytes": (
        a_request(input_images=[InputImage(image=b"")]),
        "EMPTY_ONEOF",
        "/input/0/content/1",
    ),
    "a key of its own": (
        a_request(extra_fields=[ExtraField(name="input", json="1")]),
        "NOT_CANONICAL",
        "/input",
    ),
    "a key twice": (
        a_request(extra_fields=[ExtraField(name="a", json="1"), ExtraField(name="a", json="1")]),
        "DUPLICATE_KEY",
        "/a",
    ),
    "what is not JSON": (
        a_request(extra_fields=[ExtraField(name="a/b", json="{")]),
        "NOT_JSON",
        "/a~1b",
    ),
    "an empty tool": (a_request(tools=[{}]), "EMPTY_ONEOF", "/tools/0"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_no_body_can_say_is_refused_with_its_place(what: str) -> None:
    request, reason, pointer = REFUSED[what]
    with pytest.raises(ConversionError) as caught:
        request_to_json(request, stream=False)
    assert (caught.value.reason, caught.value.pointer) == (reason, pointer)


def test_very_many_extra_fields_are_refused_unread() -> None:
    request = ImageRequest(prompt="a fox")
    request.extra_fields.extend([ExtraField(name="x", json="?")] * 10_001)
    with pytest.raises(ConversionError) as caught:
        request_to_json(request, stream=False)
    assert caught.value.reason == "TOO_MANY_VALUES"
    call = ImageGenerationCall()
    call.output_image_generation_call.extra_fields.extend(request.extra_fields)
    with pytest.raises(ConversionError) as caught:
        imagecall.to_json(call)
    assert caught.value.reason == "TOO_MANY_VALUES"


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("/input", {"input": "x" * (MAX_TEXT + 1)}),
        ("/instructions", {"input": "a fox", "instructions": "x" * MAX_TEXT}),
        ("/metadata", {"input": "a fox", "metadata": {"a": "x" * MAX_TEXT}}),
    ],
)
def test_a_text_that_no_api_takes_is_refused(name: str, body: dict[str, Any]) -> None:
    with pytest.raises(ConversionError, match="10,485,760") as caught:
        request_from_json(json.dumps(body))
    assert (caught.value.reason, caught.value.pointer) == ("TOO_LARGE", name)
    request = ImageRequest(prompt=body["input"])
    for key, value in body.items():
        if key != "input":
            request.extra_fields.add(name=key, json=json.dumps(value))
    with pytest.raises(ConversionError, match="10,485,760") as caught:
        request_to_json(request, stream=False)
    assert (caught.value.reason, caught.value.pointer) == ("TOO_LARGE", name)


def test_an_image_and_a_history_may_be_longer_than_a_text() -> None:
    image = "data:image/png;base64," + "iVBORw0K" * (MAX_TEXT // 6)
    message = {"role": "user", "content": [{"type": "input_image", "image_url": image}]}
    body = {"input": [message, {"role": "user", "content": "x" * MAX_TEXT}]}
    request = request_from_json(json.dumps(body)).request
    assert json.loads(request_to_json(request, stream=False)) == body
