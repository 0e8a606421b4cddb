"""Documents: which items are lifted, and that large ones are too."""

import json
import random
from base64 import b64encode
from typing import Any

import pytest

import imagecall
from imagecall.errors import ConversionError
from imagecall.v1.document_kind_pb2 import DOCUMENT_KIND_RESPONSE
from tests.cases import DOCUMENTS, Case
from tests.json_value import json_value

PNG = b64encode(random.Random(2).randbytes(200_000)).decode()


def item(**keys: Any) -> dict[str, Any]:
    return {"type": "image_generation_call", **keys}


def lifted(value: Any, kind: Any) -> dict[str, str | None]:
    document = imagecall.document_from_json(json.dumps(value), kind=kind)
    return {call.pointer: call.call.WhichOneof("variant") for call in document.calls}


def test_the_place_of_an_item_decides_its_variant() -> None:
    calls = [item(id="a"), {"type": "message"}, {"type": "openrouter:image_generation"}]
    tool = "output_image_generation_server_tool_item"
    assert lifted({"input": calls, "output": calls}, "request") == {
        "/input/0": "input_image_generation_call1",
        "/input/2": tool,
    }
    assert lifted({"instructions": calls, "output": calls, "input": calls}, "response") == {
        "/instructions/0": "instructions_image_generation_call1",
        "/instructions/2": tool,
        "/output/0": "output_image_generation_call",
        "/output/2": tool,
    }
    event = {"item": calls[0], "response": {"instructions": calls[:1], "output": calls[:1]}}
    assert lifted(event, "event") == {
        "/response/instructions/0": "instructions_image_generation_call1",
        "/item": "output_image_generation_call",
        "/response/output/0": "output_image_generation_call",
    }
    request = {"custom_id": "1", "body": {"input": calls[:1]}}
    assert lifted(request, "batch_request") == {"/body/input/0": "input_image_generation_call1"}
    response = {"custom_id": "1", "response": {"body": {"output": calls[:1]}}}
    assert lifted(response, "batch_response") == {
        "/response/body/output/0": "output_image_generation_call"
    }


@pytest.mark.parametrize("case", DOCUMENTS)
def test_what_is_left_has_null_in_the_place_of_each_item(case: Case) -> None:
    document = case.read(case.text)
    left, whole = json_value(document.json), json_value(case.text)
    for call in document.calls:
        *path, last = [int(t) if t.isdigit() else t for t in call.pointer.split("/")[1:]]
        inner, original = left, whole
        for step in path:
            inner, original = inner[step], original[step]
        assert inner[last] is None
        inner[last] = original[last]
    assert left == whole


def test_large_items_are_lifted_and_put_back() -> None:
    value = {
        "output": [
            item(id="a", result=PNG, status="completed"),
            item(id="b", result=PNG[:-4], extra={"result": PNG}),
            item(id="c", result="data:image/png;base64," + PNG),
        ],
        "result": PNG,
    }
    text = json.dumps(value)
    document = imagecall.document_from_json(text, kind="response")
    assert [len(call.call.SerializeToString()) > 100_000 for call in document.calls] == [True] * 3
    assert json.loads(imagecall.document_to_json(document)) == value


def test_a_document_past_the_limit_is_refused() -> None:
    text = json.dumps({"output": [item(result=PNG)]})
    document = imagecall.document_from_json(text, kind="response")
    for convert in (
        lambda: imagecall.document_from_json(text, kind="response", max_bytes=len(text) - 1),
        lambda: imagecall.document_to_json(document, max_bytes=len(PNG)),
    ):
        with pytest.raises(ConversionError, match="limit") as caught:
            convert()
        assert caught.value.reason == "TOO_LARGE"


def test_an_item_nested_too_deep_for_its_place_is_refused() -> None:
    document = imagecall.Document(kind=DOCUMENT_KIND_RESPONSE, json='{"output":[null]}')
    deep = "[" * 98 + "]" * 98
    call = document.calls.add(pointer="/output/0").call.output_image_generation_call
    call.extra_fields.add(name="x", json=deep)
    with pytest.raises(ConversionError) as caught:
        imagecall.document_to_json(document)
    assert caught.value.reason == "TOO_DEEP"
    call.extra_fields[0].json = deep[1:-1]
    text = imagecall.document_to_json(document)
    assert imagecall.document_from_json(text, kind="response") == document
