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

from imagecall.access.setting import SettingError
from imagecall.allocator import keep_freed_memory
from imagecall.observing.logs import log_step, set_up_logs
from imagecall.rpc.addresses import reachable
from imagecall.server.settings import (
    CONFIG,
    WORKER,
    ServerSettings,
    add_settings,
    misspelt,
    read_settings,
)
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
    """Serves until SIGINT or SIGTERM. Raises SettingError, or OSError for an address in use."""
    file = options.config or os.environ.get(CONFIG)
    settings = read_settings(
        ServerSettings, vars(options), os.environ, Path(file) if file else None
    )
    set_up_logs(settings.log_format, steps=WORKER not in os.environ)
    for warning in misspelt(os.environ):
        _log.warning(warning)
    try:
        return _serve(settings)
    except (OSError, SettingError) as error:
        if settings.log_format == "text":
            raise
        _log.error("%s", error)
        return 2 if isinstance(error, SettingError) else 1


def _serve(settings: ServerSettings) -> int:
    # gRPC's core takes its log level when it is imported.
    from imagecall.server import run as server

    log_step("starting")
    announce = partial(_announce, settings)
    if settings.workers > 1:
        server.check(settings)  # Reports a fault once, not in each worker.
        code = asyncio.run(run_workers(settings, sys.argv[1:], announce))
    else:
        keep_freed_memory()
        server.raise_open_file_limit()
        asyncio.run(server.serve(settings, announce))
        code = 0
    log_step("stopped")
    return code


def _announce(settings: ServerSettings, bound: Mapping[str, str]) -> None:
    """Logs the address of each door; for a person prints them too, with commands to try."""
    for name, address in bound.items():
        log_step("listening", door=name, address=address)
    if settings.log_format == "text":
        _print_hints(settings, bound)


def _print_hints(settings: ServerSettings, bound: Mapping[str, str]) -> None:
    """Prints the address of each door; commands to try, if they need no certificate or token."""
    for name, address in bound.items():
        print(f"listening {name} {address}", flush=True)
    if settings.tls.cert or settings.tokens_file:
        return
    if "http" in bound:
        print(f"\nA page to try it: http://{reachable(bound['http'])}/")
    address = reachable(bound["grpc"])
    print(_COMMANDS.format(program=sys.argv[0], address=address), flush=True)
