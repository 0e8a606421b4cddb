"""A server that makes one mistake: a gRPC proxy before our own server that changes the answers.

Everything passes unchanged, of every service: messages, statuses, trailers, deadlines and
cancellations. A mistake replaces one of the hooks.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from imagecall.backends.embedded.backend import EmbeddedBackend
from imagecall.doors.grpc.server import GrpcServer
from imagecall.generation.backend import Backend
from imagecall.rpc.final_status import final_status

Failure = tuple[grpc.StatusCode, str, tuple[tuple[str, str | bytes], ...]]


async def nothing() -> None:
    """Waits for nothing."""


@dataclass
class Faulty:
    """A proxy and its mistake.

    `messages` changes the messages of an answer of a method, or makes an answer out of none;
    `failure` changes the status of a call that failed, or returns None for OK; `before` waits
    before a call is passed on; `last` waits after its last message; `max_request` is the limit of a
    request, past which the connection breaks; `deaf` leaves deadlines and cancellations out.
    """

    messages: Callable[[str, list[bytes]], list[bytes]] = lambda method, messages: messages
    failure: Callable[[str, Failure], Failure | None] = lambda method, failure: failure
    before: Callable[[str], Awaitable[None]] = lambda method: nothing()
    last: Callable[[str], Awaitable[None]] = lambda method: nothing()
    on_request: Callable[[str, bytes], Failure | None] = lambda method, request: None
    deaf: bool = False
    channel: Any = None
    working: set[Any] = field(default_factory=set)

    async def handle(self, method: str, requests: Any, context: Any) -> None:
        """Passes a call on, and its answer back."""
        taken = [request async for request in requests]
        work = asyncio.ensure_future(self._answer(method, taken, context))
        self.working.add(work)
        work.add_done_callback(self.working.discard)
        answer, failure = await (asyncio.shield(work) if self.deaf else work)
        for message in answer:
            await context.write(message)
        if failure is None:
            await self.last(method)
        else:
            code, text, trailers = failure
            await context.abort(code, text, trailers)

    async def _answer(
        self, method: str, requests: list[bytes], context: Any
    ) -> tuple[list[bytes], Failure | None]:
        if requests and (refused := self.on_request(method, requests[0])) is not None:
            return [], refused
        await self.before(method)
        answer: list[bytes] = []
        call = self.channel.stream_stream(method)(_sent(requests))
        try:
            with final_status(call):
                answer += [message async for message in call]
        except grpc.aio.AioRpcError as error:
            status = (error.code(), error.details() or "", tuple(error.trailing_metadata() or ()))
            failure = self.failure(method, status)
            return ([] if failure else self.messages(method, [])), failure
        finally:
            call.cancel()
        return self.messages(method, answer), None


async def _sent(requests: list[bytes]) -> AsyncIterator[bytes]:
    for request in requests:
        yield request


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, faulty: Faulty) -> None:
        self._faulty = faulty

    def service(self, details: Any) -> Any:
        async def handle(requests: Any, context: Any) -> None:
            await self._faulty.handle(details.method, requests, context)

        return grpc.stream_stream_rpc_method_handler(handle)


@asynccontextmanager
async def faulty_server(faulty: Faulty, backend: Backend | None = None) -> AsyncIterator[str]:
    """The address of the proxy, before our server with a backend."""
    behind = GrpcServer("127.0.0.1:0", backend or EmbeddedBackend())
    options = [("grpc.max_receive_message_length", -1)]
    before = grpc.aio.server(options=options)
    before.add_generic_rpc_handlers((_Handler(faulty),))
    port = before.add_insecure_port("127.0.0.1:0")
    address = await behind.start()
    async with grpc.aio.insecure_channel(address, options) as faulty.channel:
        await before.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            await before.stop(0)
            await behind.stop(0)
