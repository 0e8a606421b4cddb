"""Doors that are observed, and a receiver of OTLP, for the tests of this folder."""

import asyncio
import io
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import aiohttp
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.parser import text_string_to_metric_families

from imagecall.doors.grpc.server import GrpcServer
from imagecall.doors.http.server import HttpServer
from imagecall.doors.metrics import MetricsServer
from imagecall.generation.backend import Backend
from imagecall.observing.observer import Observer
from imagecall.observing.start import observer_from
from imagecall.server.settings import ServerSettings, read_settings


class Receiver:
    """A receiver of OTLP over HTTP."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resources: list[Any] = []
        self.bodies: list[bytes] = []

    async def traces(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.bodies.append(body)
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resources.append(of_resource.resource)
            for of_scope in of_resource.scope_spans:
                self.spans.extend(of_scope.spans)
        return web.Response()


@asynccontextmanager
async def observing(**settings: str) -> AsyncIterator[Observer]:
    """An observer as the settings have it; at the end everything is sent."""
    chosen = read_settings(ServerSettings, settings, {})
    observer = observer_from(bool(chosen.metrics), chosen.traces, chosen.log_calls)
    assert observer
    try:
        yield observer
    finally:
        await asyncio.to_thread(observer.close)


@asynccontextmanager
async def grpc_door(backend: Backend, **options: Any) -> AsyncIterator[str]:
    server = GrpcServer("127.0.0.1:0", backend, **options)
    try:
        yield await server.start()
    finally:
        await server.stop(0)
        await backend.close()


@asynccontextmanager
async def http_door(backend: Backend, **options: Any) -> AsyncIterator[str]:
    server = HttpServer("127.0.0.1:0", backend, **options)
    try:
        yield f"http://{await server.start()}"
    finally:
        await server.stop(1)
        await backend.close()


@asynccontextmanager
async def metrics_door(observer: Observer) -> AsyncIterator[str]:
    server = MetricsServer("127.0.0.1:0", observer.metrics_text)
    try:
        yield f"http://{await server.start()}"
    finally:
        await server.stop(1)


@contextmanager
def logged(formatter: logging.Formatter) -> Iterator[io.StringIO]:
    """Captures the log in the format of a formatter."""
    handler = logging.StreamHandler(written := io.StringIO())
    handler.setFormatter(formatter)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield written
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


async def samples(url: str) -> dict[tuple[str, frozenset[str]], float]:
    """/metrics: the value of each sample by its name and the values of its labels."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as answer:
        assert answer.status == 200
        text = await answer.text()
    return {
        (sample.name, frozenset(value for value in sample.labels.values() if value)): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
