"""The backend that the settings choose."""

import argparse
import os
from pathlib import Path
from typing import Final

from imagecall.backends.choice import backend_of
from imagecall.generation.backend import Backend
from imagecall.server.limits import Limits

_API_KEY: Final = "IMAGECALL_API_KEY"


def chosen_backend(settings: argparse.Namespace) -> Backend:
    """The backend that the settings choose. Raises OSError with a sentence about a bad setting."""
    api_key = os.environ.get(_API_KEY, "")
    if settings.api_key_file:
        api_key = _read_key(settings.api_key_file)
    max_bytes = getattr(settings, "max_json_bytes", Limits.json_bytes)
    max_image_bytes = getattr(settings, "max_image_bytes", Limits.image_bytes)
    try:
        return backend_of(
            settings.backend, api_key, max_bytes=max_bytes, max_image_bytes=max_image_bytes
        )
    except ValueError as error:
        raise OSError(str(error)) from None


def _read_key(path: Path) -> str:
    try:
        key = path.read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError:
        raise OSError(f"the file of the API key, {path}, is no text") from None
    except OSError as error:
        raise OSError(
            f"the file of the API key, {path}, cannot be read: {error.strerror}"
        ) from None
    if not key:
        raise OSError(f"the file of the API key, {path}, has none in it")
    return key
