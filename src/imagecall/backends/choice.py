"""Choice of a backend by its URI, as the settings spell it.

A backend is imported when it is chosen, since Pillow and aiohttp take a while to load.
"""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Final

from imagecall.access.limits import Limits
from imagecall.backends.python import backend_from_factory, is_factory
from imagecall.generation.backend import Backend
from imagecall.json.text import MAX_BYTES
from imagecall.rpc.addresses import server_address
from imagecall.rpc.client_tls import WITHOUT_FILES, ClientTls
from imagecall.rpc.headers import FORWARDED, Header

if TYPE_CHECKING:
    from imagecall.backends.http_api.connection import ApiOptions

_IMAGES: Final = "images+"
"""Start of the URI of an Images API."""

EMBEDDED: Final = "embedded"
"""URI of the backend that draws test cards."""

FORMS: Final = (
    f"{EMBEDDED} (test cards, no network)",
    "the base URL of a Responses API such as https://openrouter.ai/api/v1",
    "the base URL of an Images API, with images+ before it: images+https://api.openai.com/v1",
    "another server of the same schema: grpc://HOST:PORT, or grpcs://HOST:PORT with TLS",
    "a backend in Python: PACKAGE.MODULE:FACTORY",
)
"""Forms of a backend's URI, for the help and for errors."""


def backend_from_uri(
    uri: str,
    api_key: str = "",
    *,
    headers: Sequence[Header] = (),
    tls: ClientTls = WITHOUT_FILES,
    forward_headers: Collection[str] = FORWARDED,
    max_bytes: int = MAX_BYTES,
    max_image_bytes: int = Limits.image_bytes,
    max_embedded_bytes: int | None = None,
    fetch_images: bool = False,
) -> Backend:
    """Creates the backend that a URI names.

    Args:
        uri: one of FORMS; the base URL of an API may also be http://.
        api_key: API key, or token, for the backend.
        headers: headers of each request to the backend.
        tls: files for TLS of grpcs:// and https://, and the name of the certificate.
        forward_headers: names of the caller's headers that are forwarded to the API.
        max_bytes: largest answer without its images.
        max_image_bytes: largest image.
        max_embedded_bytes: largest image that a request may ask of the backend "embedded". None: no
            limit.
        fetch_images: True to fetch images of which an Images API sends a URL at another host.

    Raises ValueError for any other URI, for a key or header that cannot be sent, and for files of
    TLS with a backend without TLS. Raises OSError for a faulty file of TLS.
    """
    if (tls.files or tls.name) and not uri.startswith(
        ("grpcs://", "https://", f"{_IMAGES}https://")
    ):
        raise ValueError(f"the backend {uri!r} has no TLS: a certificate or a CA needs it")
    options: ApiOptions = {
        "headers": headers,
        "tls": tls,
        "forward_headers": forward_headers,
        "max_bytes": max_bytes,
    }
    if uri.removeprefix(_IMAGES).startswith(("http://", "https://")):
        return _of_http_api(uri, api_key, max_image_bytes, fetch_images, options)
    if uri.startswith(("grpc://", "grpcs://")):
        from imagecall.backends.grpc.backend import GrpcBackend

        return GrpcBackend(
            server_address(uri),
            api_key,
            headers,
            tls=tls,
            max_bytes=max_bytes,
            max_image_bytes=max_image_bytes,
        )
    if uri == EMBEDDED:
        from imagecall.backends.embedded.backend import EmbeddedBackend

        return EmbeddedBackend(max_embedded_bytes)
    if is_factory(uri):
        return backend_from_factory(uri)
    raise ValueError(f"there is no backend {uri!r}; choose {'; or '.join(FORMS)}")


def _of_http_api(
    uri: str, api_key: str, max_image_bytes: int, fetch_images: bool, options: "ApiOptions"
) -> Backend:
    if uri.startswith(_IMAGES):
        from imagecall.backends.images_api.backend import ImagesBackend

        return ImagesBackend(
            uri.removeprefix(_IMAGES),
            api_key,
            fetch_images=fetch_images,
            max_image_bytes=max_image_bytes,
            **options,
        )
    from imagecall.backends.responses_api.backend import HttpBackend

    return HttpBackend(uri, api_key, max_image_bytes=max_image_bytes, **options)
