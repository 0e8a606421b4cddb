"""`imagecall serve`: runs the server until SIGINT or SIGTERM."""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

from imagecall.observing.logs import set_up_logs
from imagecall.server import run as server
from imagecall.server.allocator import keep_freed_memory
from imagecall.server.settings import CONFIG, ServerSettings, add_settings, misspelt, read_settings
from imagecall.server.workers import run_workers

_log: Final = logging.getLogger(__name__)

_COMMANDS: Final = """
Try, in another shell (buf comes with `pip install buf-bin`):
  {program} generate "a red fox in the snow" -o fox.png --server {address}
  echo '{{"type":"image_generation_call","id":"ig_1"}}' | {program} convert --server {address}
  {program} describe
  buf curl --http2-prior-knowledge --protocol grpc http://{address} --list-methods
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        help="settings in TOML, with the names of the flags without the leading dashes",
    )
    add_settings(parser, ServerSettings)
    parser.epilog = (
        "Each setting can also be set in the environment, such as IMAGECALL_MAX_CALLS, or in the "
        "file of --config (IMAGECALL_CONFIG). A flag takes precedence over the environment, which "
        "takes precedence over the file. IMAGECALL_API_KEY may hold the key for the backend."
    )


def fault(options: argparse.Namespace) -> str | None:
    """Returns None: no options of this command contradict each other."""
    return None


def run(options: argparse.Namespace) -> int:
    """Serves until SIGINT or SIGTERM. Raises OSError with a sentence about a bad setting."""
    file = options.config or os.environ.get(CONFIG)
    settings = read_settings(
        ServerSettings, vars(options), os.environ, Path(file) if file else None
    )
    set_up_logs(settings.log_format)
    for warning in misspelt(os.environ):
        _log.warning(warning)
    if settings.metrics and settings.http is None:
        _log.warning("--metrics on has no effect: with --http off there is no GET /metrics")
    announce = partial(_announce, settings)
    if settings.workers > 1:
        server.check(settings)  # Reports a fault once, not in each worker.
        return asyncio.run(run_workers(settings, sys.argv[1:], announce))
    keep_freed_memory()
    server.raise_open_file_limit()
    asyncio.run(server.serve(settings, announce))
    return 0


def _announce(settings: ServerSettings, bound: Mapping[str, str]) -> None:
    """Prints the address of each door, and commands to try."""
    for name, address in bound.items():
        print(f"listening {name} {address}")
    if "http" in bound:
        scheme = "https" if settings.tls.cert else "http"
        print(f"\nA page to try it: {scheme}://{bound['http']}/")
    print(_COMMANDS.format(program=sys.argv[0], address=bound["grpc"]), flush=True)
