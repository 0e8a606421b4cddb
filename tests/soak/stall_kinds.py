"""Kinds of requests that cost much for their size: texts in places, and many of one thing."""

import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, NamedTuple, TypeAlias

from imagecall.v1 import conversion_service_pb2 as pb
from imagecall.v1.document_kind_pb2 import DOCUMENT_KIND_RESPONSE
from imagecall.v1.document_pb2 import Document
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall
from imagecall.v1.image_generation_service_pb2 import GenerateImageRequest
from imagecall.v1.image_request_pb2 import ImageRequest, InputImage
from tests.soak.wire import field

RESPONSES: Final = "/v1/responses"
CONVERT: Final = "/convert"
_HEAD: Final = '{"type":"image_generation_call"'
_CONVERSION: Final = "/imagecall.v1.ConversionService/"
_GENERATE: Final = "/imagecall.v1.ImageGenerationService/GenerateImage"
_HEALTH: Final = "/grpc.health.v1.Health/Check"

Body: TypeAlias = Callable[[int], bytes]
"""Body of about so many bytes."""


class Kind(NamedTuple):
    """Kind of request: its name, the path of its method, and its body."""

    name: str
    path: str
    body: Body


_VALUES: Final = {
    "a string of letters": ('"', "x", '"'),
    "a string of quotes": ('"', '\\"', '"'),
    "a string of line ends": ('"', "\\n", '"'),
    "a string of escaped letters": ('"', "\\u00e9", '"'),
    "a string of pairs of escapes": ('"', "\\ud83d\\ude00", '"'),
    "a string of escapes and letters": ('"', '0123456789012345\\"', '"'),
    "a string of brackets": ('"', "[{", '"'),
    "a string of commas": ('"', ",:", '"'),
    "a string of keys of images": ('"', '\\"result\\":\\"', '"'),
    "base64 with escapes": ('"', "iVBORw0KGgoAAAANSUhEUgAA\\/", '"'),
    "a string, and then no JSON": ('"', "x", '"x'),
    "empty arrays": ("[", "[],", "0]"),
    "empty arrays without commas": ("[", "[]", "0]"),
    "empty strings": ("[", '"",', "0]"),
    "objects of a key": ("[", '{"a":0},', "0]"),
    "floats": ("[", "0.0123456789,", "0]"),
    "open arrays": ("[", "[", "0]"),
    "quotes alone": ("[", '"', "0]"),
    "colons": ("[", ":", "0]"),
    "white space": ("[", " ", "0]"),
    "digits": ("[", "1", "]"),
    "empty arrays, and then no JSON": ("[", "[],", "x]"),
}
"""JSON values: start, repeated middle and end."""


