"""Observation of the calls at the gRPC door."""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, Final, TypeAlias

import grpc
from google.protobuf.descriptor_pb2 import MethodOptions

from imagecall.observing.observer import CURRENT_CALL, Observer
from imagecall.observing.operations import CANCELLED, rpc_served
from imagecall.observing.request_id import HEADER, REQUEST_ID, take_request_id
from imagecall.rpc.headers import Metadata
from imagecall.v1.image_generation_service_pb2 import DESCRIPTOR

_GENERATION: Final = DESCRIPTOR.services_by_name["ImageGenerationService"]
_BILLED: Final = frozenset(
    f"/{_GENERATION.full_name}/{method.name}"
    for method in _GENERATION.methods
    if method.GetOptions().idempotency_level == MethodOptions.IDEMPOTENCY_UNKNOWN
)
"""Paths of the methods whose calls may be billed: in the schema they are not idempotent."""

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Behavior: TypeAlias = Callable[[Any, Context], Awaitable[Any]]


METADATA: Final[ContextVar[Metadata]] = ContextVar("METADATA", default=())
"""Metadata of the current call: keys in lower case, each as often as the client sent it."""


def identify() -> str:
    """Returns the request id of the current call; creates the id if there is none yet."""
    if request_id := REQUEST_ID.get():
        return request_id
    metadata = METADATA.get()
    return take_request_id(next((value for key, value in metadata if key == HEADER), ""))


def answer_with_id(context: Context, further: Metadata = ()) -> None:
    """Puts the request id of the current call, and further metadata, into the trailing metadata.

    Initial metadata would stop gRPC from retrying the call. Small conversions do not call this
    function, since the metadata would cost more than the rest of their observation.
    """
    context.set_trailing_metadata(((HEADER, identify()), *further))


def is_generation(method: str) -> bool:
    """Returns True for the path of a method whose calls an API may bill."""
    return method in _BILLED


def observed(method: str, behavior: Behavior, observer: Observer) -> Behavior:
    """Wraps the behavior of a method, which returns serialized answers, and observes its calls."""
    operation = rpc_served(method.removeprefix("/"), is_generation(method))
    observer.expect(operation)

    async def observing(requests: Any, context: Context) -> Any:
        metadata: dict[str, str | bytes] = dict(METADATA.get())
        if HEADER in metadata or observer.log_calls:  # Else identify() creates the id.
            take_request_id(metadata.get(HEADER))
        call = observer.start(operation, metadata)
        try:
            answer = await behavior(requests, context)
            call.code = "OK"
            call.sent_bytes += len(answer or b"")
            return answer
        except asyncio.CancelledError:
            seconds_left = context.time_remaining()
            is_late = seconds_left is not None and seconds_left <= 0
            call.cancel("DEADLINE_EXCEEDED" if is_late else CANCELLED)
            raise
        except Exception:  # The log lines about any exception need the id of the request.
            identify()
            raise
        finally:
            call.end(call.code or "UNKNOWN")

    return observing


def note_received(size: int) -> None:
    """Counts the bytes of a request of the current call, if the call is observed."""
    if (call := CURRENT_CALL.get()) is not None:
        call.received_bytes += size


def note_sent(size: int) -> None:
    """Counts the bytes of an answer on the stream of the current call, if the call is observed."""
    if (call := CURRENT_CALL.get()) is not None:
        call.sent_bytes += size
