"""Composition of a running server: doors in front of a backend, from start to shutdown."""

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from imagecall.access.admission import Admission
from imagecall.access.certificates import Certificates
from imagecall.access.setting import SettingError
from imagecall.access.tokens import Tokens
from imagecall.backends import embedded
from imagecall.backends.choice import EMBEDDED
from imagecall.doors.door import Door
from imagecall.doors.grpc.server import GrpcServer
from imagecall.doors.http.server import HttpServer
from imagecall.generation.backend import Backend
from imagecall.generation.observed_backend import ObservedBackend
from imagecall.observing.generation import provider_of
from imagecall.observing.logs import log_step
from imagecall.observing.observer import Observer
from imagecall.observing.start import observer_from
from imagecall.rpc.addresses import is_loopback
from imagecall.server.backend import backend_from
from imagecall.server.freed_memory import return_freed_memory
from imagecall.server.settings import WORKER, ServerSettings, TlsSettings
from imagecall.server.workers import READY, stop_with_parent

_OLD_THRESHOLD: Final = 50
"""Threshold of the oldest generation of the garbage collector, by default 10. A pass over the
objects of a thousand connections takes 20 milliseconds."""

_SWITCH_SECONDS: Final = 0.0005
"""Switch interval: longest time that a thread keeps the GIL while the event loop waits, by default
5 ms. The loop may wait that long in each iteration, and a small call takes several."""

_SAMPLE_SECONDS: Final = 1.0
"""Time between two samples of the gauges."""

_ONE_SIGNAL_SECONDS: Final = 0.1
"""SIGTERM and the end of stdin within this time count as one signal."""

Announce = Callable[[Mapping[str, str]], None]
"""Callback that receives the bound address of each door, by name."""


@dataclass(frozen=True)
class Parts:
    """Parts of a server that its doors share.

    Attributes:
        backend: generates the images.
        admission: admits calls within its limits.
        certificates: for TLS. None: no TLS.
        observer: records the calls. None: calls are not recorded.
        share_port: allows other processes to listen on the same ports.
    """

    backend: Backend
    admission: Admission
    certificates: Certificates | None
    observer: Observer | None
    share_port: bool


def doors(settings: ServerSettings, parts: Parts) -> dict[str, Door]:
    """Returns the configured doors, by the name of the setting with their address."""
    configured: dict[str, Door] = {
        "grpc": GrpcServer(
            settings.grpc,
            parts.backend,
            parts.admission,
            certificates=parts.certificates,
            observer=parts.observer,
            share_port=parts.share_port,
            reflection=settings.reflection,
            channelz=settings.channelz,
        )
    }
    if settings.http is not None:
        configured["http"] = HttpServer(
            settings.http,
            parts.backend,
            parts.admission,
            certificates=parts.certificates,
            observer=parts.observer,
            share_port=parts.share_port,
            forward_headers=settings.forward_headers,
            main_model=settings.main_model,
            models=listed_models(settings),
            cors_origins=settings.cors_origins,
            backend_name=shown_name(settings.backend.name or EMBEDDED),
        )
    if settings.metrics is not None and parts.observer:
        from imagecall.doors.metrics import MetricsServer  # aiohttp takes a while to load.

        configured["metrics"] = MetricsServer(
            settings.metrics, parts.observer.metrics_text, share_port=parts.share_port
        )
    return configured


def shown_name(backend: str) -> str:
    """Returns the URI of a backend without what may be secret: user, password and query."""
    if "://" not in backend:
        return backend
    parts = urlsplit(backend)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def listed_models(settings: ServerSettings) -> Sequence[str]:
    """Returns the models that GET /v1/models lists."""
    if settings.listed_models:
        return settings.listed_models
    if settings.main_model is not None:
        return [settings.main_model]
    return [embedded.MODEL] if settings.backend.name in (None, EMBEDDED) else []


def check(settings: ServerSettings) -> None:
    """Raises SettingError for settings with which no server can start."""
    admission_from(settings)
    certificates_from(settings.tls)
    backend_from(settings.backend, settings.limits, settings.forward_headers)