def _filled(head: str, unit: str, tail: str, size: int) -> str:
    return head + unit * ((size - len(head) - len(tail)) // len(unit)) + tail


def _parse(text: str) -> bytes:
    return pb.ParseCallRequest(json=text).SerializeToString()


def _parse_document(text: str) -> bytes:
    return pb.ParseDocumentRequest(json=text, kind=DOCUMENT_KIND_RESPONSE).SerializeToString()


def _format_document(text: str, calls: int = 0) -> bytes:
    document = Document(kind=DOCUMENT_KIND_RESPONSE, json=text)
    for index in range(calls):
        lifted = document.calls.add(pointer=f"/output/{index}")
        lifted.call.output_image_generation_call.SetInParent()
    return pb.FormatDocumentRequest(document=document).SerializeToString()


def _generate(request: ImageRequest) -> bytes:
    return GenerateImageRequest(request=request).SerializeToString()


def _with_extra(raw: str) -> bytes:
    request = ImageRequest(prompt="a fox")
    request.extra_fields.add(name="user", json=raw)
    return _generate(request)


_PLACES: Final[dict[str, tuple[str, Callable[[str], bytes]]]] = {
    "ParseCall": (_CONVERSION + "ParseCall", lambda raw: _parse(f'{_HEAD},"x":{raw}}}')),
    "POST responses, metadata": (
        RESPONSES,
        lambda raw: f'{{"input":"a fox","metadata":{raw}}}'.encode(),
    ),
    "POST responses, input": (RESPONSES, lambda raw: f'{{"input":{raw}}}'.encode()),
    "POST convert": (CONVERT, lambda raw: f'{_HEAD},"x":{raw}}}'.encode()),
    "POST convert, id": (CONVERT, lambda raw: f'{_HEAD},"id":{raw}}}'.encode()),
    "GenerateImage": (_GENERATE, _with_extra),
    "ParseDocument": (
        _CONVERSION + "ParseDocument",
        lambda raw: _parse_document(f'{{"x":{raw}}}'),
    ),
    "FormatDocument": (
        _CONVERSION + "FormatDocument",
        lambda raw: _format_document(f'{{"x":{raw}}}'),
    ),
}
"""Places of a value: path of the method, and the body with the value."""


def value_kinds() -> list[Kind]:
    """Returns each value in each place; neighbours differ in both."""
    names, places = list(_VALUES), list(_PLACES)
    return [
        _value_kind(name, places[(number + turn) % len(places)])
        for turn in range(len(places))
        for number, name in enumerate(names)
    ]


def _value_kind(name: str, place: str) -> Kind:
    path, put = _PLACES[place]
    return Kind(f"{place}: {name}", path, lambda size: put(_filled(*_VALUES[name], size)))


def _post(name: str, head: str, unit: str, tail: str) -> Kind:
    body = partial(_filled, head, unit, tail)
    return Kind(f"POST responses: {name}", RESPONSES, lambda size: body(size).encode())


def _posts() -> Iterator[Kind]:
    fox = '{"role":"user","content":"a fox"}]}'
    yield _post("instructions", '{"input":"a fox","instructions":"', "x", '"}')
    yield _post("instructions, stream", '{"input":"a","stream":true,"instructions":"', "x", '"}')
    yield _post("a prompt, stream", '{"stream":true,"input":"a fox ', "word ", '"}')
    yield _post("items", '{"input":[', '{"type":"a"},', fox)
    yield _post("messages", '{"input":[', '{"role":"user","content":"a"},', fox)
    call = '{"type":"image_generation_call","id":"a","result":"","status":"completed"},'
    yield _post("calls", '{"input":[', call, fox)
    tools, tool = '{"input":"a fox","tools":[', '{"type":"image_generation"}'
    yield _post("tools", tools, tool + ",", tool + "]}")
    yield _post("malformed tools", tools, '{"type":"image_generation","size":1},', tool + "]}")
    message, text = '{"input":[{"role":"user","content":[', '{"type":"input_text","text":"a"}'
    yield _post("texts", message, text + ",", text + "]}]}")
    image = '{"type":"input_image","file_id":"a"},'
    yield _post("input images", message, image, text + "]}]}")
    yield Kind("POST responses: an input image", RESPONSES, _input_image)


def _input_image(size: int) -> bytes:
    data = b64encode(b"\x89PNG\r\n\x1a\n" + bytes(size // 4 * 3 - 300)).decode()
    parts = [
        {"type": "input_text", "text": "a fox"},
        {"type": "input_image", "image_url": "data:image/png;base64," + data},
    ]
    return json.dumps({"input": [{"role": "user", "content": parts}]}).encode()


def _generations() -> Iterator[Kind]:
    def prompt(size: int) -> bytes:
        return _generate(ImageRequest(prompt="word " * (size // 5)))

    def image(size: int) -> bytes:
        images = [InputImage(image=b"\x89PNG\r\n\x1a\n" + bytes(size))]
        return _generate(ImageRequest(prompt="a fox", input_images=images))

    def urls(size: int) -> bytes:
        images = [InputImage(url="x" * (size // 20_000 - 8))] * 20_000
        return _generate(ImageRequest(prompt="a fox", input_images=images))

    yield Kind("GenerateImage: a prompt", _GENERATE, prompt)
    yield Kind("GenerateImage: an input image", _GENERATE, image)
    yield Kind("GenerateImage: URLs of input images", _GENERATE, urls)


def _calls() -> Iterator[Kind]:
    path = _CONVERSION + "ParseCall"
    for name, head, unit, tail in (
        ("a result of text", ',"result":"', "!", '"}'),
        ("an image", ',"result":"', "iVBORw0K", '"}'),
        ("results", "", ',"result":"a"', "}"),
        ("results, cut", ',"x":"', 'abcdefgh\\"result\\":\\"', '"'),
    ):
        text = partial(_filled, _HEAD + head, unit, tail)
        yield Kind(f"ParseCall: {name}", path, lambda size, text=text: _parse(text(size)))  # type: ignore[misc]
        yield Kind(f"POST convert: {name}", CONVERT, lambda size, text=text: text(size).encode())  # type: ignore[misc]

    def extra_fields(size: int) -> bytes:
        call = ImageGenerationCall()
        for number in range(9_990):
            raw = "[" + "1," * (size // 40_000) + "1]"
            call.output_image_generation_call.extra_fields.add(name=f"k{number}", json=raw)
        return pb.FormatCallRequest(call=call).SerializeToString()

    yield Kind("FormatCall: extra fields", _CONVERSION + "FormatCall", extra_fields)


def _documents() -> Iterator[Kind]:
    call = '{"type":"image_generation_call"}'

    def parsed(size: int) -> bytes:
        count = min(49_000, size // len(call) - 1)
        return _parse_document('{"output":[' + ",".join([call] * count) + "]}")

    def written(size: int) -> bytes:
        count = min(49_000, size // 40)
        return _format_document('{"output":[' + ",".join(["null"] * count) + "]}", count)

    yield Kind("ParseDocument: calls", _CONVERSION + "ParseDocument", parsed)
    yield Kind("FormatDocument: calls", _CONVERSION + "FormatDocument", written)


def _conversions() -> Iterator[Kind]:
    def body(text: str, size: int) -> bytes:
        request = pb.ConvertCallsRequest()
        for _ in range(size // (len(text) + 6)):
            request.conversions.add(json=text)
        return request.SerializeToString()

    path = _CONVERSION + "ConvertCalls"
    yield Kind("ConvertCalls: items", path, partial(body, _HEAD + "}"))
    bad = _HEAD + ',"a":[[],[],[],[],[],[]x]}' + " " * 300
    yield Kind("ConvertCalls: malformed items", path, partial(body, bad))
    many = _HEAD + ',"a":[' + "[]," * 30_000 + "0]}"
    yield Kind("ConvertCalls: items of many values", path, partial(body, many))
    yield Kind("ConvertCalls: empty items", path, lambda size: b"\x0a\x00" * (size // 2))


def _others() -> Iterator[Kind]:
    yield Kind("health: a name", _HEALTH, lambda size: field(1, b"x" * size))
    yield Kind("health: unknown fields", _HEALTH, lambda size: b"\xa0\x38\x00" * (size // 3))


def other_kinds() -> list[Kind]:
    """Returns requests with many items, parts, tools or fields, or with large images."""
    makers = (_posts, _generations, _calls, _documents, _conversions, _others)
    return [kind for make in makers for kind in make()]
