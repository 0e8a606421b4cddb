"""Conversions in bulk by a server: each item has its result, or its error, at its place."""

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

import imagecall
from imagecall.client import AsyncImageClient
from tests.client.both import CLIENTS, AnyClient, called, opened

pytestmark = pytest.mark.parametrize("kind", CLIENTS, ids=lambda kind: kind.__name__)

LARGE = b64encode(b"\x89PNG\r\n\x1a\n" + bytes(5_000_000)).decode()


def item(number: int, **keys: Any) -> str:
    return json.dumps(
        {"type": "image_generation_call", "id": f"ig_{number}", **keys}, separators=(",", ":")
    )


LARGE_ITEM = item(0, result=LARGE)


async def test_a_thousand_items_are_converted_and_back_in_order(
    kind: type[AnyClient], address: str
) -> None:
    items = [item(number) for number in range(1000)]
    items[500] = item(500, result=LARGE)
    async with opened(kind(address)) as client:
        calls = await called(client, "parse_calls", items)
        assert calls == [imagecall.from_json(text) for text in items]
        texts = await called(client, "format_calls", calls)
    assert texts == [text.encode() for text in items]


BAD = {
    "no JSON": ("{", "NOT_JSON", ""),
    "a wrong type": ('{"type":"image_generation_call","id":5}', "WRONG_TYPE", "/id"),
    "no UTF-8": (b'{"type":"\xff"}', "NOT_UTF8", "/type"),
    "half a surrogate pair": ('{"type":"\ud800"}', "LONE_SURROGATE", "/type"),
    "nothing": ("", "NOT_JSON", ""),
    "a large one": ('{"type":"a","b":"' + LARGE, "NOT_JSON", "/b"),
}


async def test_an_item_that_is_refused_is_an_error_in_its_place(
    kind: type[AnyClient], address: str
) -> None:
    bad = list(BAD.values())
    items = [text for index, (bad_text, _, _) in enumerate(bad) for text in (bad_text, item(index))]
    async with opened(kind(address)) as client:
        results = await called(client, "parse_calls", items)
    assert results[1::2] == [imagecall.from_json(item(index)) for index in range(len(bad))]
    errors = results[::2]
    assert all(isinstance(error, imagecall.ConversionError) for error in errors)
    assert [(error.reason, error.pointer) for error in errors] == [each[1:] for each in bad]
    assert {error.code for error in errors} == {"INVALID_ARGUMENT"}


async def test_a_message_that_is_refused_is_an_error_in_its_place(
    kind: type[AnyClient], address: str
) -> None:
    good = imagecall.from_json(item(1))
    async with opened(kind(address)) as client:
        first, error, last = await called(
            client, "format_calls", [good, imagecall.ImageGenerationCall(), good]
        )
    assert (first, last) == (item(1).encode(), item(1).encode())
    assert error.reason == "EMPTY_ONEOF"


async def test_variant_and_profile_are_those_of_each_item(
    kind: type[AnyClient], address: str
) -> None:
    options: dict[str, Any] = {"variant": "input_image_generation_call2"}
    async with opened(kind(address)) as client:
        [call] = await called(client, "parse_calls", [item(1)], **options)
        options["profile"] = imagecall.Profile.STRICT
        [error] = await called(client, "parse_calls", [item(1)], **options)
        [unknown] = await called(client, "parse_calls", [item(1)], variant="none")
    assert imagecall.view(call).variant == "input_image_generation_call2"
    assert (error.reason, error.pointer) == ("MISSING_KEY", "/result")
    assert unknown.reason == "UNKNOWN_VARIANT"


async def test_no_items_have_no_results(kind: type[AnyClient], address: str) -> None:
    async with opened(kind(address)) as client:
        assert await called(client, "parse_calls", []) == []


class Unusual(BaseException):
    """Exception that is no Exception, as are KeyboardInterrupt and SystemExit."""


def failing_items(failure: BaseException) -> Iterator[str]:
    yield from (item(number) for number in range(300))
    raise failure


async def failing_items_that_arrive(failure: BaseException) -> AsyncIterator[str]:
    for each in failing_items(failure):
        yield each


