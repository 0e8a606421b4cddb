"""Whole answers, whose images are kept beside their message."""

import pytest

from imagecall.service import WholeAnswer
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
