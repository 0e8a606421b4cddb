"""`imagecall serve`: the server, until it is told to stop."""

import argparse
import asyncio
import logging
import signal
import sys
from typing import Final

from imagecall.allocator import keep_freed_memory
from imagecall.commands.backend_options import chosen_backend
from imagecall.doors.grpc import GrpcServer
from imagecall.doors.http import HttpServer

_GRACE_SECONDS: Final = 5.0

_COMMANDS: Final = """
Try, in another shell (buf comes with `pip install buf-bin`):
  {program} generate "a red fox in the snow" -o fox.png --server {address}
  echo '{{"type":"image_generation_call","id":"ig_1"}}' | {program} convert --server {address}
  {program} describe
  buf curl --http2-prior-knowledge --protocol grpc http://{address} --list-methods
"""


def run(options: argparse.Namespace) -> int:
    """Serves until SIGINT or SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    keep_freed_memory()
    asyncio.run(_serve(options))
    return 0


async def _serve(options: argparse.Namespace) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    backend = chosen_backend(options, options.max_json_bytes)
    server = GrpcServer(options.grpc, backend, options.max_json_bytes)
    door = HttpServer(options.http, backend, options.max_json_bytes) if options.http else None
    try:
        bound = await server.start()
        page = await door.start() if door else None
        print(f"listening grpc {bound}")
        if page:
            print(f"listening http {page}")
            print(f"\nA page to try it: http://{page}/")
        print(_COMMANDS.format(program=sys.argv[0], address=bound), flush=True)
        await stopped.wait()
    finally:
        await asyncio.gather(
            server.stop(_GRACE_SECONDS), *([door.stop(_GRACE_SECONDS)] if door else [])
        )
        await backend.close()
