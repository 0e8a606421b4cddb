"""Whole answers, whose images are kept beside their message."""

import json

import pytest

from imagecall.generation.checked_answer import AnswerLimits, checked_response
from imagecall.service import WholeAnswer
from imagecall.sizes import OFFLOAD
from imagecall.v1.document_kind_pb2 import DocumentKind
from imagecall.v1.image_generation_service_pb2 import GenerateImageResponse
from tests.streams import PNG

CALL = "response.calls[0].output_image_generation_call"


def message(image: bytes = b"") -> GenerateImageResponse:
    """An answer with one call."""
    answer = GenerateImageResponse()
    answer.response.status = "completed"
    answer.response.calls.add().output_image_generation_call.result.image = image
    return answer


def test_the_images_of_an_answer_are_put_back() -> None:
    answer = WholeAnswer(message(), {f"{CALL}.result.image": (PNG[:5], PNG[5:])})
    assert answer.whole() == message(PNG)
    assert answer.serialized() == message(PNG).SerializeToString()
    assert WholeAnswer.of(message(PNG)).whole() == message(PNG)


@pytest.mark.parametrize(
    "path",
    [
        CALL.removeprefix("response.") + ".result.image",
        CALL.replace("0", "1") + ".result.image",
        CALL + ".result",
        CALL + ".image_b64.image",
        "response.id",
        "",
    ],
)
def test_an_image_of_no_field_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="is not an image of the message"):
        WholeAnswer(message(), {path: (PNG,)})


def test_an_image_that_is_in_the_message_too_is_refused() -> None:
    with pytest.raises(ValueError, match=r"result\.image is not an image .* set and empty"):
        WholeAnswer(message(PNG), {f"{CALL}.result.image": (PNG,)})


def test_each_reference_to_a_call_counts_as_much_as_the_answer() -> None:
    """Else the JSON of some kilobytes that refer to one call 500 times would be made inline."""
    count = 500
    answer = message(PNG)
    document = answer.response.document
    document.kind = DocumentKind.DOCUMENT_KIND_RESPONSE
    document.json = json.dumps({"output": [None] * count})
    for index in range(count):
        document.calls.add(pointer=f"/output/{index}", call_index=0)
    wire = answer.SerializeToString()
    limits = AnswerLimits(2**20, 2**20)
    read = checked_response(GenerateImageResponse, wire, limits, calls_once=True)
    assert len(wire) < OFFLOAD < read.size
