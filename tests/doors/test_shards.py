"""The servers of gRPC's core that share a port, and the descriptors by which they listen."""

import asyncio
import errno
import os
import re
import resource
import socket
import subprocess
import sys
from contextlib import AsyncExitStack, ExitStack
from typing import Any

import grpc
import pytest

from imagecall.access.admission import Admission
from imagecall.access.limits import Limits
from imagecall.backends.embedded.backend import EmbeddedBackend
from imagecall.doors.grpc.boundary import Boundary
from imagecall.doors.grpc.listeners import listeners, refuse, reserved
from imagecall.doors.grpc.server import GrpcServer
from imagecall.doors.grpc.shards import Shards
from imagecall.v1.conversion_service_pb2 import ParseCallRequest
from imagecall.v1.conversion_service_pb2_grpc import ConversionServiceStub

ITEM = '{"type":"image_generation_call","id":"ig_1"}'


def server(connections: int, address: str = "127.0.0.1:0") -> GrpcServer:
    return GrpcServer(address, EmbeddedBackend(), Admission(Limits(connections=connections)))


def place(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


@pytest.mark.parametrize(
    ("connections", "servers"), [(1, 1), (2048, 1), (2049, 64), (5000, 156), (10**6, 256)]
)
async def test_many_connections_are_spread_over_servers(
    connections: int, servers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (2**20, 2**20))
    before = listeners()
    door = server(connections)
    address = await door.start()
    assert len(listeners().items() - before.items()) == servers
    async with AsyncExitStack() as stack:
        for _ in range(min(connections, 20)):
            options = (("grpc.use_local_subchannel_pool", 1),)
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(address, options))
            stub: Any = ConversionServiceStub(channel)
            assert (await stub.ParseCall(ParseCallRequest(json=ITEM), timeout=10)).call
    await door.stop(0)
    assert listeners() == before
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*place(address))


_HARD = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
_ALL = 256 if _HARD == resource.RLIM_INFINITY else min(256, _HARD // 16)


@pytest.mark.parametrize(("limit", "servers"), [("-Sn 200", _ALL), ("-n 200", 12)])
def test_there_are_as_many_servers_as_descriptors_allow(limit: str, servers: int) -> None:
    serve = [sys.executable, "-m", "imagecall", "serve", "--grpc", "127.0.0.1:0", "--http", "off"]
    command = ["bash", "-c", f'ulimit {limit}; exec "$@"', "-", *serve]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            address = process.stdout.readline().split()[-1]
            opened = len(os.listdir(f"/proc/{process.pid}/fd"))
            with grpc.insecure_channel(address) as channel:
                request = ParseCallRequest(json=ITEM)
                assert ConversionServiceStub(channel).ParseCall(request, timeout=10).call
            process.terminate()
            assert process.wait(20) == 0
        finally:
            process.kill()
    assert servers < opened < servers + 60


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "[::]"])
async def test_a_port_is_taken_for_others_of_any_kind(host: str) -> None:
    door = server(10_000, f"{host}:0")
    address = await door.start()
    with pytest.raises(OSError, match=re.escape(f"cannot listen on {address}: is it free")):
        await server(10_000, address).start()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", place(address)[1]))
    await door.stop(0)
    again = server(10_000, address)
    assert await again.start() == address
    await again.stop(0)


def test_what_is_reserved_is_free_afterwards() -> None:
    with ExitStack() as stack:
        address = reserved("localhost:0", stack)
        host, port = place(address)
        assert host == "localhost"
        assert port
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))


async def test_without_IPv6_any_address_is_one_of_IPv4(monkeypatch: pytest.MonkeyPatch) -> None:
    made = socket.socket

    def only_ipv4(family: int = socket.AF_INET, *rest: Any, **named: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "no IPv6")
        return made(family, *rest, **named)

    with ExitStack() as stack:
        monkeypatch.setattr("socket.socket", only_ipv4)
        address = reserved("[::]:0", stack)
        monkeypatch.undo()
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("0.0.0.0", place(address)[1]))


async def test_a_start_that_fails_half_way_leaves_nothing() -> None:
    before, left = listeners(), 5

    def credentials() -> grpc.ServerCredentials:
        nonlocal left
        left -= 1
        if not left:
            raise OSError("the certificate is gone")
        return grpc.local_server_credentials()

    door = Shards(Boundary(Admission()), [], 10_000, False)
    with pytest.raises(OSError, match="is gone"):
        await door.start("127.0.0.1:0", credentials)
    assert listeners() == before
    await door.stop(0)


async def test_one_that_stops_twice_does_not_touch_another() -> None:
    first, second = server(10_000), server(10_000)
    await first.start()
    await first.stop(0)
    address = await second.start()
    await first.stop(0)
    _, writer = await asyncio.open_connection(*place(address))
    writer.close()
    await second.stop(0)


@pytest.mark.parametrize(
    "address",
    ["192.0.2.1:1234", "nowhere.invalid:0", "[::ffff:zz]:0", "a..b:0", "127.0.0.1:70000", "x"],
)
async def test_an_address_of_others_is_an_error_with_a_sentence(address: str) -> None:
    with pytest.raises(OSError, match=r"cannot listen on .*: is it free, and a HOST:PORT"):
        await server(10_000, address).start()


async def test_where_connections_are_refused_the_descriptor_stays_taken() -> None:
    before = listeners()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        own, where = listening.fileno(), listening.getsockname()
        found = dict(listeners().items() - before.items())
        assert found == {own: where[1]}
        refuse({own: where[1] + 1})
        assert own in listeners()
        refuse(found)
        refuse(found)
        assert own not in listeners()
        with socket.socket() as other:
            assert other.fileno() != own
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*where)
