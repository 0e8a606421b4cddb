"""The format of an image file, told by its first bytes, and its media type."""

import re
from typing import Final

_SIGNATURES: Final = (
    (b"\x89PNG\r\n\x1a\n", "png"),  # PNG specification, section 5.2
    (b"\xff\xd8\xff", "jpeg"),  # ITU-T T.81, annex B: SOI and the next marker
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
)

MEDIA_TYPES: Final = {
    "png": "image/png",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "gif": "image/gif",
    "avif": "image/avif",
    "svg": "image/svg+xml",
}
"""The media type of each format that is known."""

MAX_PROLOG_BYTES: Final = 4096
"""Longest start of an image in which its format shows."""

_SVG: Final = re.compile(
    rb"""(?:\xef\xbb\xbf)?+  # UTF-8's byte order mark
    (?:\s++ | <\?[^>]*+> | <!--(?>.*?-->) | <!DOCTYPE[^][>]*+(?:\[[^]]*+\][^>]*+)?+>)*+
    <(?:[\w.-]++:)?+svg[\s/>]""",
    re.DOTALL | re.VERBOSE,
)
"""The prolog of an XML document (XML 1.0, section 2.8) whose root element is svg."""


def image_format(image: bytes) -> str | None:
    """The format: "png", "jpeg", "webp", "gif", "avif" or "svg". None: it is another, or no image.

    These are the spellings of the JSON key "output_format".
    """
    for signature, name in _SIGNATURES:
        if image.startswith(signature):
            return name
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":  # RFC 9649, section 2.4
        return "webp"
    if image[4:12] in (b"ftypavif", b"ftypavis"):
        return "avif"
    return "svg" if _SVG.match(image[:MAX_PROLOG_BYTES]) else None


def media_type(image: bytes) -> str:
    """The media type of an image file: "image/png". "": its format is none that is known."""
    return MEDIA_TYPES.get(image_format(image) or "", "")
