"""The service through a real server, with clients that have no special options."""

import asyncio
import json
import random
import re
import socket
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
import pytest
from google.protobuf import text_format
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

import imagecall
from imagecall.access.admission import Admission
from imagecall.access.limits import Limits
from imagecall.backends.embedded.backend import EmbeddedBackend
from imagecall.doors.grpc.server import GrpcServer
from imagecall.v1 import conversion_service_pb2 as pb
from imagecall.v1.chunk_pb2 import Chunk
from imagecall.v1.conversion_error_pb2 import ErrorReason
from imagecall.v1.conversion_service_pb2_grpc import ConversionServiceStub
from imagecall.v1.document_kind_pb2 import DOCUMENT_KIND_RESPONSE, DocumentKind
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall
from imagecall.wire.chunks import Assembly, RawChunk, split
from tests.cases import DOCUMENTS, ITEMS, REFUSED_JSON, REFUSED_MESSAGES
from tests.json_value import json_value

ITEM = '{"type":"image_generation_call","id":"ig_1","result":null,"status":"completed"}'
SERVICE = pb.DESCRIPTOR.services_by_name["ConversionService"]
METHODS = [f"/{SERVICE.full_name}/{method.name}" for method in SERVICE.methods]
MIB = 1024 * 1024


def details(error: grpc.aio.AioRpcError) -> tuple[str, str]:
    """The reason and the pointer among the details of an error."""
    for key, value in error.trailing_metadata():
        if key == "grpc-status-details-bin":
            status = Status.FromString(value)
            assert status.code == error.code().value[0]
            assert status.message == error.details()
            info, bad_request = ErrorInfo(), BadRequest()
            for detail in status.details:
                detail.Unpack(info) or detail.Unpack(bad_request)
            assert info.domain == "imagecall"
            fields = [violation.field for violation in bad_request.field_violations]
            return info.reason, "".join(fields)
    raise AssertionError("the error has no details")


def said(text: str) -> None:
    """Checks that a sentence for clients shows nothing of the inside."""
    for word in ("Traceback", "imagecall.", ".py", "Error(", "object at", "_pb2"):
        assert word not in text


async def test_every_item_goes_through_and_back(stub: Any) -> None:
    for case in (param.values[0] for param in ITEMS):
        variant = case.path.parent.name
        parsed = await stub.ParseCall(pb.ParseCallRequest(json=case.text, variant=variant))
        assert parsed.call == ImageGenerationCall.FromString(case.golden.read_bytes())
        formatted = await stub.FormatCall(pb.FormatCallRequest(call=parsed.call))
        assert json_value(formatted.json) == json_value(case.text)


async def test_every_document_goes_through_and_back(stub: Any) -> None:
    for case in (param.values[0] for param in DOCUMENTS):
        kind = DocumentKind.Value("DOCUMENT_KIND_" + case.path.parent.name.upper())
        parsed = await stub.ParseDocument(pb.ParseDocumentRequest(json=case.text, kind=kind))
        formatted = await stub.FormatDocument(pb.FormatDocumentRequest(document=parsed.document))
        assert json_value(formatted.json) == json_value(case.text)


@pytest.mark.parametrize("note", ["plain", "not ASCII: é"])
@pytest.mark.parametrize("size", [196_000, 196_608, 2_000_000])
async def test_a_large_item_goes_through_and_back(stub: Any, size: int, note: str) -> None:
    image = random.Random(size).randbytes(size)
    item = {"type": "image_generation_call", "result": b64encode(image).decode(), "note": note}
    text = json.dumps(item, ensure_ascii=False)
    parsed = await stub.ParseCall(pb.ParseCallRequest(json=text))
    assert parsed.call == imagecall.from_json(text)
    assert parsed.call.output_image_generation_call.result.image == image
    formatted = await stub.FormatCall(pb.FormatCallRequest(call=parsed.call))
    assert formatted.json.encode() == imagecall.to_json(parsed.call)
    text = json.dumps({"id": "resp_1", "output": [item], "note": note}, ensure_ascii=False)
    request = pb.ParseDocumentRequest(json=text, kind=DOCUMENT_KIND_RESPONSE)
    document = (await stub.ParseDocument(request)).document
    assert document == imagecall.document_from_json(text, kind="response")
    formatted = await stub.FormatDocument(pb.FormatDocumentRequest(document=document))
    assert formatted.json.encode() == imagecall.document_to_json(document)


