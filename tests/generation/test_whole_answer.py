"""Whole answers, whose images are kept beside their message."""

import time
from typing import Final

import pytest

from imagecall.doors.http.answers import answer_pieces
from imagecall.generation.chunked_fields import image_fields
from imagecall.generation.response_keys import response_keys
from imagecall.json.pieces import LargeImage
from imagecall.service import WholeAnswer
from imagecall.sizes import PIECE
from imagecall.v1.image_generation_service_pb2 import GenerateImageResponse
from tests.streams import PNG

LARGE: Final = PNG + bytes(PIECE)
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


@pytest.mark.timing
def test_each_of_many_images_takes_as_long_as_one_of_few() -> None:
    def seconds_each(count: int) -> float:
        answer = GenerateImageResponse()
        answer.response.calls.extend([message().response.calls[0]] * count)
        images = {place.path: (LARGE,) for place in image_fields(answer)}
        whole = WholeAnswer(answer, images)
        begun = time.process_time()
        pieces = answer_pieces(whole, response_keys({}, "resp_1"))
        seconds = time.process_time() - begun
        assert sum(isinstance(piece, LargeImage) for piece in pieces) == count
        return seconds / count

    few = min(seconds_each(400) for _ in range(5))
    assert min(seconds_each(6000) for _ in range(3)) < 5 * few
