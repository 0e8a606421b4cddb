"""The table of sizes: each path takes what is one below, at and one above each entry of it.

Values are compared as plain `json` reads them. Each image has other bytes, so that one that stands
in the place of another is found.
"""

import ast
import json
import random
from base64 import b64encode
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import aiohttp
import grpc
import pytest

import imagecall
from imagecall import sizes
from imagecall.backends.responses_api.backend import HttpBackend
from imagecall.commands.main import main
from imagecall.v1 import conversion_service_pb2 as pb
from imagecall.v1 import conversion_service_pb2_grpc as pb_grpc
from imagecall.v1.document_kind_pb2 import DocumentKind
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall
from imagecall.wire.chunks import split
from tests.doors.test_generation import serving
from tests.doors.test_http import door_before
from tests.streams import framed, happy, response
from tests.upstream import JSON, upstream

SOURCE: Final = Path(imagecall.__file__).parent
LARGEST_OF_MANY: Final = 70_000
"""Up to this size every combination runs; past it the orders take turns."""


def edges_of(*table: int) -> list[int]:
    return sorted(
        {
            edge
            for size in table
            for at in (size, size // 4 * 3)  # Of the image, and of its base64.
            for edge in (at - 1, at, at + 1)
        }
    )


OF_ITEMS: Final = edges_of(sizes.TWICE)
"""Of paths that only serialized items have."""

EDGES: Final = edges_of(*(size for name, size in sizes.TABLE.items() if name != "TWICE"))
FEW: Final = [edge for edge in EDGES if edge <= LARGEST_OF_MANY]
LARGE: Final = [edge for edge in EDGES if edge > LARGEST_OF_MANY]
RESPONSE: Final = {"id": "resp_1", "object": "response", "model": "m", "status": "completed"}
_BYTES: Final = random.Random(5).randbytes(max(EDGES + OF_ITEMS) + 5000)


@cache
def image(number: int, size: int) -> str:
    return b64encode(_BYTES[number : number + size]).decode()


def item(number: int, size: int) -> dict[str, Any]:
    result = image(number, size)
    name = f"ig_{number}"
    return {"type": "image_generation_call", "id": name, "result": result, "status": "completed"}


def responses(size: int, count: int) -> Iterator[dict[str, Any]]:
    """Responses with so many images, in both orders of the positions.

    Half of many large images are of a size that is barely large.
    """
    other = min(size, LARGEST_OF_MANY)
    items = [item(number, other if number % 2 else size) for number in range(count)]
    for keys in (("output", "instructions"), ("instructions", "output")):
        yield RESPONSE | {keys[0]: items[::2], keys[1]: items[1::2]}


def documents(size: int, count: int) -> Iterator[tuple[Any, Any]]:
    """Kinds and documents."""
    for found in responses(size, count):
        yield "response", found
        yield "event", {"response": found, "type": "response.completed"}
        yield "event", {"item": item(9, min(size, LARGEST_OF_MANY)), "response": found}
    yield "request", {"input": [item(number, size) for number in range(count)], "model": "m"}


def of_large_images() -> Iterator[tuple[Any, Any]]:
    """Kinds and documents of large images."""
    for number, size in enumerate(LARGE):
        found = list(documents(size, 2))
        yield found[number % len(found)]
        yield found[(number + 3) % len(found)]


def two_responses() -> Iterator[dict[str, Any]]:
    for size in FEW:
        yield from responses(size, 2)
    for number, size in enumerate(LARGE):
        yield list(responses(size, 2))[number % 2]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_document_is_written_with_each_image_in_its_place(count: int) -> None:
    written_as_read(each for size in FEW for each in documents(size, count))


def test_a_document_is_written_with_each_large_image_in_its_place() -> None:
    written_as_read(of_large_images())


def written_as_read(found: Iterable[tuple[Any, Any]]) -> None:
    """Checks that documents of these kinds come back."""
    for kind, value in found:
        document = imagecall.document_from_json(json.dumps(value), kind=kind)
        assert json.loads(imagecall.document_to_json(document)) == value


@pytest.mark.parametrize(
    "edges", [FEW, LARGE[::2], LARGE[1::2], OF_ITEMS], ids=["few", "large", "large too", "twice"]
)
def test_items_and_events_are_written_with_each_image_in_its_place(edges: list[int]) -> None:
    for size in edges:
        tool = {"type": "openrouter:image_generation", "imageB64": image(1, size)}
        for value in (item(0, size), tool | {"result": image(2, size)}):
            text = json.dumps(value)
            call = imagecall.from_json(text)
            serialized = imagecall.serialized_from_json(text)
            assert call == ImageGenerationCall.FromString(serialized)
            assert json.loads(imagecall.to_json(call)) == value
            assert imagecall.json_from_serialized(serialized) == imagecall.to_json(call)
        done = {"type": "response.output_item.done", "output_index": 0, "item": item(0, size)}
        assert json.loads(imagecall.event_to_json(imagecall.event_from_json(json.dumps(done)))) == (
            done
        )


@pytest.mark.parametrize("streamed", ["whole", "in chunks"])
async def test_the_grpc_door_writes_each_image_in_its_place(streamed: str) -> None:
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    async with (
        serving(HttpBackend("http://127.0.0.1:9/v1")) as address,
        grpc.aio.insecure_channel(address, options) as channel,
    ):
        stub: Any = pb_grpc.ConversionServiceStub(channel)
        for value in two_responses():
            kind = DocumentKind.DOCUMENT_KIND_RESPONSE
            asked = pb.ParseDocumentRequest(json=json.dumps(value), kind=kind)
            document = (await stub.ParseDocument(asked)).document
            if streamed == "whole":
                written = await stub.FormatDocument(pb.FormatDocumentRequest(document=document))
                assert json.loads(written.json) == value
                call = document.calls[0].call
                formatted = await stub.FormatCall(pb.FormatCallRequest(call=call))
                assert formatted.json.encode() == imagecall.to_json(call)
                conversions = [pb.Conversion(document=document)]
            else:
                chunks = split(document.SerializeToString())
                conversions = [pb.Conversion(document_chunk=chunk) for chunk in chunks]
            assert json.loads(await converted(stub, conversions)) == value


async def converted(stub: Any, conversions: list[pb.Conversion]) -> str:
    """The text that ConvertCalls answers with."""
    requests = [pb.ConvertCallsRequest(conversions=[one]) for one in conversions]
    results = [r async for answer in stub.ConvertCalls(iter(requests)) for r in answer.results]
    return "".join(result.json or result.json_chunk.data.decode() for result in results)


def test_the_command_line_writes_each_image_in_its_place(tmp_path: Path) -> None:
    source, binary, target = (tmp_path / name for name in ("a.json", "a.binpb", "b.json"))
    for value in two_responses():
        source.write_text(json.dumps(value))
        options = ["convert", "--document", "response"]
        assert main([*options, "--to", "binary", "--output", str(binary), str(source)]) == 0
        back = [*options, "--from", "binary", "--to", "json", "--output", str(target)]
        assert main([*back, str(binary)]) == 0
        assert json.loads(target.read_text()) == value


@pytest.mark.parametrize("streamed", [False, True])
async def test_the_http_door_sends_each_image_in_its_place(streamed: bool) -> None:
    async with (
        upstream() as api,
        door_before(HttpBackend(api.url)) as address,
        aiohttp.ClientSession() as session,
    ):
        for value in two_responses():
            whole = response() | value
            if streamed:
                events = happy(done=value["output"][-1])[:-1]
                events.append({"type": "response.completed", "response": whole})
                api.say(framed(events))
            else:
                api.say(json.dumps(whole).encode(), content_type=JSON)
            body = {"input": "a", "stream": streamed}
            async with session.post(f"http://{address}/v1/responses", json=body) as answer:
                text = await answer.read()
            found = json.loads(_last_event(text) if streamed else text)
            found = found["response"] if streamed else found
            assert {key: found[key] for key in whole} == whole
            if streamed:
                assert text.count(value["output"][-1]["result"].encode()) == 2


def _last_event(stream: bytes) -> bytes:
    *_, last, _, _ = stream.split(b"\n\n")
    return last.partition(b"\ndata: ")[2]


@pytest.mark.parametrize("orders", [("output", "instructions"), ("instructions", "output")])
async def test_a_json_answer_becomes_a_stream_with_each_image_in_its_place(orders: Any) -> None:
    async with upstream() as api, door_before(HttpBackend(api.url)) as address:
        for size in FEW:
            items = {key: [item(number, size)] for number, key in enumerate(orders)}
            api.say(json.dumps(response() | items).encode(), content_type=JSON)
            async with (
                aiohttp.ClientSession() as session,
                session.post(
                    f"http://{address}/v1/responses", json={"input": "a", "stream": True}
                ) as answer,
            ):
                blocks = (await answer.text()).split("\n\n")[:-2]
            found = [json.loads(block.partition("\ndata: ")[2]) for block in blocks]
            assert {key: found[-1]["response"][key] for key in items} == items
            [done] = [one["item"] for one in found if one["type"] == "response.output_item.done"]
            assert done == items["output"][0]


LIMITS: Final = {"MAX", "KEPT", "RETRY", "OVERHEAD", "USUAL", "SECOND", "READ"}
"""Words in the names of limits, reserves and rates, past which nothing takes another path."""


def test_no_other_module_has_a_size_from_which_another_path_is_taken() -> None:
    found = []
    for path in SOURCE.rglob("*.py"):
        if path.parent.name in ("v1", "test_card") or path.name == "sizes.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare) and _compares_size(node):
                found.append(f"{path.name}: {ast.unparse(node)}")
            if isinstance(node, ast.AnnAssign | ast.Assign) and _is_size(node):
                found.append(f"{path.name}: {ast.unparse(node)}")
    assert found == []


def _compares_size(node: ast.Compare) -> bool:
    """Tells a comparison of a length with a large number."""
    return "len" in ast.dump(node) and max(map(_number, node.comparators)) >= 1024


def _is_size(node: ast.AnnAssign | ast.Assign) -> bool:
    """Tells a constant of bytes that is none of a limit."""
    target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
    name = target.id if isinstance(target, ast.Name) else ""
    words = set(name.strip("_").split("_"))
    if not name.isupper() or words & LIMITS or node.value is None:
        return False
    return "BYTES" in words and _number(node.value) >= 1024


def _number(node: ast.expr) -> int:
    """The value of an arithmetic expression of numbers; 0 for any other."""
    arithmetic = ast.Constant | ast.BinOp | ast.UnaryOp | ast.operator | ast.unaryop
    numbers = [each.value for each in ast.walk(node) if isinstance(each, ast.Constant)]
    if not all(isinstance(each, arithmetic) for each in ast.walk(node)):
        return 0
    if not all(isinstance(number, int) for number in numbers):
        return 0
    return int(eval(compile(ast.Expression(node), "", "eval"), {"__builtins__": {}}))
