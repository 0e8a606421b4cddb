"""The options that choose a backend, which the environment may set too."""

import argparse
import os
from pathlib import Path
from typing import Final

from imagecall.backends import Backend
from imagecall.backends.choice import EMBEDDED, backend_of
from imagecall.json_text import MAX_BYTES

_BACKEND: Final = "IMAGECALL_BACKEND"
_API_KEY: Final = "IMAGECALL_API_KEY"
_API_KEY_FILE: Final = "IMAGECALL_API_KEY_FILE"


def add_backend_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument(
        "--backend",
        metavar="BACKEND",
        help="what generates images: embedded (test cards, no network), the base URL of a "
        "Responses API such as https://openrouter.ai/api/v1, or grpc://HOST:PORT, another server "
        f"of the same schema (default: ${_BACKEND}, or embedded)",
    )
    parser.add_argument(
        "--api-key-file",
        metavar="FILE",
        type=Path,
        help=f"file with the API key (default: ${_API_KEY_FILE}, or else the key in ${_API_KEY})",
    )


def chosen_backend(options: argparse.Namespace, max_bytes: int = MAX_BYTES) -> Backend:
    """The backend that the options choose. Raises OSError with a sentence about a bad setting."""
    api_key = os.environ.get(_API_KEY, "")
    if file := options.api_key_file or os.environ.get(_API_KEY_FILE):
        api_key = _read_key(Path(file))
    name = options.backend or os.environ.get(_BACKEND) or EMBEDDED
    try:
        return backend_of(name, api_key, max_bytes=max_bytes)
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
