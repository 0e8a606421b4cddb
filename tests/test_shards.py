"""The servers of gRPC's core that share a port, and the descriptors by which they listen."""

import asyncio
import os
import socket
import subprocess
import sys
from contextlib import AsyncExitStack, ExitStack
from typing import Any

import grpc
import pytest

from imagecall.backends.embedded import EmbeddedBackend
from imagecall.doors.admission import Admission
from imagecall.doors.grpc import GrpcServer
from imagecall.doors.listeners import close, listeners, reserved
from imagecall.limits import Limits
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
async def test_many_connections_are_spread_over_servers(connections: int, servers: int) -> None:
    before = listeners()
    door = server(connections)
    address = await door.start()
    assert len(listeners() - before) == servers
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


@pytest.mark.parametrize(("limit", "servers"), [("-Sn 200", 256), ("-n 200", 12)])
def test_there_are_as_many_servers_as_descriptors_allow(limit: str, servers: int) -> None:
    serve = [sys.executable, "-m", "imagecall", "serve", "--grpc", "127.0.0.1:0", "--http", "off"]
    command = ["bash", "-c", f'ulimit {limit}; exec "$@"', "-", *serve]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        address = process.stdout.readline().split()[-1]
        opened = len(os.listdir(f"/proc/{process.pid}/fd"))
        with grpc.insecure_channel(address) as channel:
            request = ParseCallRequest(json=ITEM)
            assert ConversionServiceStub(channel).ParseCall(request, timeout=10).call
        process.terminate()
        assert process.wait(20) == 0
    assert servers < opened < servers + 60


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
async def test_a_port_is_taken_for_others_of_any_kind(host: str) -> None:
    door = server(10_000, f"{host}:0")
    address = await door.start()
    with pytest.raises(OSError, match=f"cannot listen on {address}: is it free"):
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


@pytest.mark.parametrize("address", ["192.0.2.1:1234", "nowhere.invalid:0", "[::ffff:zz]:0"])
async def test_an_address_of_others_is_an_error_with_a_sentence(address: str) -> None:
    with pytest.raises(OSError, match=r"cannot listen on .*: is it free, and a HOST:PORT"):
        await server(10_000, address).start()


async def test_a_closed_listener_refuses_and_its_number_stays_taken() -> None:
    before = listeners()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        found = listeners() - before
        assert found == {listening.fileno()}
        where = listening.getsockname()
        close(found)
        close(found)
        assert listeners() == before
        assert listening.fileno() in found
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*where)
