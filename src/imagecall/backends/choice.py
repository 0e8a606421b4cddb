"""A backend by its name, as settings have it.

Each is imported when it is chosen: what draws, and what speaks HTTP, take a while to load.
"""

from imagecall.backends import Backend
from imagecall.json_text import MAX_BYTES

EMBEDDED = "embedded"
"""The name of the backend that draws test cards."""


def backend_of(name: str, api_key: str = "", *, max_bytes: int = MAX_BYTES) -> Backend:
    """The backend: "embedded", or the base URL of a Responses API, http: or https:.

    Raises ValueError for any other name, or what is no key.
    """
    if name == EMBEDDED:
        from imagecall.backends.embedded import EmbeddedBackend

        return EmbeddedBackend()
    if name.startswith(("http://", "https://")):
        from imagecall.backends.http import HttpBackend

        return HttpBackend(name, api_key, max_bytes=max_bytes)
    choices = f"{EMBEDDED}, or the base URL of a Responses API (http:// or https://)"
    raise ValueError(f"there is no backend {name!r}; choose {choices}")
