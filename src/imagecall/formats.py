"""Format and media type of an image file, detected by its first bytes."""

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
"""Media type of each known format."""

MAX_PROLOG_BYTES: Final = 4096
"""Bytes from the start of an image that suffice to detect its format."""

_SVG: Final = re.compile(
    rb"""(?:\xef\xbb\xbf)?  # UTF-8's byte order mark
    (?:\s++ | <\?[^>]*+> | <!--(?>.*?-->) | <!DOCTYPE[^][>]*+(?:\[[^]]*+\][^>]*+)?>)*
    <(?:[\w.-]++:)?svg[\s/>]""",
    re.DOTALL | re.VERBOSE,
)
"""Prolog of an XML document (XML 1.0, section 2.8) whose root element is svg.

No group is possessive, as in `json.diagnosis`.
"""


def image_format(image: bytes) -> str | None:
    """Detects the format: "png", "jpeg", "webp", "gif", "avif" or "svg". None: none of these.

    The names are the spellings of the JSON key "output_format".
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
    """Media type of an image file, such as "image/png"; "" for an unknown format."""
    return MEDIA_TYPES.get(image_format(image) or "", "")