FAILURES = [KeyError("no more"), ValueError("wrong"), Unusual(), asyncio.CancelledError()]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
@pytest.mark.parametrize("items", [failing_items, failing_items_that_arrive])
async def test_a_failure_of_the_iterable_is_raised_after_the_results_before_it(
    items: Any, failure: BaseException, kind: type[AnyClient], address: str
) -> None:
    results: list[Any] = []
    async with opened(kind(address, max_calls=1)) as client:
        caught: BaseException | None = None
        try:
            if isinstance(client, AsyncImageClient):
                async for result in client.parse_calls(items(failure)):
                    results.append(result)
            else:
                calls = client.parse_calls(failing_items(failure))
                await asyncio.to_thread(results.extend, calls)
        except BaseException as error:
            caught = error
        assert caught is failure
        assert len(results) == 300
        assert len(await called(client, "parse_calls", [item(1)])) == 1


class Handler(grpc.GenericRpcHandler):
    """Server whose calls one function handles."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def service(self, handler_call_details: Any) -> Any:
        return grpc.stream_stream_rpc_method_handler(self._handle)


@asynccontextmanager
async def handled_by(handle: Any) -> AsyncIterator[str]:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Handler(handle),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


async def read_and_fail(requests: Any, context: Any) -> None:
    async for _ in requests:
        pass
    await context.abort(grpc.StatusCode.DATA_LOSS, "lost")


async def test_a_failure_of_the_iterable_is_raised_when_the_call_fails_too(
    kind: type[AnyClient],
) -> None:
    async with handled_by(read_and_fail) as address, opened(kind(address)) as client:
        with pytest.raises(KeyError, match="no more"):
            await called(client, "parse_calls", failing_items(KeyError("no more")))
        with pytest.raises(imagecall.GenerationError, match="lost") as caught:
            await called(client, "parse_calls", [item(1)])
    assert not caught.value.may_be_billed  # A conversion costs nothing.


async def read_one(requests: Any, context: Any) -> None:
    await context.read()


@pytest.mark.parametrize("items", [[LARGE_ITEM] * 3, [item(number) for number in range(1000)]])
async def test_a_call_that_ends_before_the_items_do_is_an_error(
    items: list[str], kind: type[AnyClient]
) -> None:
    async with handled_by(read_one) as address, opened(kind(address)) as client:
        for _ in range(10):
            with pytest.raises(imagecall.ConversionError) as caught:
                await called(client, "parse_calls", items)
            assert (caught.value.code, caught.value.reason) == ("DATA_LOSS", "CHUNKS_DAMAGED")


async def test_a_call_that_is_refused_while_items_are_sent_keeps_its_status(
    kind: type[AnyClient], address: str
) -> None:
    padded = [("x-padding", "y" * 20_000)]
    async with opened(kind(address)) as client:
        for _ in range(20):
            with pytest.raises(imagecall.ConversionError, match="the metadata has") as caught:
                await called(client, "parse_calls", [LARGE] * 20, metadata=padded)
            assert (caught.value.code, caught.value.reason) == ("RESOURCE_EXHAUSTED", "TOO_LARGE")


async def test_items_that_arrive_asynchronously_are_converted(
    kind: type[AnyClient], address: str
) -> None:
    async def items() -> AsyncIterator[str]:
        for number in range(300):
            yield item(number)

    async with opened(kind(address)) as client:
        if isinstance(client, AsyncImageClient):
            results = await called(client, "parse_calls", items())
            assert [result.output_image_generation_call.id for result in results] == [
                f"ig_{number}" for number in range(300)
            ]


async def read_one_and_fail(requests: Any, context: Any) -> None:
    await context.read()
    await context.abort(grpc.StatusCode.DATA_LOSS, "lost")


async def test_the_wait_for_an_item_ends_with_the_call(kind: type[AnyClient]) -> None:
    ended: list[bool] = []

    async def items() -> AsyncIterator[str]:
        try:
            for number in range(200):
                yield item(number)
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    async with handled_by(read_one_and_fail) as address, opened(kind(address)) as client:
        if isinstance(client, AsyncImageClient):
            with pytest.raises(imagecall.GenerationError, match="lost"):
                await called(client, "parse_calls", items())
            assert ended


async def test_leaving_the_results_ends_the_call(kind: type[AnyClient], address: str) -> None:
    async with opened(kind(address, max_calls=1)) as client:
        if isinstance(client, AsyncImageClient):
            results = client.parse_calls(item(number) for number in range(1000))
            await anext(results)
            await results.aclose()
        else:
            blocking = client.parse_calls(item(number) for number in range(1000))
            await asyncio.to_thread(next, blocking)
            await asyncio.to_thread(blocking.close)
        assert len(await called(client, "parse_calls", [item(1)])) == 1
