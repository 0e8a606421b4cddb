"""Converts the user message that holds the prompt and input images of an ImageRequest.

`read_message` and `write_message` are inverses. The fields of the request hold the prompt and the
images; `message_json` holds the message's form, with an empty string in place of each of them.
"""

from typing import Final

from pybase64 import b64encode

from imagecall.conversion.images import decode_base64
from imagecall.conversion.objects import raw_value
from imagecall.errors import ConversionError, pointer_to
from imagecall.formats import media_type
from imagecall.json.diagnosis import MAX_DEPTH
from imagecall.json.text import JsonValue, elements, join_elements, join_members, members, quote
from imagecall.turns import take_turn
from imagecall.v1.image_request_pb2 import ImageRequest, InputImage

_PLACE: Final = b'""'
_DEFAULT_DETAIL: Final = "auto"
_UNKNOWN_TYPE: Final = "application/octet-stream"


def read_message(raw: bytes, value: JsonValue) -> ImageRequest | None:
    """Reads the prompt, the images and the form of a message.

    Returns None for an item that is not a message of the user, or that has more than one text, no
    text, or parts that are neither text nor image.
    """
    if not _is_of_user(value):
        return None
    request = ImageRequest()
    form = members(raw)
    content = _read_content(request, form.get("content", b""), value.get("content"))
    if content is None or not request.prompt.strip():
        return None
    request.message_json = join_members(form | {"content": content}).decode()
    return request


def has_default_form(request: ImageRequest) -> bool:
    """True if the message is written the same without `message_json`."""
    if not all(image.HasField("detail") for image in request.input_images):
        return False
    return request.message_json == _default_form(request)


def _is_of_user(item: JsonValue) -> bool:
    if not isinstance(item, dict) or item.get("role") != "user":
        return False
    return item.get("type", "message") in ("message", None)


def _read_content(request: ImageRequest, raw: bytes, value: JsonValue) -> bytes | None:
    """Reads the content of a message. Returns its form, or None if it has any other part."""
    if isinstance(value, str):
        request.prompt = value
        return _PLACE
    if not isinstance(value, list):
        return None
    parts = []
    for part, meaning in zip(elements(raw), value, strict=True):
        form = _read_part(request, part, meaning)
        if form is None:
            return None
        parts.append(form)
    return join_elements(parts)


def _read_part(request: ImageRequest, raw: bytes, value: JsonValue) -> bytes | None:
    """Reads the first text, or an image. Returns the part's form, or None for any other part."""
    match value:
        case {"type": "input_text", "text": str(text)} if text and not request.prompt:
            request.prompt = text
            return join_members(members(raw) | {"text": _PLACE})
        case {"type": "input_image", "image_url": str(url)} if url:
            form = members(raw) | {"image_url": _PLACE}
            image = image_from_url(url)
        case {"type": "input_image", "file_id": str(name)} if name:
            form = members(raw) | {"file_id": _PLACE}
            image = InputImage(file_id=name)
        case _:
            return None
    if isinstance(detail := value.get("detail"), str):
        image.detail = detail
        del form["detail"]
    take_turn()
    request.input_images.append(image)
    return join_members(form)


def image_from_url(url: str) -> InputImage:
    """Image by its URL, or by its bytes if they would be written as the same data: URL."""
    head, _, data = url.partition(";base64,")
    take_turn()
    try:
        image = decode_base64(data) if head.startswith("data:") else b""
    except ValueError:
        image = b""
    take_turn()
    same_head = head == f"data:{media_type(image) or _UNKNOWN_TYPE}"
    return InputImage(image=image) if image and same_head else InputImage(url=url)


def _default_form(request: ImageRequest) -> str:
    """Form of the message of a request without `message_json`."""
    parts = [b'{"type":"input_text","text":""}'] if request.prompt.strip() else []
    keys = [_key(image).encode() for image in request.input_images]
    parts += [b'{"type":"input_image","%b":""}' % key for key in keys]
    form = b'{"type":"message","role":"user","content":%b}' % join_elements(parts)
    return form.decode()


def _key(image: InputImage) -> str:
    return "file_id" if image.WhichOneof("source") == "file_id" else "image_url"


def write_message(request: ImageRequest, pointer: str) -> bytes:
    """Writes the message at the JSON Pointer `pointer` of the body.

    Raises ConversionError: EMPTY_ONEOF for an image without a source, NOT_CANONICAL for a form
    whose places do not match the prompt and the images.
    """
    form, value = raw_value(request.message_json or _default_form(request), pointer, MAX_DEPTH - 2)
    values = _Values(request, pointer)
    if not _is_of_user(value):
        raise values.misplaced()
    message = members(form)
    if "content" in message:
        message["content"] = values.put_into(message["content"], value["content"])
    values.check_all_put()
    return join_members(message)


class _Values:
    """Prompt and images of a request, put into the form of its message in order."""

    def __init__(self, request: ImageRequest, pointer: str) -> None:
        self._texts = [request.prompt] if request.prompt.strip() else []
        self._images = list(request.input_images)
        self._default_detail = None if request.message_json else _DEFAULT_DETAIL
        self._pointer = pointer

    def put_into(self, form: bytes, value: JsonValue) -> bytes:
        """Fills the form of a message's content."""
        if value == "":
            return self._text()
        if not isinstance(value, list):
            raise self.misplaced()
        parts = zip(elements(form), value, strict=True)
        return join_elements(
            self._part(n, part, meaning) for n, (part, meaning) in enumerate(parts)
        )

    def _part(self, number: int, form: bytes, value: JsonValue) -> bytes:
        match value:
            case {"type": "input_text", "text": ""}:
                return join_members(members(form) | {"text": self._text()})
            case {"type": "input_image"} if self._images:
                return self._image(members(form), self._pointer + pointer_to("content", number))
        raise self.misplaced()

    def _text(self) -> bytes:
        if not self._texts:
            raise self.misplaced()
        return quote(self._texts.pop())

    def _image(self, form: dict[str, bytes], pointer: str) -> bytes:
        image = self._images.pop(0)
        key, source = _key(image), _source(image, pointer)
        if form.get(key) != _PLACE or ("detail" in form and image.HasField("detail")):
            raise self.misplaced()
        form[key] = source
        if image.HasField("detail"):
            form["detail"] = quote(image.detail)
        elif self._default_detail:
            form["detail"] = quote(self._default_detail)
        return join_members(form)

    def check_all_put(self) -> None:
        """Raises ConversionError unless each value was put in its place."""
        if self._texts or self._images:
            raise self.misplaced()

    def misplaced(self) -> ConversionError:
        """Error for a form that does not match the values."""
        text = "message_json must have a place for the prompt, and one for each of input_images"
        return ConversionError("NOT_CANONICAL", self._pointer, text)


def _source(image: InputImage, pointer: str) -> bytes:
    """URL or file id of an image, as JSON text."""
    match image.WhichOneof("source"):
        case "image" if image.image:
            data = image.image
            declared = media_type(data) or _UNKNOWN_TYPE
            take_turn()
            text = b64encode(data)
            take_turn()
            return b'"data:%b;base64,%b"' % (declared.encode(), text)
        case "url":
            return quote(image.url)
        case "file_id":
            return quote(image.file_id)
    message = "the input image is empty: set the bytes of an image, a url, or a file_id"
    raise ConversionError("EMPTY_ONEOF", pointer, message)
