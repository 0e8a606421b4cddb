"""Someone who makes small calls at a steady pace, and is not to feel what others do.

    python -m tests.soak.bystander GRPC [HTTP]

A call is begun every 10 milliseconds, whether or not the last one is answered: the time is taken
from when it was due, so a server that stands still for a second shows in a hundred calls.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import aiohttp
import grpc

from imagecall.v1.conversion_service_pb2 import ParseCallRequest
from imagecall.v1.conversion_service_pb2_grpc import ConversionServiceStub
from tests.soak.beside import ready, report, told_to_stop

ITEM: Final = json.dumps({"type": "image_generation_call", "id": "ig_1", "status": "completed"})
_PACE_SECONDS: Final = 0.01
_TIMEOUT_SECONDS: Final = 10.0

Call = Callable[[], Awaitable[Any]]


class _Pace:
    """Calls at a steady pace: when each was due, and how many milliseconds later it ended."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._running: set[asyncio.Task[None]] = set()
        self.due: list[float] = []
        self.milliseconds: list[float] = []
        self.failures: list[str] = []

    async def keep(self) -> None:
        due = time.monotonic()
        while True:
            task = asyncio.create_task(self._one(due))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
            due += _PACE_SECONDS
            await asyncio.sleep(due - time.monotonic())

    async def finish(self) -> None:
        await asyncio.gather(*self._running)

    async def _one(self, due: float) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                await self._call()
        except (grpc.RpcError, aiohttp.ClientError, TimeoutError) as error:
            self.failures.append(repr(error)[:200])
        self.due.append(due)
        self.milliseconds.append((time.monotonic() - due) * 1000)


async def _main(address: str, http: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel, aiohttp.ClientSession() as session:
        stub: Any = ConversionServiceStub(channel)
        request = ParseCallRequest(json=ITEM)
        headers = {"content-type": "application/json"}

        async def parse() -> None:
            await stub.ParseCall(request)

        async def convert() -> None:
            url = f"http://{http}/convert"
            async with session.post(url, data=ITEM, headers=headers) as answer:
                answer.raise_for_status()
                await answer.read()

        paces = {"grpc": _Pace(parse)} | ({"http": _Pace(convert)} if http else {})
        await parse()
        ready()
        keeping = [asyncio.create_task(pace.keep()) for pace in paces.values()]
        await told_to_stop()
        for task in keeping:
            task.cancel()
        for pace in paces.values():
            await pace.finish()
        report(
            **{name: pace.milliseconds for name, pace in paces.items()},
            due={name: pace.due for name, pace in paces.items()},
            failures=[failure for pace in paces.values() for failure in pace.failures],
        )


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""))
