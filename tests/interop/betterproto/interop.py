"""Holds the betterproto stubs to the cases and to a live server; see ../README.md."""

import asyncio
import json
import sys
import time
from base64 import b64encode
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import betterproto
from betterproto.lib.google.protobuf import NullValue
from client import connect, convert_lines, stream_image
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from grpclib.client import Channel
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from grpclib.health.v1.health_grpc import HealthStub
from grpclib.health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from imagecall.v1 import betterproto as imagecall

ITEMS, BAD = 10_000, 5_000
BIG_IMAGE = 20_000_000


async def main(address: str, cases: Path, out: Path, damaged: str) -> None:
    """Runs the checks on the files in the directory `cases`."""
    async with connect(address) as channel:
        conversion = imagecall.ConversionServiceStub(channel)
        generation = imagecall.ImageGenerationServiceStub(channel)
        for name in case_names(cases):
            await report(name, check_case(conversion, cases / name, out / name))
        await report("ConvertCalls", convert_calls(conversion))
        await report("StreamImage", big_image(generation))
        await report("error details", error_details(conversion))
        await report("deadline", deadline(generation))
        await report("cancellation", cancellation(generation, channel))
        await report("cancellation when damaged", cancellation_when_damaged(damaged))
        await report("many calls", many_calls(address))
        await report("health", healthy(channel))


async def report(name: str, check: Awaitable[None]) -> None:
    try:
        await check
        outcome = "ok"
    except Exception as error:  # Any failure is the outcome of its check; other checks follow.
        outcome = " ".join(f"{type(error).__name__}: {error}".split())
    print(name, outcome, sep="\t", flush=True)


async def check_case(client: imagecall.ConversionServiceStub, case: Path, out: Path) -> None:
    expected = json.loads(case.with_suffix(".expected.json").read_text())
    kind = getattr(imagecall, expected["message"].removeprefix("imagecall.v1."))
    message = kind().parse(case.with_suffix(".binpb").read_bytes())
    assert fields(message) == expected["fields"], fields(message)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".binpb").write_bytes(bytes(message))
    if case.parent.parent.name == "items":
        text = case.with_suffix(".json").read_bytes().decode()
        request = imagecall.ParseCallRequest(json=text, variant=case.parent.name)
        parsed = (await client.parse_call(request)).call
        out.with_suffix(".parsed.binpb").write_bytes(bytes(parsed))
        formatted = await client.format_call(imagecall.FormatCallRequest(call=message))
        out.with_suffix(".json").write_bytes(formatted.json.encode())


def fields(message: betterproto.Message) -> dict[str, Any]:
    """The fields as ProtoJSON. betterproto's own to_dict has other names of enum values."""
    names = message._betterproto.sorted_field_names
    return {
        betterproto.Casing.CAMEL(name): proto_json(getattr(message, name))
        for name in names
        if is_set(message, name)
    }


def is_set(message: betterproto.Message, name: str) -> bool:
    meta = message._betterproto.meta_by_field_name[name]
    if meta.group:
        return betterproto.which_one_of(message, meta.group)[0] == name
    value = getattr(message, name)
    if isinstance(value, betterproto.Message):
        return betterproto.serialized_on_wire(value)
    return value is not None if meta.optional else bool(value)


def proto_json(value: Any) -> Any:
    match value:
        case betterproto.Message():
            return fields(value)
        case list():
            return [proto_json(element) for element in value]
        case bytes():
            return b64encode(value).decode()
        case NullValue():
            return None
        case betterproto.Enum() if value.name:
            prefix = betterproto.casing.snake_case(type(value).__name__).upper()
            return f"{prefix}_{value.name}"
        case _:
            return value


async def convert_calls(client: imagecall.ConversionServiceStub) -> None:
    answered = 0
    output: Any
    async for result in convert_lines(client, (item(number).encode() for number in range(ITEMS))):
        kind, output = betterproto.which_one_of(result, "output")
        if answered == BAD:
            assert kind == "error", output
            assert output.reason == imagecall.ErrorReason.WRONG_TYPE
            assert output.pointer == "/id"
        else:
            assert kind == "call", output
            call: Any
            _, call = betterproto.which_one_of(output, "variant")
            assert (call.id, call.result.image) == (f"ig_{answered}", b"hi")
        assert result.index == answered
        answered += 1
    assert answered == ITEMS, answered


