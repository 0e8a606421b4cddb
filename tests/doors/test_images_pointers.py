"""Pointers of a backend's errors, which name keys of the Images API."""

import pytest

from imagecall.doors.http.images.request import in_images_api
from imagecall.errors import ConversionError


@pytest.mark.parametrize(
    ("pointer", "key"),
    [
        ("", ""),
        ("/tools/0/size", "/size"),
        ("/tools/0/svg/model", "/svg/model"),
        ("/tools/0/input_image_mask", "/mask"),
        ("/tools/0/input_image_mask/image_url", "/mask/image_url"),
        ("/tools/0/parameters/size", "/size"),
        ("/tools/0", ""),
        ("/tools/01", "/tools/01"),
        ("/input", "/prompt"),
        ("/input/0", "/image"),
        ("/input/0/content/1/image_url", "/image"),
        ("/user", "/user"),
        ("/embedded/delay_seconds", "/embedded/delay_seconds"),
    ],
)
def test_an_error_names_the_key_that_the_caller_sent(pointer: str, key: str) -> None:
    assert in_images_api(ConversionError("UNSUPPORTED", pointer, "no")).pointer == key
