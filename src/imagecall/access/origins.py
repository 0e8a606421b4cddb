"""Origins of web pages that may call a server: RFC 6454."""

from typing import Final
from urllib.parse import urlsplit

_SCHEMES: Final = ("http", "https")


def read_origin(text: str) -> str:
    """Reads an origin, SCHEME://HOST or SCHEME://HOST:PORT. Raises ValueError."""
    origin = text.strip().lower()
    try:
        parts = urlsplit(origin)
        valid = parts.scheme in _SCHEMES and bool(parts.hostname) and "@" not in parts.netloc
        written = f"{parts.scheme}://{parts.netloc}"
        valid = valid and (parts.port is None or parts.port >= 0)
    except ValueError:
        valid = False
    if not valid or origin != written or "*" in origin:
        raise ValueError(f"{text!r} is not an origin, such as https://app.example.com")
    return origin
