"""View of an item's content, independent of its variant."""

import json
from base64 import b64decode, b64encode, urlsafe_b64encode
from typing import Any

import pytest

import imagecall
from imagecall.conversion.converter import CALLS
from imagecall.v1.image_result_pb2 import ImageResult

PNG = b"\x89PNG\r\n\x1a\n\x00\x01\xfb\xff"
BASE64 = b64encode(PNG).decode()
ITEM = b'{"type":"image_generation_call","id":"ig_1","result":"%b","status":"completed"}'


def view(**keys: Any) -> imagecall.CallView:
    text = json.dumps({"type": "image_generation_call", **keys})
    return imagecall.view(imagecall.from_json(text))


@pytest.mark.parametrize("name", [n for n, v in CALLS.variants.items() if v.plan.tag])
def test_every_variant_is_seen_alike(name: str) -> None:
    tag = CALLS.variants[name].plan.tag
    text = json.dumps({"type": tag, "id": "a", "result": BASE64, "status": "completed"})
    seen = imagecall.view(imagecall.from_json(text, variant=name))
    assert (seen.variant, seen.type, seen.id, seen.status) == (name, tag, "a", "completed")
    assert (seen.result, seen.image, seen.format) == (PNG, PNG, "png")


def test_absent_null_and_empty_are_told_apart() -> None:
    seen = view()
    assert (seen.id, seen.status, seen.has_result, seen.result) == (None, None, False, None)
    seen = view(id="", status="", result=None)
    assert (seen.id, seen.status, seen.has_result, seen.result) == ("", "", True, None)
    assert view(status="incomplete").status == "incomplete"
    assert view(output_format="webp").declared_format == "webp"
    assert view(output_format=None).declared_format is None
    text = '{"type":"image_generation_call","output_format":"webp"}'
    call = imagecall.from_json(text, variant="input_image_generation_call1")
    assert imagecall.view(call).declared_format == "webp"
    assert view(result="").image is None


def test_extra_fields_that_are_no_json_are_refused() -> None:
    call = imagecall.ImageGenerationCall()
    extras = call.input_image_generation_call1.extra_fields
    extras.add(name="output_format", json="[")
    with pytest.raises(imagecall.ConversionError) as caught:
        imagecall.view(call)
    assert caught.value.reason == "NOT_JSON"


def test_the_image_of_the_server_tool_may_stand_beside_its_result() -> None:
    text = json.dumps({"type": "openrouter:image_generation", "imageB64": BASE64, "result": "x"})
    seen = imagecall.view(imagecall.from_json(text))
    assert (seen.result, seen.image, seen.format) == ("x", PNG, "png")


@pytest.mark.parametrize(
    "result",
    [
        BASE64,
        BASE64.rstrip("="),
        urlsafe_b64encode(PNG).decode(),
        f"data:image/png;base64,{BASE64}",
        f"data:image/png;charset=x;BASE64,{BASE64}",
        BASE64[:8] + "\r\n" + BASE64[8:],
    ],
)
def test_the_image_is_found_in_every_form_of_base64(result: str) -> None:
    assert view(result=result).image == PNG
    assert view(result=result).format == "png"


@pytest.mark.parametrize(
    "result", ["<value>", "https://example.com/x.png", "blob:sha256:ab", "YR=="]
)
def test_other_text_is_no_image(result: str) -> None:
    seen = view(result=result)
    assert (seen.result, seen.image, seen.format) == (result, None, None)


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (PNG, "png"),
        (b"\xff\xd8\xff\xe0", "jpeg"),
        (b"GIF89a", "gif"),
        (b"GIF87a", "gif"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "webp"),
        (b"RIFF\x00\x00\x00\x00WAVE", None),
        (b"\x00\x00\x00\x1cftypavif", "avif"),
        (b'<?xml version="1.0"?>\n<svg/>', "svg"),
        (b"  <svg xmlns=''>", "svg"),
        (b"<svg>", "svg"),
        (b"\xef\xbb\xbf<svg/>", "svg"),
        (b"<!-- made by <svg> -->\n<svg:svg xmlns:svg='http://www.w3.org/2000/svg'>", "svg"),
        (
            b"<?xml version='1.0'?><!DOCTYPE svg PUBLIC '-//W3C//DTD' [<!ENTITY a 'b>'>]><svg>",
            "svg",
        ),
        (b"<?xml version='1.0'?><?x y?>" + b"<!-- " + bytes(3000) + b" --><svg\n>", "svg"),
        (b"<?xml version='1.0'?><html><svg/></html>", None),
        (b"<!DOCTYPE html [<svg>", None),
        (b"<!DOCTYPE html><svg-icon>", None),
        (b"<svgx>", None),
        (b"<!-- <svg/>", None),
        (b" " * 5000 + b"<svg/>", None),
        (b"text <svg/>", None),
        (b"<html>", None),
        (b"", None),
    ],
)
def test_formats_are_told_by_their_first_bytes(start: bytes, name: str | None) -> None:
    assert imagecall.image_format(start) == name


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "piece", [b"<!", b"<!--", b"<?", b"<!DOCTYPE[", b"<!-- -->", b"<svg", b" "]
)
def test_a_long_text_that_is_no_svg_costs_little(piece: bytes) -> None:
    text = piece * 100_000
    for _ in range(1000):
        assert imagecall.image_format(text) is None


def test_an_item_of_another_type_has_a_type_only() -> None:
    seen = imagecall.view(imagecall.from_json('{"type":"message","id":"a","status":"x"}'))
    assert (seen.variant, seen.type, seen.id) == ("unknown_item", "message", None)
    assert b64decode(BASE64) == PNG


def test_the_repr_of_a_view_has_the_size_of_an_image_and_of_a_long_text() -> None:
    assert "result=<12 bytes>" in repr(view(result=BASE64))
    large = view(result=b64encode(PNG * 10_000).decode())
    assert "result=<120,000 bytes>" in repr(large)
    assert "result=<1,000 characters>" in repr(view(result="?" * 1000))
    assert "result='https://images.example/a'" in repr(view(result="https://images.example/a"))
    assert repr(view(id="a")) == (
        "CallView(variant='output_image_generation_call', type='image_generation_call', id='a', "
        "status=None, has_result=False, result=None, declared_format=None, image_b64=None)"
    )


def test_the_repr_of_an_item_has_the_size_of_an_image() -> None:
    call = imagecall.from_json(ITEM % b64encode(PNG * 10_000))
    shown = (
        "ImageGenerationCall(output_image_generation_call=OutputImageGenerationCall("
        "id='ig_1', result=ImageResult(image=<120,000 bytes>), "
        "status=IMAGE_GENERATION_STATUS_COMPLETED))"
    )
    assert repr(call) == shown
    assert repr([call]) == f"[{shown}]"
    text = b'{"output":[%b]}' % imagecall.to_json(call)
    document = imagecall.document_from_json(text, kind="response")
    assert len(repr(document)) < 500
    assert "image: " in str(ImageResult(image=PNG))
