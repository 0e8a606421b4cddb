"""A backend by its name, as settings have it.

Each is imported when it is chosen: what draws, and what speaks HTTP, take a while to load.
"""

from typing import Final

from imagecall.generation.backend import Backend
from imagecall.json.text import MAX_BYTES
from imagecall.rpc.addresses import server_address
from imagecall.server.limits import Limits

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
    address of another server of our schema, grpc://HOST:PORT, or grpcs: with TLS.

    Raises ValueError for any other name, or what is no key.
    """
    if name == EMBEDDED:
        from imagecall.backends.embedded.backend import EmbeddedBackend

        return EmbeddedBackend()
    if name.startswith(("http://", "https://")):
        from imagecall.backends.responses_api.backend import HttpBackend

        return HttpBackend(name, api_key, max_bytes=max_bytes, max_image_bytes=max_image_bytes)
    if name.startswith(("grpc://", "grpcs://")):
        from imagecall.backends.grpc import GrpcBackend

        address = server_address(name)
        return GrpcBackend(address, api_key, max_bytes=max_bytes, max_image_bytes=max_image_bytes)
    choices = (
        f"{EMBEDDED}, the base URL of a Responses API (http:// or https://), grpc://HOST:PORT, "
        "grpcs://HOST:PORT"
    )
    raise ValueError(f"there is no backend {name!r}; choose {choices}")
