"""Mutated texts and messages: equal after the round trip, or refused with a reason and a place."""

import asyncio
import random
import re
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from imagecall.v1 import conversion_service_pb2 as pb
from imagecall.v1.conversion_service_pb2_grpc import ConversionServiceStub
from imagecall.v1.document_pb2 import Document
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall
from imagecall.v1.image_generation_service_pb2 import GenerateImageRequest, StreamImageRequest
from imagecall.v1.image_generation_tool_pb2 import Tool
from imagecall.v1.image_request_pb2 import ImageRequest
from imagecall.wire.chunks import split
from tests.json_value import json_value
from tests.soak.figure import Figure, at_most, exactly, informs
from tests.soak.mutants import fault_of_refusal, messages, mutant, texts
from tests.soak.outcome import OK, Outcome, in_place, of_error
from tests.soak.server import Server, running
from tests.soak.wire import field

MIB: Final = 1024 * 1024
_SECONDS: Final = 5
_GROWTH_MIB: Final = 64
_REFUSALS: Final = frozenset({"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "DATA_LOSS"})
_CONVERSION: Final = "/imagecall.v1.ConversionService/"
_GENERATION: Final = "/imagecall.v1.ImageGenerationService/"
_OTHERS: Final = (
    "/grpc.health.v1.Health/Check",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)
_DONE: Final = re.compile(rb"Done (\d+) runs")
_COVERAGE: Final = re.compile(rb"cov: (\d+)")


async def run(short: bool, seed: int) -> list[Figure]:
    """Mutants of the cases through the server; others, guided by coverage, through the library."""
    count = 1_000 if short else 10_000
    async with running() as server:
        fuzzed = _Fuzzed(server)
        await asyncio.to_thread(fuzzed.run, fuzzed.text, texts(), count // 10, seed + 1)
        await asyncio.to_thread(fuzzed.run, fuzzed.message, messages(), count // 10, seed + 1)
        before = server.rss_bytes()
        server.reset_peak()
        sent = []
        for attempt, corpus in (
            (fuzzed.text, texts()),
            (fuzzed.message, messages()),
            (fuzzed.request, _requests()),
        ):
            sent.append(await asyncio.to_thread(fuzzed.run, attempt, corpus, count, seed))
        growth = (server.peak_rss_bytes() - before) / MIB
        fuzzed.close()
    faults = "; ".join(f"{fault} ({n})" for fault, n in fuzzed.faults.most_common(3))
    return [
        at_least("mutated JSON texts", sent[0], count),
        at_least("mutated messages", sent[1], count),
        at_least("mutated requests, to every method", sent[2], count),
        informs("of all, equal after the round trip", fuzzed.outcomes[OK]),
        informs("of all, refused", fuzzed.outcomes.total() - fuzzed.outcomes[OK]),
        exactly("of all, anything else", faults or 0, 0),
        at_most("memory growth, at its peak", growth, _GROWTH_MIB, "MiB"),
        *await _guided(5_000 if short else 200_000, seed),
    ]


def at_least(name: str, value: int, wanted: int) -> Figure:
    return Figure(name, value, "", f"{wanted:,}", value >= wanted)


def _requests() -> tuple[bytes, ...]:
    """Requests of each method, serialized."""
    request = ImageRequest(prompt="a fox", model="m", tools=[Tool()])
    tool = request.tools[0].image_generation_tool
    tool.size, tool.output_format, tool.partial_images = "16x16", "png", 1
    request.extra_fields.add(name="user", json='"someone"')
    request.input_images.add(url="https://example.com/a.png", detail="low")
    item = request.input_items.add().output_image_generation_call
    item.id, item.result.image = "ig_1", b"\x89PNG\r\n\x1a\n"
    text = '{"type":"image_generation_call","id":"ig_1","result":"aGk="}'
    return (
        GenerateImageRequest(request=request).SerializeToString(),
        StreamImageRequest(request=request, include_document=True).SerializeToString(),
        pb.ParseCallRequest(json=text, variant="unknown_item", profile=2).SerializeToString(),  # type: ignore[arg-type]
        pb.ParseDocumentRequest(json='{"output":[null]}', kind=2).SerializeToString(),  # type: ignore[arg-type]
        pb.ConvertCallsRequest(conversions=[pb.Conversion(json=text)] * 3).SerializeToString(),
        pb.ConvertCallsRequest(
            conversions=[pb.Conversion(json_chunk=chunk) for chunk in split(text.encode())]
        ).SerializeToString(),
        *(field(1, data) for data in messages()[::10]),
    )


class _Fuzzed:
    """A server that is given mutants, and what came of them."""

    def __init__(self, server: Server) -> None:
        self.outcomes: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self._channel = grpc.insecure_channel(
            server.grpc, [("grpc.max_receive_message_length", -1)]
        )
        self._stub: Any = ConversionServiceStub(self._channel)
        self._sent = 0

    def close(self) -> None:
        self._channel.close()

    def run(
        self,
        attempt: Callable[[bytes, int], None],
        corpus: tuple[bytes, ...],
        count: int,
        seed: int,
    ) -> int:
        """Gives it so many mutants of a corpus, of hypothesis' choice; how many there were."""
        self._sent = 0

        def one(data: bytes, number: int) -> None:
            attempt(mutant(data, random.Random(number), corpus), number)
            self._sent += 1

        wanted = settings(
            max_examples=count,
            database=None,
            deadline=None,
            derandomize=False,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        numbers = st.integers(0, 2**64)
        seeded(seed)(wanted(given(st.sampled_from(corpus), numbers)(one)))()
        return self._sent

    def text(self, text: bytes, number: int) -> None:
        """A text, as an item or a document."""
        kind = number % 5
        if kind < 3:
            variant = random.Random(number).choice(["", *_VARIANTS])
            outcome = self._ask(pb.Conversion(json_chunk=_one_chunk(text), variant=variant))
        else:
            outcome = self._ask(pb.Conversion(json_chunk=_one_chunk(text), document_kind=kind - 2))  # type: ignore[arg-type]
        if outcome.code == OK:
            (read,) = outcome.answers
            back = pb.Conversion(call=read) if kind < 3 else pb.Conversion(document=read)
            written = self._ask(back)
            equal = written.code == OK and json_value(written.answers[0]) == json_value(text)
            self._note(outcome, "" if equal else f"a text is written as another: {written}")
        else:
            self._note(outcome)

    def message(self, data: bytes, number: int) -> None:
        """A message, as an item or a document."""
        cls: Any = Document if number % 3 == 0 else ImageGenerationCall
        name = "Document" if number % 3 == 0 else "Call"
        outcome = self._call(f"{_CONVERSION}Format{name}", field(1, data))
        if outcome.code != OK:
            self._note(outcome)
            return
        message = cls()
        try:
            message.ParseFromString(data)
        except DecodeError:
            self._note(outcome, "what is no message was written")
            return
        text = pb.FormatCallResponse.FromString(outcome.answers[0]).json
        if number % 3 == 0:
            back = self._ask(pb.Conversion(json=text, document_kind=message.kind))
        else:
            back = self._ask(pb.Conversion(json=text, variant=message.WhichOneof("variant")))
        equal = back.code == OK and back.answers[0] == message
        self._note(outcome, "" if equal else f"a message comes back as another: {back}")

    def request(self, data: bytes, number: int) -> None:
        """The bytes of a request, to any method."""
        path = random.Random(number).choice(_PATHS)
        outcome = self._call(path, data)
        if path in _OTHERS and outcome.code == "NOT_FOUND":
            outcome = Outcome(OK)  # The health of a service that there is not.
        self._note(outcome)

    def _ask(self, conversion: pb.Conversion) -> Outcome:
        """Returns the outcome of a conversion on a stream of its own."""
        request = pb.ConvertCallsRequest(conversions=[conversion])
        try:
            answers = list(self._stub.ConvertCalls(iter([request]), timeout=_SECONDS))
        except grpc.RpcError as error:
            return of_error(error)  # type: ignore[arg-type]
        (result,) = answers[0].results
        output = result.WhichOneof("output")
        if output == "error":
            return in_place(result.error)
        return Outcome(OK, answers=(getattr(result, output),))

    def _call(self, path: str, data: bytes) -> Outcome:
        try:
            method: Any = self._channel.stream_stream(path)
            return Outcome(OK, answers=tuple(method(iter([data]), timeout=_SECONDS)))
        except grpc.RpcError as error:
            return of_error(error)  # type: ignore[arg-type]

    def _note(self, outcome: Outcome, fault: str = "") -> None:
        if outcome.code not in _REFUSALS and outcome.code != OK:
            fault = f"{outcome}: {outcome.message}"
        elif outcome.code != OK:
            pointer = outcome.pointer
            # A BadRequest goes with an INVALID_ARGUMENT, and wherever there is a place.
            given = "" if outcome.code != "INVALID_ARGUMENT" and pointer is None else pointer
            fault = fault_of_refusal(outcome.reason, given, outcome.message)
        if fault:
            self.faults[fault] += 1
        else:
            self.outcomes[outcome.code] += 1


_VARIANTS: Final = tuple(
    found.name for found in ImageGenerationCall.DESCRIPTOR.oneofs_by_name["variant"].fields
)
_PATHS: Final = (
    *(_CONVERSION + m for m in pb.DESCRIPTOR.services_by_name["ConversionService"].methods_by_name),
    _GENERATION + "GenerateImage",
    _GENERATION + "StreamImage",
    *_OTHERS,
)


def _one_chunk(data: bytes) -> Any:
    (chunk,) = split(data)
    return chunk


async def _guided(runs: int, seed: int) -> list[Figure]:
    """Runs atheris on the library; returns figures of its findings."""
    with tempfile.TemporaryDirectory() as corpus:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.soak.fuzz_target",
            corpus,
            f"-runs={runs}",
            f"-seed={seed % 2**31 or 1}",
            f"-timeout={_SECONDS}",
            "-max_len=20000",
            "-close_fd_mask=1",
            f"-artifact_prefix={tempfile.gettempdir()}/imagecall-",
            stdout=DEVNULL,
            stderr=PIPE,
        )
        _, said = await process.communicate()
    done, coverage = _DONE.search(said), _COVERAGE.findall(said)
    found = "" if process.returncode == 0 else said[-2000:].decode(errors="replace")
    if found:
        print(found, file=sys.stderr)
    return [
        at_least("runs of atheris", int(done[1]) if done else 0, runs),
        informs("that cover so many edges of the library", int(coverage[-1]) if coverage else 0),
        exactly("inputs that it found at fault", int(bool(found)), 0),
    ]
