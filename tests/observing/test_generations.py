"""Generations of images, as metrics and as attributes of spans."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import grpc
import pytest

import imagecall
from imagecall.backends.embedded.backend import EmbeddedBackend
from imagecall.backends.grpc.backend import GrpcBackend
from imagecall.backends.responses_api.backend import HttpBackend
from imagecall.generation.backend import Backend
from imagecall.generation.observed_backend import ObservedBackend
from imagecall.generation.parts import in_parts
from imagecall.observing.generation import printable_name, provider_of
from imagecall.observing.generation_metrics import Models
from imagecall.observing.logs import JsonFormatter
from imagecall.rpc.addresses import ServerAddress
from imagecall.v1 import image_generation_service_pb2 as pb
from imagecall.v1.image_generation_service_pb2_grpc import ImageGenerationServiceStub
from imagecall.v1.image_request_pb2 import ImageRequest
from tests.doors.test_generation import A_STREAM, AN_IMAGE
from tests.observing.servers import (
    Receiver,
    grpc_door,
    http_door,
    logged,
    metrics_door,
    observing,
    samples,
)
from tests.streams import PNG, framed, happy, item, response
from tests.upstream import HANG, JSON, Answer, upstream

USAGE = {"input_tokens": 50, "output_tokens": 4_000, "total_tokens": 4_050, "cost": 0.25}
TOOL_USAGE = {"image_gen": {"input_tokens": 7, "output_tokens": 1_056, "total_tokens": 1_063}}
GENERATIONS = "imagecall_generations_total"


class Observed:
    """A door before a backend, and its metrics."""

    def __init__(self, stub: Any, metrics: str) -> None:
        self.stub = stub
        self._metrics = metrics

    async def counts(self, name: str) -> dict[frozenset[str], float]:
        """The series of a metric that are not 0, by the values of their labels."""
        found = await samples(self._metrics)
        return {labels: value for (each, labels), value in found.items() if each == name and value}


@asynccontextmanager
async def observed(backend: Backend, provider: str = "test") -> AsyncIterator[Observed]:
    async with (
        observing(metrics="127.0.0.1:0") as seen,
        metrics_door(seen) as metrics,
        grpc_door(ObservedBackend(backend, provider), observer=seen) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        yield Observed(ImageGenerationServiceStub(channel), metrics)


def with_usage(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    events[-1]["response"] |= {"usage": USAGE, "tool_usage": TOOL_USAGE}
    return events


async def test_tokens_cost_images_and_times_of_a_whole_answer_are_counted() -> None:
    async with upstream() as api, observed(HttpBackend(api.url)) as door:
        answer = response(item(), item(id="ig_2"), usage=USAGE, tool_usage=TOOL_USAGE)
        api.say(json.dumps(answer).encode(), content_type=JSON)
        await door.stub.GenerateImage(
            pb.GenerateImageRequest(request=ImageRequest(prompt="x", model="m"))
        )
        operation = {"generate_content", "test", "m", "gpt-5"}
        assert await door.counts("gen_ai_client_token_usage_sum") == {
            frozenset({*operation, "input", "model"}): 50,
            frozenset({*operation, "output", "model"}): 4_000,
            frozenset({*operation, "input", "image_tool"}): 7,
            frozenset({*operation, "output", "image_tool"}): 1_056,
        }
        duration = await door.counts("gen_ai_client_operation_duration_seconds_count")
        assert duration == {frozenset(operation): 1}
        models = frozenset({"m", "gpt-5"})
        assert await door.counts("imagecall_cost_credits_total") == {models: 0.25}
        final = frozenset({"final", "png"})
        assert await door.counts("imagecall_images_total") == {final: 2}
        assert await door.counts("imagecall_image_bytes_total") == {final: 2 * len(PNG)}
        times = await door.counts("imagecall_time_to_final_image_seconds_count")
        assert times == {models: 1}
        assert await door.counts("imagecall_time_to_first_partial_image_seconds_count") == {}
        assert await door.counts(GENERATIONS) == {frozenset({"grpc", "ok"}): 1}
        variant = frozenset({"generate", "output_image_generation_call", "ok"})
        assert await door.counts("imagecall_items_total") == {variant: 2}


@pytest.mark.timing
async def test_each_of_many_images_in_an_end_takes_as_long_as_one_of_few() -> None:
    class ManyImages(EmbeddedBackend):
        async def stream_image(self, request: Any) -> Any:
            end = pb.StreamEnd(ending=1)  # type: ignore[arg-type]  # STREAM_ENDING_COMPLETED
            call = imagecall.from_json(json.dumps(item()))
            end.response.calls.extend([call] * int(request.request.prompt))
            for part in in_parts(end):
                yield part

    async def seconds_each(count: int) -> float:
        backend = ObservedBackend(ManyImages(), "test")
        asked = pb.StreamImageRequest(request=ImageRequest(prompt=str(count)))
        begun = time.process_time()
        assert len([part async for part in backend.stream_image(asked)]) == count + 1
        return (time.process_time() - begun) / count

    few = min([await seconds_each(800) for _ in range(5)])
    assert min([await seconds_each(8000) for _ in range(3)]) < 5 * few


@pytest.mark.parametrize("hops", [1, 2])
async def test_partial_and_final_images_of_a_stream_are_counted(hops: int) -> None:
    """Also through a server of this package, whose parts are passed on as the bytes that came."""
    async with upstream() as api, grpc_door(HttpBackend(api.url)) as inner:
        api.say(framed(with_usage(happy(PNG + bytes(3_000_000), [PNG, PNG]))))
        backend = HttpBackend(api.url) if hops == 1 else GrpcBackend(ServerAddress(inner))
        async with observed(backend) as door:
            asked = pb.StreamImageRequest(
                request=A_STREAM.request, include_document=True, include_other_events=True
            )
            [_ async for _ in door.stub.StreamImage(asked)]
            assert await door.counts("imagecall_images_total") == {
                frozenset({"partial", "png"}): 2,
                frozenset({"final", "png"}): 1,
            }
            size = (await door.counts("imagecall_image_bytes_total"))[frozenset({"final", "png"})]
            assert size == len(PNG) + 3_000_000
            for stage in ("first_partial", "final"):
                times = await door.counts(f"imagecall_time_to_{stage}_image_seconds_count")
                assert sum(times.values()) == 1
            tokens = await door.counts("gen_ai_client_token_usage_sum")
            assert sum(tokens.values()) == 50 + 4_000 + 7 + 1_056
            assert await door.counts(GENERATIONS) == {frozenset({"grpc", "ok"}): 1}
            assert sum((await door.counts("imagecall_items_total")).values()) == 1


FAILED = response(status="failed", error={"code": "server_error", "message": "x"})
OUTCOMES: list[tuple[Answer, str]] = [
    (Answer([json.dumps(FAILED).encode()], content_type=JSON), "failed"),
    (Answer([json.dumps(response(status="incomplete")).encode()], content_type=JSON), "incomplete"),
    (Answer([json.dumps(response()).encode()], content_type=JSON), "no_image"),
    (Answer([json.dumps(response(item("https://a/b.png"))).encode()], content_type=JSON), "ok"),
    (Answer([framed(happy()[:4], done=False)]), "UPSTREAM_DAMAGED"),
    (Answer([b"{}"], status=429, content_type=JSON), "UPSTREAM_RATE_LIMITED"),
    (Answer([b"<html>"], content_type="text/html"), "UPSTREAM_NOT_UNDERSTOOD"),
]


@pytest.mark.parametrize(("answer", "outcome"), OUTCOMES, ids=lambda value: str(value)[:24])
@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
async def test_generations_are_counted_by_outcome(
    answer: Answer, outcome: str, streams: bool
) -> None:
    async with upstream() as api, observed(HttpBackend(api.url)) as door:
        api.answers = [answer]
        try:
            if streams:
                [_ async for _ in door.stub.StreamImage(A_STREAM)]
            else:
                await door.stub.GenerateImage(AN_IMAGE)
        except grpc.aio.AioRpcError:
            assert outcome.startswith("UPSTREAM_")
        assert await door.counts(GENERATIONS) == {frozenset({"grpc", outcome}): 1}


async def test_a_client_that_leaves_ends_its_generation() -> None:
    async with upstream() as api, observed(HttpBackend(api.url)) as door:
        api.say(framed(happy()[:4], done=False), HANG)
        call = door.stub.StreamImage(A_STREAM)
        await call.read()
        call.cancel()
        await api.left.wait()
        while not (found := await door.counts(GENERATIONS)):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert found == {frozenset({"grpc", "CANCELLED"}): 1}


async def test_the_http_door_counts_its_generations_too() -> None:
    async with (
        observing(metrics="127.0.0.1:0") as seen,
        metrics_door(seen) as metrics,
        http_door(ObservedBackend(EmbeddedBackend(), "test"), observer=seen) as door,
        aiohttp.ClientSession() as session,
    ):
        for stream in (False, True):
            body = {"input": "a fox", "stream": stream}
            async with session.post(f"{door}/v1/responses", json=body) as answer:
                await answer.read()
        found = await samples(metrics)
    assert found[GENERATIONS, frozenset({"http", "ok"})] == 2
    assert found["imagecall_images_total", frozenset({"final", "png"})] == 2


async def test_the_model_of_a_request_without_one_is_that_of_its_image_tool() -> None:
    async with upstream() as api, observed(HttpBackend(api.url)) as door:
        api.say(json.dumps(response(item())).encode(), content_type=JSON)
        request = ImageRequest(prompt="x")
        request.tools.add().image_generation_tool.model = "gpt-image-1"
        await door.stub.GenerateImage(pb.GenerateImageRequest(request=request))
        duration = await door.counts("gen_ai_client_operation_duration_seconds_count")
        assert duration == {frozenset({"generate_content", "test", "gpt-image-1", "gpt-5"}): 1}


async def test_a_model_that_a_stranger_invents_has_no_series() -> None:
    async with upstream() as api, observed(HttpBackend(api.url)) as door:
        api.answers = [Answer([b"{}"], status=404, content_type=JSON)]
        for number in range(5):
            request = ImageRequest(prompt="x", model=f"invented-{number}")
            with pytest.raises(grpc.aio.AioRpcError):
                await door.stub.GenerateImage(pb.GenerateImageRequest(request=request))
        durations = await door.counts("gen_ai_client_operation_duration_seconds_count")
        assert list(durations.values()) == [5]
        assert not [label for labels in durations for label in labels if "invented" in label]


def test_the_number_of_models_with_series_is_bounded() -> None:
    models = Models(most=2)
    assert models.labels("a", "a-1") == ("a", "a-1")
    assert models.labels("", "b-1") == ("", "b-1")
    assert models.labels("c", "c-1") == ("other", "other")
    assert models.labels("a", "c-1") == ("other", "other")
    assert models.labels("a", "a-1") == ("a", "a-1")
    assert models.labels("a", "") == ("a", "")
    assert models.labels("c", "") == ("other", "")
    assert models.labels("", "") == ("", "")


def test_names_of_models_are_cut_and_printable() -> None:
    assert printable_name("a\nb\x1b" + "x" * 1000) == "a?b?" + "x" * 124


@pytest.mark.parametrize(
    ("backend", "provider"),
    [
        ("embedded", "imagecall"),
        ("grpcs://images.example:443", "imagecall"),
        ("https://openrouter.ai/api/v1", "openrouter"),
        ("https://api.openai.com/v1", "openai"),
        ("https://name.openai.azure.com/openai/v1?api-version=preview", "azure.ai.openai"),
        ("https://user:secret@notopenrouter.ai/v1", "notopenrouter.ai"),
    ],
)
def test_the_provider_of_a_backend(backend: str, provider: str) -> None:
    assert provider_of(backend) == provider


async def test_spans_of_a_door_have_the_figures_of_its_generation(receiver: Receiver) -> None:
    async with upstream() as api, observing(traces="on") as seen:
        api.say(framed(with_usage(happy(partials=[PNG]))))
        async with (
            grpc_door(ObservedBackend(HttpBackend(api.url), "test"), observer=seen) as address,
            grpc.aio.insecure_channel(address) as channel,
        ):
            stub: Any = ImageGenerationServiceStub(channel)
            [_ async for _ in stub.StreamImage(A_STREAM)]
    (span,) = (each for each in receiver.spans if each.kind == 2)
    found = {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}
    expected = {
        "gen_ai.operation.name": "generate_content",
        "gen_ai.provider.name": "test",
        "gen_ai.response.model": "gpt-5",
        "gen_ai.output.type": "image",
        "gen_ai.usage.input_tokens": 57,
        "gen_ai.usage.output_tokens": 5_056,
        "imagecall.outcome": "ok",
        "imagecall.cost_credits": 0.25,
        "imagecall.images": 1,
        "imagecall.image_bytes": len(PNG),
        "imagecall.partial_images": 1,
    }
    assert {name: found.get(name) for name in expected} == expected
    assert found["imagecall.time_to_first_partial_image_seconds"] > 0
    assert (
        found["imagecall.time_to_final_image_seconds"]
        >= found["imagecall.time_to_first_partial_image_seconds"]
    )


@pytest.mark.parametrize("usage", [{"input_tokens": -5, "cost": -1}, {"cost": "free"}])
async def test_numbers_that_no_count_can_be_do_no_harm(usage: dict[str, Any]) -> None:
    async with upstream() as api, observed(HttpBackend(api.url)) as door:
        answer = response(item(), usage=usage)
        api.say(json.dumps(answer).encode(), content_type=JSON)
        await door.stub.GenerateImage(AN_IMAGE)
        assert await door.counts("imagecall_cost_credits_total") == {}
        assert await door.counts(GENERATIONS) == {frozenset({"grpc", "ok"}): 1}


async def test_the_line_of_a_call_has_what_its_images_cost() -> None:
    with logged(JsonFormatter()) as written:
        async with upstream() as api, observing(log_calls="on") as seen:
            api.say(framed(with_usage(happy())))
            async with (
                grpc_door(ObservedBackend(HttpBackend(api.url), "test"), observer=seen) as address,
                grpc.aio.insecure_channel(address) as channel,
            ):
                stub: Any = ImageGenerationServiceStub(channel)
                [_ async for _ in stub.StreamImage(A_STREAM)]
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    (line,) = (line for line in lines if line["message"] == "call")
    assert (line["model"], line["images"], line["cost_credits"]) == ("gpt-5", 1, 0.25)
