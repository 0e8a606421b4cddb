"""Keys of a response object beside its calls: to fields of an ImageResponse, and back."""

import json
from typing import Any

import pytest
from google.protobuf import json_format

from imagecall.generation.response import response_from_json, response_to_json

DETAILS = {"image_tokens": 194, "text_tokens": 16}
CACHED = {"cached_image_tokens": 0, "cached_text_tokens": 8}
IMAGE_GEN: dict[str, Any] = {
    "input_tokens": 210,
    "input_tokens_details": DETAILS,
    "output_tokens": 1056,
    "output_tokens_details": DETAILS,
    "total_tokens": 1266,
    "cached_tokens": 8,
    "cached_tokens_details": CACHED,
}
RESPONSES: dict[str, Any] = {
    "what tools consumed": {"image_gen": IMAGE_GEN, "web_search": {"num_requests": 0}},
    "keys that nobody knows": {"image_gen": IMAGE_GEN | {"x": [1.50]}, "y": None},
    "values of other types": {"image_gen": {"input_tokens": 1.5, "input_tokens_details": 3}},
    "no image tool": {"image_gen": None},
    "nothing": {},
    "no object": [1],
}


@pytest.mark.parametrize("what", RESPONSES)
def test_what_tools_consumed_comes_back_as_it_was(what: str) -> None:
    said = {"id": "resp_1", "status": "completed", "tool_usage": RESPONSES[what]}
    read = response_from_json(json.dumps(said)).response
    assert json.loads(response_to_json(read)) == said


def test_what_tools_consumed_has_fields() -> None:
    text = json.dumps({"tool_usage": RESPONSES["what tools consumed"]})
    usage = response_from_json(text).response.tool_usage
    fields = json_format.MessageToDict(usage, preserving_proto_field_name=True)
    assert fields["image_gen"] == IMAGE_GEN
    assert [extra.name for extra in usage.extra_fields] == ["web_search"]


def test_why_a_response_failed_has_fields() -> None:
    error = {"code": "moderation_blocked", "message": "no", "param": None, "type": "user_error"}
    read = response_from_json(json.dumps({"error": error | {"misalignment": {}}})).response
    assert (read.error.code, read.error.message) == ("moderation_blocked", "no")
    assert (read.error.type, read.error.HasField("param")) == ("user_error", False)
    assert json.loads(response_to_json(read)) == {"error": error | {"misalignment": {}}}
