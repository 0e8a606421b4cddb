"""A backend by its name, as settings have it.

Each is imported when it is chosen: what draws, and what speaks HTTP, take a while to load.
"""

from typing import Final

from imagecall.backends import Backend
from imagecall.json_text import MAX_BYTES
from imagecall.limits import Limits

_GRPC: Final = "grpc://"

EMBEDDED: Final = "embedded"
"""The name of the backend that draws test cards."""


def backend_of(
    name: str,
    api_key: str = "",
    *,
    max_bytes: int = MAX_BYTES,
    max_image_bytes: int = Limits.image_bytes,
) -> Backend:
    """The backend: "embedded", the base URL of a Responses API, http: or https:, or the
    address of another server of our schema, grpc://HOST:PORT.

    Raises ValueError for any other name, or what is no key.
    """
    if name == EMBEDDED:
        from imagecall.backends.embedded import EmbeddedBackend

        return EmbeddedBackend()
    if name.startswith(("http://", "https://")):
        from imagecall.backends.http import HttpBackend

        return HttpBackend(name, api_key, max_bytes=max_bytes, max_image_bytes=max_image_bytes)
    if name.startswith(_GRPC):
        from imagecall.backends.grpc import GrpcBackend

        return GrpcBackend(_address(name.removeprefix(_GRPC)))
    choices = f"{EMBEDDED}, the base URL of a Responses API (http:// or https://), grpc://HOST:PORT"
    raise ValueError(f"there is no backend {name!r}; choose {choices}")


def _address(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not (host and "/" not in host and port.isascii() and port.isdecimal()):
        raise ValueError(f"grpc://{text} is no backend: it must be grpc://HOST:PORT")
    return text
