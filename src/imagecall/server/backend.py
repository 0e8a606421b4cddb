"""The backend that the settings choose."""

import os
from collections.abc import Collection, Iterable
from pathlib import Path

from imagecall.access.limits import Limits
from imagecall.access.secret_file import read_secret
from imagecall.access.setting import SettingError
from imagecall.backends.choice import EMBEDDED, backend_from_uri
from imagecall.generation.backend import Backend
from imagecall.rpc.headers import FORWARDED, Header, read_headers
from imagecall.server.settings import API_KEY, BackendSettings


def backend_from(
    settings: BackendSettings, limits: Limits, forward_headers: Collection[str] = FORWARDED
) -> Backend:
    """Returns the backend. Raises SettingError."""
    try:
        api_key = os.environ.get(API_KEY, "")
        if settings.api_key_file:
            api_key = read_secret(settings.api_key_file, "the API key")
        if api_key and settings.name is None:
            raise SettingError(
                "there is a key for a backend, and no backend: name one with --backend, such as "
                f"https://openrouter.ai/api/v1, or choose --backend {EMBEDDED}, which uses no key"
            )
        return backend_from_uri(
            settings.name or EMBEDDED,
            api_key,
            headers=(*settings.headers, *_headers_of(settings.headers_file)),
            tls=settings.tls,
            forward_headers=forward_headers,
            max_bytes=limits.json_bytes,
            max_image_bytes=limits.image_bytes,
            max_embedded_bytes=limits.embedded_bytes,
            fetch_images=settings.fetch_images,
        )
    except (ValueError, OSError) as error:
        raise SettingError(str(error)) from None


def _headers_of(file: Path | None) -> Iterable[Header]:
    if file is None:
        return ()
    content = "the headers for the backend"
    try:
        return list(read_headers(read_secret(file, content)))
    except ValueError as error:
        raise OSError(f"the file of {content}, {file}: {error}") from None