@pytest.mark.parametrize("size", [300_000, 1_500_000])
async def test_what_is_wrong_with_a_large_item_is_told(
    stub: Any, channel: grpc.aio.Channel, size: int
) -> None:
    large = ITEM[:-1] + ',"x":"' + "y" * size + '"'
    for end, reason, pointer in (
        (",}", "NOT_JSON", ""),
        (',"result":1}', "DUPLICATE_KEY", "/result"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ParseCall(pb.ParseCallRequest(json=large + end))
        assert details(caught.value) == (reason, pointer)
    wire = pb.ParseCallRequest(json=large + "}").SerializeToString()
    method: Any = channel.unary_unary(f"/{SERVICE.full_name}/ParseCall")
    for damaged in (wire.replace(b"yyy", b"y\xffy", 1), wire[:-1], wire + b"\x0a"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await method(damaged)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert details(caught.value) == ("MALFORMED_PROTOBUF", "")


async def test_what_protobuf_merges_in_a_large_request_is_merged(
    stub: Any, channel: grpc.aio.Channel
) -> None:
    images = [random.Random(seed).randbytes(300_000) for seed in range(2)]
    calls = [ImageGenerationCall() for _ in range(3)]
    for call, image in zip(calls, images, strict=False):
        call.output_image_generation_call.result.image = image
    calls[2].output_image_generation_call.result.text = "later"
    wires = [pb.FormatCallRequest(call=call).SerializeToString() for call in calls]
    method: Any = channel.unary_unary(f"/{SERVICE.full_name}/FormatCall")
    for first in wires:
        for second in wires:
            merged = pb.FormatCallRequest.FromString(first + second).call
            answer = pb.FormatCallResponse.FromString(await method(first + second))
            assert answer.json.encode() == imagecall.to_json(merged)


async def test_bad_json_is_an_invalid_argument_with_its_reason_and_place(stub: Any) -> None:
    for case in (param.values[0] for param in REFUSED_JSON):
        if case.options.get("event") or case.options.get("document") == "reply":
            continue
        try:
            text = case.path.read_bytes().decode()
        except UnicodeDecodeError:
            continue  # Not a string of protobuf: see the tests with chunks and malformed bytes.
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            if document := case.options.get("document"):
                kind = DocumentKind.Value(f"DOCUMENT_KIND_{document.upper()}")
                await stub.ParseDocument(pb.ParseDocumentRequest(json=text, kind=kind))
            else:
                profile = "PROFILE_" + case.options.get("profile", "UNSPECIFIED")
                variant = case.options.get("variant", "")
                request = pb.ParseCallRequest(
                    json=text, variant=variant, profile=pb.Profile.Value(profile)
                )
                await stub.ParseCall(request)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert details(caught.value) == (case.reason, case.pointer), case.path
        said(caught.value.details() or "")


async def test_bad_messages_are_invalid_arguments_with_their_reason_and_place(stub: Any) -> None:
    for case in (param.values[0] for param in REFUSED_MESSAGES):
        text = case.path.read_text()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            if case.options.get("document"):
                document = text_format.Parse(text, imagecall.Document())
                await stub.FormatDocument(pb.FormatDocumentRequest(document=document))
            else:
                call = text_format.Parse(text, ImageGenerationCall())
                await stub.FormatCall(pb.FormatCallRequest(call=call))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert details(caught.value) == (case.reason, case.pointer), case.path


@pytest.mark.parametrize(
    ("method", "fields", "reason"),
    [
        ("ParseCall", {"json": ITEM, "profile": 9}, "UNKNOWN_PROFILE"),
        ("ParseCall", {"json": ITEM, "variant": "x"}, "UNKNOWN_VARIANT"),
        ("ParseCall", {}, "NOT_JSON"),
        ("ParseDocument", {"json": "{}"}, "UNKNOWN_KIND"),
        ("ParseDocument", {"json": "{}", "kind": 9}, "UNKNOWN_KIND"),
        ("FormatCall", {}, "EMPTY_ONEOF"),
        ("FormatDocument", {}, "UNKNOWN_KIND"),
    ],
)
async def test_a_wrong_request_is_an_invalid_argument(
    stub: Any, method: str, fields: dict[str, Any], reason: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await getattr(stub, method)(getattr(pb, method + "Request")(**fields))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details(caught.value)[0] == reason


@pytest.mark.parametrize(
    "path",
    [
        *(
            f"/imagecall.v1.ConversionService/{m.name}"
            for m in pb.DESCRIPTOR.services_by_name["ConversionService"].methods
        ),
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ],
)
@pytest.mark.parametrize("data", [b"\x0a\xff", b"\xff" * 20, b"\x0a\x02\xff\xfe"])
async def test_malformed_protobuf_is_an_invalid_argument(
    channel: grpc.aio.Channel, path: str, data: bytes
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        method: Any = channel.unary_stream(path)
        async for _ in method(data):
            pass
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details(caught.value) == ("MALFORMED_PROTOBUF", "")
    said(caught.value.details() or "")


# The one fault that is put in by hand: no request is known that causes one.
async def test_an_unforeseen_error_shows_nothing_of_the_inside(
    stub: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: Any, json: str, *__: Any, **___: Any) -> None:
        raise RuntimeError(json)

    monkeypatch.setattr("imagecall.doors.grpc.services.parse_call", fail)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ParseCall(pb.ParseCallRequest(json=ITEM))
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    said(caught.value.details() or "")
    assert "ig_1" not in (caught.value.details() or "") + caplog.text
    assert "RuntimeError" in caplog.text
    monkeypatch.undo()
    assert (await stub.ParseCall(pb.ParseCallRequest(json=ITEM))).call


async def test_a_text_past_the_limit_is_refused() -> None:
    server = GrpcServer("127.0.0.1:0", EmbeddedBackend(), Admission(Limits(json_bytes=1000)))
    async with grpc.aio.insecure_channel(await server.start()) as channel:
        stub: Any = ConversionServiceStub(channel)
        text = ITEM[:-1] + ',"x":"' + "y" * (1000 - len(ITEM) - 7) + '"}'
        assert len(text) == 1000
        assert (await stub.ParseCall(pb.ParseCallRequest(json=text))).call
        for large in (text + " ", text + " " * 50_000):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.ParseCall(pb.ParseCallRequest(json=large))
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert details(caught.value) == ("TOO_LARGE", "")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ParseCall(pb.ParseCallRequest(json=text + " " * 5_000_000))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        results = await convert(stub, [pb.Conversion(json=text)] * 100)
        assert all(result.HasField("call") for result in results)
    await server.stop(0)


async def convert(stub: Any, *batches: Iterable[pb.Conversion]) -> list[pb.ConversionResult]:
    """The results of a stream of batches."""

    async def requests() -> AsyncIterator[pb.ConvertCallsRequest]:
        for batch in batches:
            yield pb.ConvertCallsRequest(conversions=batch)

    return [result async for answer in stub.ConvertCalls(requests()) for result in answer.results]


async def test_many_items_are_answered_in_their_turn(stub: Any) -> None:
    call = imagecall.from_json(ITEM)
    batch = [
        pb.Conversion(json=ITEM),
        pb.Conversion(call=call),
        pb.Conversion(json='{"type":"image_generation_call","id":5}'),
        pb.Conversion(json=ITEM, variant="input_image_generation_call2", profile=pb.PROFILE_STRICT),
        pb.Conversion(json='{"type":"image_generation_call"}', profile=pb.PROFILE_STRICT),
        pb.Conversion(),
        pb.Conversion(json=ITEM, variant="x"),
        pb.Conversion(json=ITEM, profile=9),  # type: ignore[arg-type]  # of a newer schema
        pb.Conversion(call=ImageGenerationCall()),
    ]
    results = await convert(stub, batch, [], batch)
    assert [result.index for result in results] == list(range(2 * len(batch)))
    assert results[0].call == call
    assert json.loads(results[1].json) == json.loads(ITEM)
    assert results[3].call.input_image_generation_call2.id == "ig_1"
    errors = [
        (ErrorReason.Name(r.error.reason).removeprefix("ERROR_REASON_"), r.error.pointer)
        for r in results[: len(batch)]
        if r.HasField("error")
    ]
    assert errors == [
        ("WRONG_TYPE", "/id"),
        ("MISSING_KEY", "/id"),
        ("EMPTY_ONEOF", ""),
        ("UNKNOWN_VARIANT", ""),
        ("UNKNOWN_PROFILE", ""),
        ("EMPTY_ONEOF", ""),
    ]
    assert {r.error.code for r in results if r.HasField("error")} == {3}


async def test_ten_thousand_small_items_go_through_in_batches(stub: Any) -> None:
    texts = [ITEM.replace("ig_1", f"ig_{n}") for n in range(10_000)]
    batches = [[pb.Conversion(json=t) for t in texts[i : i + 512]] for i in range(0, 10_000, 512)]
    results = await convert(stub, *batches)
    back = [
        [pb.Conversion(call=r.call) for r in results[i : i + 512]] for i in range(0, 10_000, 512)
    ]
    assert [json.loads(r.json) for r in await convert(stub, *back)] == [
        json.loads(t) for t in texts
    ]


@pytest.mark.parametrize("size", [2 * MIB, 3 * MIB, 4 * MIB, 20 * MIB])
async def test_an_item_of_any_size_goes_through_with_a_client_of_4_mib(
    stub: Any, size: int
) -> None:
    image = random.Random(size).randbytes(size)
    value = json.loads(ITEM) | {"result": b64encode(image).decode()}
    text = json.dumps(value).encode()
    small = pb.Conversion(json=ITEM)
    pieces = [pb.Conversion(json_chunk=chunk) for chunk in split(text)]
    results = await convert(stub, [small], *([piece] for piece in pieces), [small])
    assert {r.index for r in results} == {0, 1, 2}
    call = ImageGenerationCall.FromString(whole(results, "call"))
    assert call.output_image_generation_call.result.image == image
    pieces = [pb.Conversion(call_chunk=chunk) for chunk in split(call.SerializeToString())]
    results = await convert(stub, pieces, [small])
    assert {r.index for r in results} == {0, 1}
    assert json.loads(whole(results, "json")) == value


def whole(results: list[pb.ConversionResult], kind: str) -> bytes:
    """The one large answer among results: whole, or in chunks."""
    assembly = Assembly(10**9)
    for result in results:
        match result.WhichOneof("output"):
            case "json_chunk" | "call_chunk" | "document_chunk":
                assert result.WhichOneof("output") == kind + "_chunk"
                assembly.add(RawChunk.of(getattr(result, kind + "_chunk")))
            case "call" if kind == "call" and result.call.ByteSize() > MIB:
                return result.call.SerializeToString()
            case "json" if len(result.json) > MIB:
                return result.json.encode()
    return assembly.whole()


@pytest.mark.parametrize("size", [1000, 2 * MIB])
async def test_a_document_of_any_size_goes_through_with_a_client_of_4_mib(
    stub: Any, size: int
) -> None:
    image = b64encode(random.Random(size).randbytes(size)).decode()
    item = json.loads(ITEM) | {"result": image}
    value = {"model": "m", "output": [item, {"type": "message"}, item]}
    text = json.dumps(value).encode()
    kind = DOCUMENT_KIND_RESPONSE
    pieces = [pb.Conversion(json_chunk=chunk, document_kind=kind) for chunk in split(text)]
    results = await convert(stub, pieces, [pb.Conversion(json="{}", document_kind=kind)])
    document = imagecall.document_from_json(text, kind="response")
    assert results[-1].document.json == "{}"
    if size < MIB:
        assert results[0].document == document
    else:
        assert imagecall.Document.FromString(whole(results[:-1], "document")) == document
    data = document.SerializeToString()
    pieces = [pb.Conversion(document_chunk=chunk) for chunk in split(data)]
    results = await convert(stub, pieces, [pb.Conversion(document=document)] if size < MIB else [])
    if size < MIB:
        assert [json.loads(result.json) for result in results] == [value, value]
    else:
        assert json.loads(whole(results, "json")) == value


async def test_bad_bytes_in_chunks_are_answered_in_their_place(stub: Any) -> None:
    small = pb.Conversion(json=ITEM)
    wrong_digest = list(split(ITEM.encode()))
    wrong_digest[0].end.sha256 = bytes(32)
    results = await convert(
        stub,
        [pb.Conversion(json_chunk=chunk) for chunk in split(b"\xef\xbb\xbf{}")],
        [pb.Conversion(json_chunk=chunk) for chunk in split(b'{"type":"\xff"}')],
        [pb.Conversion(call_chunk=chunk) for chunk in split(b"\xff\xff")],
        [pb.Conversion(json_chunk=chunk) for chunk in wrong_digest],
        [pb.Conversion(json_chunk=chunk) for chunk in split(b"")],
        [small],
    )
    reasons = [ErrorReason.Name(r.error.reason) for r in results[:-1]]
    assert reasons == [
        "ERROR_REASON_BYTE_ORDER_MARK",
        "ERROR_REASON_NOT_UTF8",
        "ERROR_REASON_MALFORMED_PROTOBUF",
        "ERROR_REASON_CHUNKS_DAMAGED",
        "ERROR_REASON_NOT_JSON",
    ]
    assert results[3].error.code == grpc.StatusCode.DATA_LOSS.value[0]
    assert results[-1].index == 5
    assert results[-1].HasField("call")


async def test_chunks_out_of_order_end_the_stream_with_data_loss(stub: Any) -> None:
    chunks = [pb.Conversion(json_chunk=c) for c in split(b" " * 3 * MIB + ITEM.encode())]
    small = pb.Conversion(json=ITEM)
    other = pb.Conversion(call_chunk=Chunk(offset=MIB, data=b"x"))
    for damaged in (
        [chunks[1]],
        [chunks[0], chunks[2]],
        [chunks[0], chunks[0]],
        [chunks[0], small],
        [chunks[0], other],
        chunks[:-1],
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await convert(stub, *([conversion] for conversion in damaged))
        assert caught.value.code() is grpc.StatusCode.DATA_LOSS
        assert details(caught.value) == ("CHUNKS_DAMAGED", "")


async def test_a_client_that_is_sending_when_its_stream_is_refused_sees_the_status(
    stub: Any,
) -> None:
    chunks = [[pb.Conversion(json_chunk=Chunk(offset=5, data=b"x"))]] * 5

    async def refused() -> grpc.aio.AioRpcError:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await convert(stub, *chunks)
        return caught.value

    for _ in range(20):
        for error in await asyncio.gather(*(refused() for _ in range(16))):
            assert error.code() is grpc.StatusCode.DATA_LOSS


async def test_answers_before_damaged_chunks_are_not_lost(stub: Any) -> None:
    small = pb.Conversion(json=ITEM)
    damaged = pb.Conversion(json_chunk=Chunk(offset=5, data=b"x"))
    answers = stub.ConvertCalls(iter([pb.ConvertCallsRequest(conversions=[small, small, damaged])]))
    assert len((await answers.read()).results) == 2
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await answers.read()
    assert caught.value.code() is grpc.StatusCode.DATA_LOSS


async def test_very_many_tiny_items_in_a_message_are_answered_in_messages_of_4_mib(
    stub: Any,
) -> None:
    call = ImageGenerationCall()
    call.unknown_item.json = '{"type":""}'
    results = await convert(stub, [pb.Conversion(call=call)] * 100_000)
    assert len(results) == 100_000


@pytest.mark.timing
async def test_others_do_not_wait_while_very_many_tiny_items_are_answered(
    channel: grpc.aio.Channel, stub: Any
) -> None:
    health: Any = health_pb2_grpc.HealthStub(channel)
    start = time.monotonic()
    converting = asyncio.create_task(convert(stub, [pb.Conversion(json="")] * 60_000))
    waits = []
    while not converting.done():
        asked = time.monotonic()
        await health.Check(health_pb2.HealthCheckRequest())
        waits.append(time.monotonic() - asked)
        await asyncio.sleep(0)
    assert len(await converting) == 60_000
    assert max(waits) < (time.monotonic() - start) / 2


async def test_health_is_serving_and_both_reflections_list_the_service(
    channel: grpc.aio.Channel,
) -> None:
    health: Any = health_pb2_grpc.HealthStub(channel)
    for name in ("", "imagecall.v1.ConversionService"):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health.Check(health_pb2.HealthCheckRequest(service="x"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        method: Any = channel.unary_unary("/grpc.health.v1.Health/List")
        await method(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    watch = health.Watch(health_pb2.HealthCheckRequest(service=""))
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()
    for version in ("v1", "v1alpha"):
        path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
        method = channel.stream_stream(
            path,
            reflection_pb2.ServerReflectionRequest.SerializeToString,
            reflection_pb2.ServerReflectionResponse.FromString,
        )
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        answers = [answer async for answer in method(iter([request]))]
        names = [service.name for service in answers[0].list_services_response.service]
        assert "imagecall.v1.ConversionService" in names


async def test_health_is_not_serving_once_the_server_stops(channel: grpc.aio.Channel) -> None:
    server = GrpcServer("127.0.0.1:0", EmbeddedBackend(), Admission(Limits(json_bytes=1000)))
    async with grpc.aio.insecure_channel(await server.start()) as own:
        health: Any = health_pb2_grpc.HealthStub(own)
        watch = health.Watch(health_pb2.HealthCheckRequest(service=""))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        stopping = asyncio.create_task(server.stop(1))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        await stopping


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "[::]"])
async def test_a_port_is_taken_until_its_server_stops(host: str) -> None:
    server = GrpcServer(f"{host}:0", EmbeddedBackend())
    address = await server.start()
    with pytest.raises(OSError, match=re.escape(f"cannot listen on {address}: it is in use")):
        await GrpcServer(address, EmbeddedBackend()).start()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", int(address.rpartition(":")[2])))
    await server.stop(0)
    again = GrpcServer(address, EmbeddedBackend())
    assert await again.start() == address
    await again.stop(0)


async def test_servers_that_share_a_port_all_listen_on_it() -> None:
    first = GrpcServer("127.0.0.1:0", EmbeddedBackend(), share_port=True)
    address = await first.start()
    second = GrpcServer(address, EmbeddedBackend(), share_port=True)
    assert await second.start() == address
    await first.stop(0)
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = ConversionServiceStub(channel)
        assert (await stub.ParseCall(pb.ParseCallRequest(json=ITEM))).call
    await second.stop(0)


@pytest.mark.parametrize("address", ["192.0.2.1:1234", "nowhere.invalid:0", "[::ffff:zz]:0", "x"])
async def test_an_address_of_others_is_an_error_with_a_sentence(address: str) -> None:
    with pytest.raises(OSError, match=r"cannot listen on .*: it is in use, or not a HOST:PORT"):
        await GrpcServer(address, EmbeddedBackend()).start()


async def test_hundreds_of_calls_at_once_on_one_connection_are_all_answered(stub: Any) -> None:
    """A server that limits streams loses some of them, unless calls that end leave room."""
    for _ in range(3):
        calls = (stub.ParseCall(pb.ParseCallRequest(json=ITEM)) for _ in range(1000))
        assert all(answer.call for answer in await asyncio.gather(*calls))


async def test_an_unknown_method_is_unimplemented(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        method: Any = channel.unary_unary("/imagecall.v1.ConversionService/Nothing")
        await method(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_client_that_leaves_is_no_error_in_the_log(
    stub: Any, caplog: pytest.LogCaptureFixture
) -> None:
    batch = [pb.Conversion(json=json.dumps({"type": "x", "text": "y" * 1400}))] * 200

    async def requests() -> AsyncIterator[pb.ConvertCallsRequest]:
        for _ in range(100):
            yield pb.ConvertCallsRequest(conversions=batch)

    for number in range(5):
        stream = stub.ConvertCalls(requests(), timeout=60)
        await stream.read()
        await asyncio.sleep(0.3)  # Until the server waits for us to read on.
        stream.cancel()
        unary = stub.ParseCall(pb.ParseCallRequest(json=" " * 2_000_000 + ITEM))
        await asyncio.sleep(0.001 * number)
        unary.cancel()
    await asyncio.sleep(0.5)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
    assert (await stub.ParseCall(pb.ParseCallRequest(json=ITEM))).call


async def test_a_client_that_leaves_before_its_answer_is_no_error_in_the_log(
    channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture
) -> None:
    health: Any = health_pb2_grpc.HealthStub(channel)
    for number in range(200):
        call = health.Check(health_pb2.HealthCheckRequest(service="none"))
        for _ in range(number % 20):
            await asyncio.sleep(0)
        call.cancel()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health.Check(health_pb2.HealthCheckRequest(service="none"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_who_watches_the_health_hears_of_the_stop_and_does_not_hold_it() -> None:
    server = GrpcServer("127.0.0.1:0", EmbeddedBackend())
    async with grpc.aio.insecure_channel(await server.start()) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        await server.drain()
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        await asyncio.wait_for(server.stop(60), 30)
        with pytest.raises(grpc.RpcError) as caught:
            await watch.read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("told", [True, False])
async def test_reflection_and_channelz_are_there_if_they_are_asked_for(told: bool) -> None:
    server = GrpcServer("127.0.0.1:0", EmbeddedBackend(), reflection=told, channelz=told)
    async with grpc.aio.insecure_channel(await server.start()) as channel:
        outcomes = []
        for method in (
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        ):
            list_services: Any = channel.unary_stream(method)
            outcomes.append(await _code(list_services(b"\x3a\x00").read()))
        get_servers: Any = channel.unary_unary("/grpc.channelz.v1.Channelz/GetServers")
        outcomes.append(await _code(get_servers(b"")))
    await server.stop(0)
    assert set(outcomes) == {"OK" if told else "UNIMPLEMENTED"}


async def _code(work: Any) -> str:
    try:
        await work
    except grpc.RpcError as error:
        name: str = error.code().name
        return name
    return "OK"


async def test_past_the_limit_of_connections_one_is_closed() -> None:
    server = GrpcServer("127.0.0.1:0", EmbeddedBackend(), Admission(Limits(connections=3)))
    host, _, port = (await server.start()).rpartition(":")
    opened = [await asyncio.open_connection(host, int(port)) for _ in range(6)]
    greetings = await asyncio.gather(*(_greeting(reader) for reader, _ in opened))
    assert sum(map(bool, greetings)) == 3
    for _, writer in opened:
        writer.close()
    await server.stop(0)


async def _greeting(reader: asyncio.StreamReader) -> bytes:
    """Returns the first bytes of the server on a connection; none if the server closes it."""
    try:
        return await reader.read(9)
    except ConnectionError:
        return b""