def item(number: int) -> str:
    if number == BAD:
        return '{"type":"image_generation_call","id":5}'
    return f'{{"type":"image_generation_call","id":"ig_{number}","result":"aGk="}}'


def embedded(**order: float) -> imagecall.ImageRequest:
    """A request with an order for the embedded backend."""
    extra = imagecall.ExtraField(name="embedded", json=json.dumps(order))
    return imagecall.ImageRequest(prompt="a red fox in the snow", extra_fields=[extra])


async def big_image(client: imagecall.ImageGenerationServiceStub) -> None:
    image = await stream_image(client, embedded(image_bytes=BIG_IMAGE))
    assert len(image) == BIG_IMAGE, len(image)


async def error_details(client: imagecall.ConversionServiceStub) -> None:
    try:
        await client.parse_call(imagecall.ParseCallRequest(json=item(BAD)))
    except GRPCError as error:
        # grpclib has the details where googleapis-common-protos is installed.
        found = {type(detail): detail for detail in error.details}
        assert error.status is Status.INVALID_ARGUMENT, error
        assert found[BadRequest].field_violations[0].field == "/id"
        assert (found[ErrorInfo].domain, found[ErrorInfo].reason) == ("imagecall", "WRONG_TYPE")
    else:
        raise AssertionError("it was accepted")


async def deadline(client: imagecall.ImageGenerationServiceStub) -> None:
    request = imagecall.GenerateImageRequest(request=embedded(delay_seconds=60))
    begun = time.monotonic()
    try:
        await client.generate_image(request, timeout=0.5)
    except (TimeoutError, GRPCError) as error:
        # grpclib raises TimeoutError where its own clock was first.
        status = getattr(error, "status", Status.DEADLINE_EXCEEDED)
        assert status is Status.DEADLINE_EXCEEDED, error
        assert time.monotonic() - begun < 2
    else:
        raise AssertionError("there was an answer")


async def cancellation(client: imagecall.ImageGenerationServiceStub, channel: Channel) -> None:
    request = imagecall.StreamImageRequest(request=embedded(image_bytes=BIG_IMAGE))
    begun = asyncio.Event()

    async def read() -> None:
        async for response in client.stream_image(request):
            if betterproto.which_one_of(response, "part")[0] == "chunk":
                begun.set()
                await asyncio.sleep(0)

    reading = asyncio.create_task(read())
    await asyncio.wait_for(begun.wait(), 60)
    reading.cancel()
    try:
        await reading
    except asyncio.CancelledError:
        await healthy(channel)
    else:
        raise AssertionError("it was not cancelled")


async def cancellation_when_damaged(address: str) -> None:
    """Calls a server that answers for its health once the stream is cancelled."""
    async with connect(address) as channel:
        try:
            await stream_image(imagecall.ImageGenerationServiceStub(channel), embedded())
        except ValueError as error:
            assert str(error) == "a chunk is lost", error
            await healthy(channel)
        else:
            raise AssertionError("it was accepted")


async def many_calls(address: str) -> None:
    """Generates images at once over a new connection."""
    async with connect(address) as channel:
        client = imagecall.ImageGenerationServiceStub(channel)
        request = imagecall.GenerateImageRequest(request=embedded(delay_seconds=0.1))
        await asyncio.gather(*(client.generate_image(request, timeout=60) for _ in range(1_000)))


async def healthy(channel: Channel) -> None:
    request = HealthCheckRequest(service="imagecall.v1.ImageGenerationService")
    answer = await HealthStub(channel).Check(request, timeout=10)
    assert answer.status == HealthCheckResponse.SERVING


def case_names(cases: Path) -> list[str]:
    paths = cases.rglob("*.binpb")
    return sorted(str(path.relative_to(cases))[: -len(".binpb")] for path in paths)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]))
