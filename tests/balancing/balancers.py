"""The load balancers, each with its configuration of scripts/deploy. Only the ports are others."""

import asyncio
import json
import os
import re
import shutil
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.balancing.replicas import free_ports

_ROOT: Final = Path(__file__).parents[2]
DEPLOY: Final = _ROOT / "scripts/deploy"
_REPLICA_PORTS: Final = (50051, 50052, 50053)
_SECONDS: Final = 60


@dataclass(frozen=True)
class Balancer:
    """Load balancer between a client and the replicas.

    Attributes:
        target: the name that clients connect to.
        options: the options of a channel with the shipped retry policy.
        options_without_retry: the options of a channel without retry policy.
        pid: identifier of its process; 0 if it has none of its own.
    """

    target: str
    options: list[tuple[str, Any]]
    options_without_retry: list[tuple[str, Any]]
    pid: int = 0


Start = Callable[[list[int], Path], AbstractAsyncContextManager[Balancer]]
"""Starts a load balancer before the replicas on these ports, with a directory for its files."""


def program(name: str, package: str) -> str:
    """The path of a program. Raises AssertionError if there is none."""
    # Debian has HAProxy where only the administrator's PATH leads.
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    assert found, f"load balancing needs {name}: {package}"
    return found


def shipped(name: str, ports: Mapping[int, int]) -> str:
    """A file of scripts/deploy, with other ports."""
    text = (DEPLOY / name).read_text()
    for port in ports:
        assert str(port) in text, f"{port} is not in {name}"
    return re.sub(r"\b\d{4,5}\b", lambda found: str(ports.get(int(found[0]), found[0])), text)


def _behind(address: str, pid: int = 0) -> Balancer:
    """A load balancer that is one address."""
    config = json.loads((DEPLOY / "service_config.json").read_text())
    with_retry = [("grpc.service_config", json.dumps(config))]
    del config["methodConfig"]
    without_retry = [("grpc.service_config", json.dumps(config))]
    return Balancer(address, with_retry, without_retry, pid)


@asynccontextmanager
async def envoy(ports: list[int], directory: Path) -> AsyncIterator[Balancer]:
    """Envoy, which retries what no replica has begun."""
    (port,) = free_ports(1)
    given = {8082: port} | dict(zip(_REPLICA_PORTS, ports, strict=True))
    configuration = directory / "envoy.yaml"
    configuration.write_text(shipped("envoy.yaml", given))
    command = (
        *(program("envoy", "scripts/setup dev"), "--config-path", str(configuration)),
        *("--disable-hot-restart", "--concurrency", "1", "--log-level", "error"),
    )
    async with _running(*command, port=port) as process:
        yield _behind(f"127.0.0.1:{port}", process.pid)


@asynccontextmanager
async def haproxy(ports: list[int], directory: Path) -> AsyncIterator[Balancer]:
    """HAProxy, which retries what no replica has had."""
    (port,) = free_ports(1)
    given = {8083: port} | dict(zip(_REPLICA_PORTS, ports, strict=True))
    configuration = directory / "haproxy.cfg"
    configuration.write_text(shipped("haproxy.cfg", given))
    command = (program("haproxy", "scripts/haproxy"), "-db", "-q", "-f", str(configuration))
    async with _running(*command, port=port) as process:
        yield _behind(f"127.0.0.1:{port}", process.pid)


@asynccontextmanager
async def round_robin(ports: list[int], directory: Path) -> AsyncIterator[Balancer]:
    """The client itself, by service_config.json."""
    yield _behind("ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports))


@asynccontextmanager
async def xds(ports: list[int], directory: Path) -> AsyncIterator[Balancer]:
    """The client itself, as a control plane tells it."""
    given = dict(zip(_REPLICA_PORTS, ports, strict=True))
    files = [directory / f"{name}.yaml" for name in ("lds", "rds", "cds", "eds")]
    for file in files:
        ports_of = given if file.stem == "eds" else {}
        file.write_text(shipped(f"xds/{file.name}", ports_of))
    set_up = await asyncio.create_subprocess_exec(_ROOT / "scripts/setup", "xds", ".venv-xds")
    assert await set_up.wait() == 0
    python, program = _ROOT / ".venv-xds/bin/python", Path(__file__).with_name("control_plane.py")
    plane = await asyncio.create_subprocess_exec(python, program, *files, stdout=PIPE)
    try:
        assert plane.stdout
        port = int(await plane.stdout.readline())
        # gRPC reads it when it first makes a channel of this kind.
        os.environ["GRPC_XDS_BOOTSTRAP_CONFIG"] = shipped("xds_bootstrap.json", {18000: port})
        yield Balancer("xds:///imagecall", [], [("grpc.enable_retries", 0)])
    finally:
        os.environ.pop("GRPC_XDS_BOOTSTRAP_CONFIG", None)
        plane.terminate()
        await plane.wait()


BALANCERS: Final[Mapping[str, Start]] = {
    "Envoy": envoy,
    "HAProxy": haproxy,
    "round_robin": round_robin,
    "xds:///": xds,
}


@asynccontextmanager
async def _running(*command: str, port: int) -> AsyncIterator[Process]:
    """A program, once it listens. At the end it is gone."""
    process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL)
    try:
        async with asyncio.timeout(_SECONDS):
            while not await _listens(port):
                assert process.returncode is None, command[0]
                await asyncio.sleep(0.02)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True
