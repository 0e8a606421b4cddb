"""The real server on a free port, and a real browser, for the tests that call or open them."""

import shutil
from collections.abc import AsyncIterator, Iterator
from typing import Final

import grpc
import pytest
from hypothesis import settings
from selenium import webdriver

from imagecall.backends.embedded.backend import EmbeddedBackend
from imagecall.doors.grpc.server import GrpcServer
from imagecall.v1.conversion_service_pb2_grpc import ConversionServiceStub

# pytest's last garbage collection waits for the thread of grpc.aio, which may never end, unless one
# more use of it is counted: https://github.com/grpc/grpc/issues/22365.
grpc.aio.init_grpc_aio()

settings.register_profile("imagecall", deadline=None, derandomize=True, max_examples=300)
settings.load_profile("imagecall")

_BROWSER_OPTIONS: Final = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


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


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """A browser. Without one the tests fail: that a page works is known from nothing else."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not browser or not driver:
        pytest.fail("tests need a browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for option in (*_BROWSER_OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    running = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield running
    running.quit()
