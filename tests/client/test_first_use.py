"""Connections are opened at the first call, in the process, thread or event loop of the call."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from imagecall.backends.embedded.backend import EmbeddedBackend
from imagecall.client import AsyncImageClient, ImageClient
from tests.client.test_clients import fox
from tests.doors.test_generation import serving


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """Address of a server in a thread with an event loop of its own."""
    loop, started, addresses = asyncio.new_event_loop(), threading.Event(), []
    ending = asyncio.Event()

    async def serve() -> None:
        async with serving(EmbeddedBackend()) as address:
            addresses.append(address)
            started.set()
            await ending.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=[serve()])
    thread.start()
    started.wait(30)
    yield addresses[0]
    loop.call_soon_threadsafe(ending.set)
    thread.join()
    loop.close()


def test_one_client_serves_several_event_loops(elsewhere: str) -> None:
    client = AsyncImageClient(elsewhere)

    async def calls() -> int:
        return len((await client.generate(fox())).images)

    assert [asyncio.run(calls()) for _ in range(3)] == [1, 1, 1]
    counts: list[int] = []
    threads = [
        threading.Thread(target=lambda: counts.append(asyncio.run(calls()))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [1, 1, 1]


def test_threads_share_a_client(elsewhere: str) -> None:
    with ImageClient(elsewhere) as client:
        counts: list[int] = []
        threads = [
            threading.Thread(target=lambda: counts.append(len(client.generate(fox()).images)))
            for _ in range(10)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert counts == [1] * 10


FORK = """
import os, sys
from imagecall.client import ClientTls, ImageClient

client = ImageClient(sys.argv[1])
if sys.argv[2] == "used":
    assert client.generate("a fox").images
children = []
for _ in range(2):
    child = os.fork()
    if child == 0:
        client.generate("a fox").image.data or os._exit(1)
        client.close()
        os._exit(0)
    children.append(child)
for child in children:
    assert os.waitpid(child, 0)[1] == 0
assert client.generate("a fox").images
client.close()
"""


@pytest.mark.parametrize("before", ["unused", "used"])
def test_a_client_works_in_a_process_and_in_its_forks(elsewhere: str, before: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK, elsewhere, before], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_clients_and_their_calls_need_no_event_loop_in_the_thread(elsewhere: str) -> None:
    program = (
        "import sys; from imagecall.client import AsyncImageClient, ImageClient\n"
        "AsyncImageClient(sys.argv[1])\n"
        "print(len(ImageClient(sys.argv[1]).generate('a fox').images))"
    )
    run = [sys.executable, "-W", "error", "-c", program, elsewhere]
    done = subprocess.run(run, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("1\n", 0), done.stderr
