"""The backend that the settings choose."""

import os

from imagecall.access.limits import Limits
from imagecall.access.secret_file import read_secret
from imagecall.backends.choice import backend_of
from imagecall.generation.backend import Backend
from imagecall.server.settings import API_KEY, BackendSettings


def backend_from(settings: BackendSettings, limits: Limits) -> Backend:
    """The backend. Raises OSError with a sentence about a faulty setting."""
    api_key = os.environ.get(API_KEY, "")
    if settings.api_key_file:
        api_key = read_secret(settings.api_key_file, "the API key")
    try:
        return backend_of(
            settings.name,
            api_key,
            max_bytes=limits.json_bytes,
            max_image_bytes=limits.image_bytes,
        )
    except ValueError as error:
        raise OSError(str(error)) from None
