"""Status that a server gave to a call of grpc.aio whose requests were still being written."""

from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import grpc

_Result = TypeVar("_Result")


@contextmanager
def final_status(call: Any) -> Iterator[None]:
    """Context in which the responses of a call with a stream of requests are read.

    If a request is being written as the server ends the call, grpc.aio replaces the status of the
    server by INTERNAL, "Internal error from Core" (https://github.com/grpc/grpc/issues/36066).
    Raises grpc.aio.AioRpcError with the status of the server instead; nothing for OK.
    """
    statuses: list[grpc.aio.AioRpcError] = []
    call.add_done_callback(lambda ended: statuses.append(_status(ended)))
    try:
        yield
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.INTERNAL or not statuses:
            raise
        if statuses[0].code() is not grpc.StatusCode.OK:
            raise statuses[0] from None


def _status(ended: Any) -> grpc.aio.AioRpcError:
    """Status of a call that has ended."""
    return grpc.aio.AioRpcError(
        _result(ended.code()),
        _result(ended.initial_metadata()),
        _result(ended.trailing_metadata()),
        _result(ended.details()),
    )


def _result(finished: Coroutine[Any, Any, _Result]) -> _Result:
    """Result of a coroutine that has nothing to wait for."""
    try:
        finished.send(None)
    except StopIteration as stop:
        result: _Result = stop.value
        return result
    raise RuntimeError("the call has not ended")
