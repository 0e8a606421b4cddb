"""`imagecall serve`: the server, until it is told to stop."""

import argparse
import asyncio
import gc
import os
import signal
import sys
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Final

from imagecall.commands.backend_options import chosen_backend
from imagecall.doors.grpc.server import GrpcServer
from imagecall.doors.http.server import HttpServer
from imagecall.generation.backend import Backend
from imagecall.observing.logs import set_up_logs
from imagecall.observing.observer import Observer
from imagecall.observing.start import observer_of
from imagecall.rpc.addresses import is_loopback
from imagecall.server.admission import Admission
from imagecall.server.allocator import keep_freed_memory
from imagecall.server.certificates import Certificates
from imagecall.server.limits import Limits
from imagecall.server.settings import SERVER, add_settings, read_settings
from imagecall.server.tokens import Tokens
from imagecall.server.workers import READY, WORKER, run_workers, stop_with_parent

_OLD_THRESHOLD: Final = 50
"""After how many looks at the younger objects all are looked at; by default 10. Among those of a
thousand connections that takes 20 milliseconds."""

_ONE_SIGNAL_SECONDS: Final = 0.1
"""Within which what says to stop is one signal, though it may come in two ways."""

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
        help="settings in TOML: names as of the flags, without the dashes before them",
    )
    add_settings(parser, SERVER)
    parser.epilog = (
        "Each setting can also be given in the environment, such as IMAGECALL_MAX_CALLS, or in the "
        "file of --config (IMAGECALL_CONFIG); the flag counts first, then the environment. The key "
        "for the backend may stand in IMAGECALL_API_KEY."
    )


def fault(options: argparse.Namespace) -> str | None:
    """No options of this command contradict each other."""
    return None


def run(options: argparse.Namespace) -> int:
    """Serves until SIGINT or SIGTERM. Raises OSError with a sentence about a bad setting."""
    file = options.config or os.environ.get("IMAGECALL_CONFIG")
    settings = read_settings(vars(options), SERVER, os.environ, Path(file) if file else None)
    set_up_logs(settings.log_format)
    if settings.workers > 1:
        for part in (_admission, _certificates, chosen_backend):
            part(settings)  # What is wrong is said here, and not by each of the workers.
        return asyncio.run(
            run_workers(settings, sys.argv[1:], lambda grpc, http: _announce(settings, grpc, http))
        )
    keep_freed_memory()
    _take_all_descriptors()
    asyncio.run(_serve(settings))
    return 0


def _announce(settings: argparse.Namespace, grpc: str, http: str) -> None:
    """Says on stdout where the server listens."""
    print(f"listening grpc {grpc}")
    if http != "off":
        scheme = "https" if settings.tls_cert else "http"
        print(f"listening http {http}\n\nA page to try it: {scheme}://{http}/")
    print(_COMMANDS.format(program=sys.argv[0], address=grpc), flush=True)


async def _serve(settings: argparse.Namespace) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    admission, certificates = _admission(settings), _certificates(settings)
    backend, observer = chosen_backend(settings), observer_of(settings)
    grpc_server, http_server = _servers(settings, backend, admission, certificates, observer)
    try:
        bound = await grpc_server.start()
        page = await http_server.start() if http_server else "off"
        _pause_rarely()
        if _is_worker():
            print(READY, flush=True)
        else:
            _announce(settings, bound, page)
        # What stops a group tells both: then the parent's word is no second signal.
        with stop_with_parent(stopped) if _is_worker() else nullcontext():
            await stopped.wait()
        admission.draining = True
        await grpc_server.drain()
        await asyncio.sleep(_ONE_SIGNAL_SECONDS)
        stopped.clear()
        with suppress(TimeoutError):  # A second signal hurries.
            await asyncio.wait_for(stopped.wait(), settings.drain_delay_seconds)
    finally:
        grace = settings.drain_seconds
        stopping = [grpc_server.stop(grace), *([http_server.stop(grace)] if http_server else [])]
        await asyncio.gather(*stopping)
        await backend.close()
        if observer:
            observer.close()


def _take_all_descriptors() -> None:
    """Raises the limit that systems set low for programs that know no better than select()."""
    import resource  # Not everywhere.

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS may say "unlimited", and not mean it.
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _pause_rarely() -> None:
    """Has Python look for garbage in cycles rarely where that stops all else for milliseconds."""
    gc.collect()
    gc.freeze()  # What is there now stays.
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, _OLD_THRESHOLD)


def _servers(
    settings: argparse.Namespace,
    backend: Backend,
    admission: Admission,
    certificates: Certificates | None,
    observer: Observer | None,
) -> tuple[GrpcServer, HttpServer | None]:
    grpc_server = GrpcServer(
        settings.grpc,
        backend,
        admission,
        certificates=certificates,
        reflection=settings.reflection,
        channelz=settings.channelz,
        share_port=_is_worker(),
        observer=observer,
    )
    if settings.http is None:
        return grpc_server, None
    return grpc_server, HttpServer(
        settings.http,
        backend,
        admission,
        certificates=certificates,
        share_port=_is_worker(),
        observer=observer,
    )


def _is_worker() -> bool:
    return WORKER in os.environ


def _admission(settings: argparse.Namespace) -> Admission:
    """Raises OSError where strangers would be let in."""
    addresses = [address for address in (settings.grpc, settings.http) if address]
    if not settings.tokens_file and not settings.without_tokens:
        for address in addresses:
            if not is_loopback(address.rpartition(":")[0]):
                raise OSError(
                    f"{address} can be reached from elsewhere: give --tokens-file FILE, or, if "
                    "something else keeps strangers out, --without-tokens on"
                )
    tokens = Tokens(settings.tokens_file) if settings.tokens_file else None
    limits = Limits(
        json_bytes=settings.max_json_bytes,
        image_bytes=settings.max_image_bytes,
        stream_items=settings.max_stream_items,
        calls=settings.max_calls,
        connections=settings.max_connections,
        metadata_bytes=settings.max_metadata_bytes,
        call_seconds=settings.max_call_seconds,
        idle_seconds=settings.idle_seconds,
    )
    return Admission(limits, tokens, local=not (tokens or settings.without_tokens))


def _certificates(settings: argparse.Namespace) -> Certificates | None:
    files = (settings.tls_cert, settings.tls_key)
    if any(files) != all(files):
        raise OSError("--tls-cert and --tls-key belong together")
    if not all(files):
        if settings.tls_client_ca:
            raise OSError("--tls-client-ca needs --tls-cert and --tls-key")
        return None
    return Certificates(*files, settings.tls_client_ca)
