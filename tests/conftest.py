"""The real server on a free port, for the tests that call it."""

from collections.abc import AsyncIterator

import grpc
import pytest
from hypothesis import settings

from imagecall.backends.embedded import EmbeddedBackend
from imagecall.doors.grpc import GrpcServer
from imagecall.v1.conversion_service_pb2_grpc import ConversionServiceStub

settings.register_profile("imagecall", deadline=None, derandomize=True, max_examples=300)
settings.load_profile("imagecall")


@pytest.fixture
async def address() -> AsyncIterator[str]:
    """The address of a server with its defaults."""
    server = GrpcServer("127.0.0.1:0", EmbeddedBackend())
    yield await server.start()
    await server.stop(0)


@pytest.fixture
async def channel(address: str) -> AsyncIterator[grpc.aio.Channel]:
    """A channel with no special options."""
    async with grpc.aio.insecure_channel(address) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> ConversionServiceStub:
    return ConversionServiceStub(channel)
