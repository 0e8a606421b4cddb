"""The backend that the settings choose."""

import os
from collections.abc import Collection, Iterable
from pathlib import Path

from imagecall.access.limits import Limits
from imagecall.access.secret_file import read_secret
from imagecall.backends.choice import backend_from_uri
from imagecall.generation.backend import Backend
from imagecall.rpc.headers import FORWARDED, Header, read_headers
from imagecall.server.settings import API_KEY, BackendSettings


def backend_from(
    settings: BackendSettings, limits: Limits, forward_headers: Collection[str] = FORWARDED
) -> Backend:
    """Returns the backend. Raises OSError with a sentence about a faulty setting."""
    api_key = os.environ.get(API_KEY, "")
    if settings.api_key_file:
        api_key = read_secret(settings.api_key_file, "the API key")
    try:
        return backend_from_uri(
            settings.name,
            api_key,
            headers=(*settings.headers, *_headers_of(settings.headers_file)),
            forward_headers=forward_headers,
            max_bytes=limits.json_bytes,
            max_image_bytes=limits.image_bytes,
        )
    except ValueError as error:
        raise OSError(str(error)) from None


def _headers_of(file: Path | None) -> Iterable[Header]:
    if file is None:
        return ()
    content = "the headers for the backend"
    try:
        return list(read_headers(read_secret(file, content)))
    except ValueError as error:
        raise OSError(f"the file of {content}, {file}: {error}") from None