async def serve(settings: ServerSettings, announce: Announce) -> None:
    """Runs one process of a server until SIGINT or SIGTERM. Raises SettingError, OSError."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    is_worker = WORKER in os.environ
    sys.setswitchinterval(_SWITCH_SECONDS)
    parts = _parts(settings, is_worker)
    running = doors(settings, parts)
    background = [asyncio.create_task(work) for work in _background(parts)]
    try:
        bound = {name: await door.start() for name, door in running.items()}
        _collect_garbage_rarely()
        if is_worker:
            print(READY, flush=True)
        else:
            announce(bound)
        # A signal to the process group reaches a worker twice: directly, and through its stdin.
        with stop_with_parent(stopped) if is_worker else nullcontext():
            await stopped.wait()
        await _drain(settings, parts.admission, running, stopped)
    finally:
        await _stop(settings, running)
        for task in background:
            task.cancel()
        await parts.backend.close()
        if parts.observer:
            parts.observer.close()


def _parts(settings: ServerSettings, share_port: bool) -> Parts:
    backend = backend_from(settings.backend, settings.limits, settings.forward_headers)
    observer = observer_from(bool(settings.metrics), settings.traces, settings.log_calls)
    admission = admission_from(settings)
    if observer:
        backend = ObservedBackend(backend, provider_of(settings.backend.name or EMBEDDED))
        observer.set_limit(settings.limits.calls)
        watch(observer, admission)
    return Parts(backend, admission, certificates_from(settings.tls), observer, share_port)


def watch(observer: Observer, admission: Admission) -> None:
    """Adds the gauges of the memory that admission counts."""
    text = "Bytes that the calls in progress hold"
    observer.watch("imagecall_memory_bytes", text, lambda: admission.budget.held)
    text = "Most bytes that the calls in progress may hold"
    observer.watch("imagecall_memory_limit_bytes", text, lambda: admission.limits.memory_bytes)


def _background(parts: Parts) -> Iterator[Coroutine[Any, Any, None]]:
    """Yields the work that goes on until the server has stopped."""
    yield return_freed_memory(parts.admission.budget.is_quiet)
    if parts.observer:
        yield _sample(parts.observer)


async def _sample(observer: Observer) -> None:
    """Samples the gauges."""
    while True:
        observer.sample()
        await asyncio.sleep(_SAMPLE_SECONDS)


async def _drain(
    settings: ServerSettings,
    admission: Admission,
    running: Mapping[str, Door],
    stopped: asyncio.Event,
) -> None:
    """Reports NOT_SERVING, and waits drain_delay_seconds or until a second signal."""
    log_step("draining")
    admission.draining = True
    for door in running.values():
        await door.drain()
    await asyncio.sleep(_ONE_SIGNAL_SECONDS)
    stopped.clear()
    with suppress(TimeoutError):
        await asyncio.wait_for(stopped.wait(), settings.drain_delay_seconds)


async def _stop(settings: ServerSettings, running: Mapping[str, Door]) -> None:
    """Stops the doors for calls, then the metrics door, which Prometheus reads until the end."""
    for for_calls in (True, False):
        stopping = [
            door.stop(settings.drain_seconds)
            for name, door in running.items()
            if (name in settings.call_addresses) == for_calls
        ]
        await asyncio.gather(*stopping)


def admission_from(settings: ServerSettings) -> Admission:
    """Returns the admission. Raises SettingError for an address that strangers could reach."""
    if not settings.tokens_file and not settings.without_tokens:
        for address in settings.call_addresses.values():
            if not is_loopback(address.rpartition(":")[0]):
                raise SettingError(
                    f"{address} is not a loopback address: set --tokens-file FILE, or, if a "
                    "network or a proxy keeps strangers out, --without-tokens on"
                )
    with _as_setting_errors():
        tokens = Tokens(settings.tokens_file) if settings.tokens_file else None
    return Admission(settings.limits, tokens, local=not (tokens or settings.without_tokens))


def certificates_from(tls: TlsSettings) -> Certificates | None:
    """Returns the certificates; None without TLS. Raises SettingError for faulty files."""
    if tls.cert and tls.key:
        with _as_setting_errors():
            return Certificates(tls.cert, tls.key, tls.client_ca)
    if tls.cert or tls.key:
        raise SettingError("--tls-cert and --tls-key belong together")
    if tls.client_ca:
        raise SettingError("--tls-client-ca requires --tls-cert and --tls-key")
    return None


@contextmanager
def _as_setting_errors() -> Iterator[None]:
    """Turns an OSError about a faulty file into a SettingError."""
    try:
        yield
    except OSError as error:
        raise SettingError(str(error)) from None


def raise_open_file_limit() -> None:
    """Raises the limit of open files to the highest that the system allows."""
    import resource  # Missing on Windows.

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS reports "unlimited", and refuses it.
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _collect_garbage_rarely() -> None:
    """Makes full passes of the garbage collector rare, as each stops the event loop."""
    gc.collect()
    gc.freeze()  # The objects of start-up stay.
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, _OLD_THRESHOLD)
