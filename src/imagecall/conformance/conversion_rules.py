"""Rules of ConversionService, for a server that has it."""

import json
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

import grpc

from imagecall.conformance.rule import Finding, Rule
from imagecall.conformance.session import CONVERSION, Session, Skipped
from imagecall.conversion.document import KINDS
from imagecall.errors import ConversionError
from imagecall.generation.checked_answer import MAX_MESSAGE_BYTES
from imagecall.rpc.final_status import final_status
from imagecall.rpc.status import error_of
from imagecall.v1 import conversion_service_pb2 as pb
from imagecall.v1.chunk_pb2 import Chunk
from imagecall.wire.chunks import Assembly, RawChunk, split

_ITEM: Final = (
    '{"type":"image_generation_call","id":"ig_1","result":"iVBORw0KGgo=","status":"completed",'
    '"seed":1.50,"later":null}'
)
_DOCUMENT: Final = '{"model":"m","output":[{"type":"message"},' + _ITEM + "]}"
_BAD: Final = '{"type":"image_generation_call","id":7}'
_LARGE_ITEM: Final = 6_000_000


async def _unary(session: Session, name: str, request: Any, answer: type[Any]) -> Any:
    """Calls a method. Raises Skipped if the server does not have it, AioRpcError."""
    try:
        message = await session.unary(f"/{CONVERSION}/{name}", request.SerializeToString())
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            raise Skipped("the server has no ConversionService") from None
        raise
    return answer.FromString(message)


def _differs(name: str, came: str, expected: str) -> Iterable[Finding]:
    if _value(came) != _value(expected):
        yield Finding(f"{name}: {came[:200]}", expected[:200])


def _value(text: str) -> Any:
    """JSON value of a text, with the numbers as they are spelled; the text if it is not JSON."""
    try:
        return json.loads(text, parse_float=str, parse_int=str)
    except ValueError:
        return text


async def _call(session: Session) -> AsyncIterator[Finding]:
    parse = pb.ParseCallRequest(json=_ITEM)
    try:
        call = (await _unary(session, "ParseCall", parse, pb.ParseCallResponse)).call
        back = pb.FormatCallRequest(call=call)
        text = (await _unary(session, "FormatCall", back, pb.FormatCallResponse)).json
    except grpc.aio.AioRpcError as error:
        yield _failed("an item", error)
        return
    for finding in _differs("FormatCall of ParseCall", text, _ITEM):
        yield finding


async def _document(session: Session) -> AsyncIterator[Finding]:
    kind: Any = KINDS["response"]
    parse = pb.ParseDocumentRequest(json=_DOCUMENT, kind=kind)
    try:
        read = await _unary(session, "ParseDocument", parse, pb.ParseDocumentResponse)
        back = pb.FormatDocumentRequest(document=read.document)
        text = (await _unary(session, "FormatDocument", back, pb.FormatDocumentResponse)).json
    except grpc.aio.AioRpcError as error:
        yield _failed("a document", error)
        return
    if len(read.document.calls) != 1:
        yield Finding(f"ParseDocument: {len(read.document.calls)} calls", "1")
    for finding in _differs("FormatDocument of ParseDocument", text, _DOCUMENT):
        yield finding


def _failed(name: str, error: grpc.aio.AioRpcError) -> Finding:
    return Finding(f"{name}: {error.code().name}: {error.details()}", "a conversion")


async def _refusal(session: Session) -> AsyncIterator[Finding]:
    parse = pb.ParseCallRequest(json=_BAD)
    try:
        await _unary(session, "ParseCall", parse, pb.ParseCallResponse)
    except grpc.aio.AioRpcError as error:
        known = error_of(error)
        came = (known.code, known.reason, known.pointer)
    else:
        came = ("OK", "", "")
    expected = ("INVALID_ARGUMENT", "WRONG_TYPE", "/id")
    if came != expected:
        yield Finding(f"ParseCall of {_BAD}: {' '.join(came)}", " ".join(expected))


