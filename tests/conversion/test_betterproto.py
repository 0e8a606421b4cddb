"""The betterproto stubs: the same bytes, and a grpclib client that talks to the server."""

import inspect
import json
from collections.abc import AsyncIterator
from typing import Any

import betterproto
import pytest
from google.protobuf.descriptor import FileDescriptor
from grpclib.client import Channel
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from imagecall.v1 import betterproto as stubs
from imagecall.v1 import conversion_service_pb2, image_generation_tool_pb2, stream_event_pb2
from tests.cases import CASES, Case

ITEM = '{"type":"image_generation_call","id":"ig_1","result":"aGk=","status":"completed"}'


@pytest.fixture
async def client(address: str) -> AsyncIterator[stubs.ConversionServiceStub]:
    host, _, port = address.rpartition(":")
    async with Channel(host, int(port)) as channel:
        yield stubs.ConversionServiceStub(channel)


def files(file: FileDescriptor) -> dict[str, FileDescriptor]:
    found = {file.name: file} if file.package == "imagecall.v1" else {}
    for dependency in file.dependencies:
        found |= files(dependency)
    return found


def test_every_message_and_service_has_a_stub() -> None:
    roots = (conversion_service_pb2, image_generation_tool_pb2, stream_event_pb2)
    found: dict[str, FileDescriptor] = {}
    for root in roots:
        found |= files(root.DESCRIPTOR)
    for file in found.values():
        for message in file.message_types_by_name.values():
            stub = getattr(stubs, message.name)
            assert {f.name for f in message.fields} == set(stub.__dataclass_fields__)
        for service in file.services_by_name.values():
            stub = getattr(stubs, service.name + "Stub")
            methods = [name for name, _ in inspect.getmembers(stub, inspect.isfunction)]
            for method in service.methods:
                assert betterproto.casing.snake_case(method.name) in methods


@pytest.mark.parametrize("case", CASES)
def test_a_message_passes_through_betterproto_unchanged(case: Case) -> None:
    stub = getattr(stubs, case.message_class.DESCRIPTOR.name)
    passed = bytes(stub().parse(case.golden.read_bytes()))
    assert case.message_class.FromString(passed) == case.read(case.text)


async def test_a_betterproto_client_converts_items_and_documents(
    client: stubs.ConversionServiceStub,
) -> None:
    parsed = await client.parse_call(stubs.ParseCallRequest(json=ITEM))
    call: Any
    name, call = betterproto.which_one_of(parsed.call, "variant")
    assert (name, call.id, call.result.image) == ("output_image_generation_call", "ig_1", b"hi")
    formatted = await client.format_call(stubs.FormatCallRequest(call=parsed.call))
    assert json.loads(formatted.json) == json.loads(ITEM)
    text = f'{{"output":[{ITEM}]}}'
    kind = stubs.DocumentKind(stubs.DocumentKind.RESPONSE)
    request = stubs.ParseDocumentRequest(json=text, kind=kind)
    document = (await client.parse_document(request)).document
    assert document.calls[0].pointer == "/output/0"
    back = await client.format_document(stubs.FormatDocumentRequest(document=document))
    assert json.loads(back.json) == json.loads(text)


async def test_a_betterproto_client_streams_both_ways(client: stubs.ConversionServiceStub) -> None:
    async def requests() -> AsyncIterator[stubs.ConvertCallsRequest]:
        for _ in range(3):
            yield stubs.ConvertCallsRequest(
                conversions=[stubs.Conversion(json=ITEM), stubs.Conversion(json="[]")]
            )

    results: list[Any] = []
    async for answer in client.convert_calls(requests()):
        results += answer.results
    assert [result.index for result in results] == list(range(6))
    assert [betterproto.which_one_of(r, "output")[0] for r in results] == ["call", "error"] * 3
    assert results[1].error.reason == stubs.ErrorReason.WRONG_TYPE


async def test_a_betterproto_client_gets_the_status_of_a_refusal(
    client: stubs.ConversionServiceStub,
) -> None:
    with pytest.raises(GRPCError) as caught:
        await client.parse_call(stubs.ParseCallRequest(json=ITEM.replace('"ig_1"', "5")))
    assert caught.value.status is Status.INVALID_ARGUMENT
    assert caught.value.message == '"id" must be a string, not a number'