async def _many(session: Session) -> AsyncIterator[Finding]:
    items = [pb.Conversion(json=text) for text in (_ITEM, _BAD, _ITEM)]
    results = await _convert(session, [pb.ConvertCallsRequest(conversions=items)])
    if isinstance(results, Finding):
        yield results
        return
    came = [(result.index, result.WhichOneof("output")) for result in results]
    expected = [(0, "call"), (1, "error"), (2, "call")]
    if came != expected:
        yield Finding(f"ConvertCalls: {came}", str(expected))


async def _large(session: Session) -> AsyncIterator[Finding]:
    text = json.dumps({"type": "image_generation_call", "prompt": "a" * _LARGE_ITEM})
    requests = [
        pb.ConvertCallsRequest(conversions=[pb.Conversion(json_chunk=chunk)])
        for chunk in split(text.encode())
    ]
    results = await _convert(session, requests)
    if isinstance(results, Finding):
        yield results
        return
    value = Assembly(2 * _LARGE_ITEM)
    try:
        for result in results:
            value.add(RawChunk.of(result.call_chunk))
        value.check()
    except ConversionError as error:
        yield Finding(f"ConvertCalls: {error}", "the chunks of the item")


async def _damaged(session: Session) -> AsyncIterator[Finding]:
    chunk = pb.Conversion(json_chunk=Chunk(offset=5, data=b"{"))
    results = await _convert(session, [pb.ConvertCallsRequest(conversions=[chunk])])
    expected = "DATA_LOSS"
    if not isinstance(results, Finding):
        yield Finding("ConvertCalls, with a chunk at byte 5 first: OK", expected)
    elif not results.came.startswith(expected):
        yield Finding(f"ConvertCalls, with a chunk at byte 5 first: {results.came}", expected)


async def _convert(
    session: Session, requests: list[pb.ConvertCallsRequest]
) -> list[pb.ConversionResult] | Finding:
    """Results of a stream of conversions, or the finding for a stream that fails."""
    await _unary(session, "ParseCall", pb.ParseCallRequest(json=_ITEM), pb.ParseCallResponse)
    call = session.bidirectional(f"/{CONVERSION}/ConvertCalls", _sent(requests))
    results: list[pb.ConversionResult] = []
    try:
        with final_status(call):
            async for message in call:
                if len(message) > MAX_MESSAGE_BYTES:
                    return Finding(
                        f"ConvertCalls: a message of {len(message):,} bytes", "at most 4 MiB"
                    )
                results += pb.ConvertCallsResponse.FromString(message).results
    except grpc.aio.AioRpcError as error:
        return Finding(f"{error.code().name}: {error.details()}", "results")
    finally:
        call.cancel()
    return results


async def _sent(requests: list[pb.ConvertCallsRequest]) -> AsyncIterator[bytes]:
    for request in requests:
        yield request.SerializeToString()


RULES: Final = (
    Rule(
        "convert-call",
        "an item becomes a message, and the same JSON value again",
        "ConversionService",
        _call,
    ),
    Rule(
        "convert-document",
        "a document becomes a message, and the same JSON value again",
        "ConversionService",
        _document,
    ),
    Rule(
        "convert-refusal",
        "a faulty item is refused with the reason and the JSON Pointer",
        "ErrorReason",
        _refusal,
    ),
    Rule(
        "convert-many",
        "the results of a stream come in order, and a faulty item does not end the stream",
        "ConversionService.ConvertCalls",
        _many,
    ),
    Rule(
        "convert-large",
        "an item of 6 MB comes back in chunks, in messages of at most 4 MiB",
        "ConversionService.ConvertCalls",
        _large,
    ),
    Rule(
        "convert-damaged",
        "chunks out of order end a stream with DATA_LOSS",
        "ConversionService.ConvertCalls",
        _damaged,
    ),
)
