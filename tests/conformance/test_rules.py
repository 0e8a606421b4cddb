"""The suite of conformance: our server passes; a server with one mistake fails in one rule."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import Default
from grpclib.metadata import Deadline
from grpclib.server import Server

from imagecall.backends.embedded.backend import EmbeddedBackend
from imagecall.backends.grpc.backend import GrpcBackend
from imagecall.backends.responses_api.backend import HttpBackend
from imagecall.conformance.session import STREAM, CheckSettings, Session
from imagecall.conformance.suite import RULES, Outcome, run
from imagecall.rpc.addresses import ServerAddress
from imagecall.v1.betterproto import ImageGenerationServiceBase
from tests.conformance.faulty import Faulty, faulty_server
from tests.conformance.kinds import fails
from tests.conformance.mistakes import MISTAKES
from tests.doors.test_generation import serving
from tests.streams import PNG, framed, happy, item, response
from tests.until import until
from tests.upstream import JSON, Answer, upstream

SCHEMA = Path(__file__).parents[2] / "proto/README.md"
SLOW = (("embedded", '{"delay_seconds": 20}'),)
SETTINGS = CheckSettings(size="64x64", slow=SLOW, tolerance=10.0, timeout=60)
"""Settings with which a busy machine fails no rule."""

IMPATIENT = replace(SETTINGS, status_seconds=0.5)
NAMES = [rule.name for rule in RULES]
SLOW_RULES = ("deadline", "cancellation", "many-calls", "large-request")
QUICK = [name for name in NAMES if name not in SLOW_RULES]


async def outcomes_of(
    address: str, *only: str, settings: CheckSettings = SETTINGS
) -> dict[str, Outcome]:
    options = [("grpc.max_receive_message_length", -1), ("grpc.enable_retries", 0)]
    async with grpc.aio.insecure_channel(address, options) as channel:
        session = Session(channel, settings, target=address)
        return {outcome.rule.name: outcome async for outcome in run(session, only)}


def named(outcomes: dict[str, Outcome], result: str) -> list[str]:
    return [name for name, outcome in outcomes.items() if outcome.result == result]


def _converts(rule: str) -> bool:
    return rule.startswith("convert-")


def findings(outcomes: dict[str, Outcome]) -> list[Any]:
    return [each for outcome in outcomes.values() for each in outcome.findings]


@pytest.mark.parametrize("mistake", MISTAKES)
async def test_a_mistake_fails_in_its_rule_and_in_no_other(mistake: str) -> None:
    rule, faulty = MISTAKES[mistake]
    # A mistake of one service does not touch the rules of the other, which would double the time.
    of_service = [name for name in QUICK if _converts(name) == _converts(rule)]
    settings = IMPATIENT if rule == "status" else SETTINGS
    async with faulty_server(faulty) as address:
        outcomes = await outcomes_of(address, *of_service, settings=settings)
    assert named(outcomes, "failed") == [rule], findings(outcomes)


async def test_a_break_at_a_large_request_fails_in_its_rule() -> None:
    broken = fails(grpc.StatusCode.INTERNAL, "broken", lambda _, request: len(request) > 10_000_000)
    async with faulty_server(broken) as address:
        outcomes = await outcomes_of(address, "methods", "large-request", "image")
    assert named(outcomes, "failed") == ["large-request"]


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("RESOURCE_EXHAUSTED", "grpc: received message larger than max (20000041 vs. 4194304)"),
        ("RESOURCE_EXHAUSTED", "gRPC message exceeds maximum size 4194304: 20000041"),
        (
            "OUT_OF_RANGE",
            "Error, decoded message length too large: found 2 MiB, the limit is: 1 MiB",
        ),
    ],
)
async def test_a_limit_of_requests_that_is_named_passes(code: str, text: str) -> None:
    limited = fails(grpc.StatusCode[code], text, lambda _, request: len(request) > 4_194_304)
    async with faulty_server(limited) as address:
        outcomes = await outcomes_of(address, "large-request")
    assert named(outcomes, "passed") == ["large-request"]


async def test_calls_that_break_when_there_are_many_fail_in_their_rule() -> None:
    limit = asyncio.Event()

    async def until_there_are_many(method: str) -> None:
        if len(busy.working) > 1:
            await limit.wait()

    def refuse(method: str, request: bytes) -> Any:
        if len(busy.working) <= 50:
            return None
        limit.set()
        return grpc.StatusCode.UNKNOWN, "busy", ()

    busy = Faulty(before=until_there_are_many)
    busy.on_request = refuse
    async with faulty_server(busy) as address:
        outcomes = await outcomes_of(address, "methods", "many-calls", "image")
    assert named(outcomes, "failed") == ["many-calls"]


async def test_work_that_goes_on_after_a_cancellation_fails_in_its_rule() -> None:
    workers = asyncio.Semaphore(8)

    async def work(method: str) -> None:
        if method == STREAM:
            async with workers:
                await asyncio.sleep(0.2 if len(deaf.working) < 8 else 20)

    deaf = Faulty(before=work, deaf=True)
    settings = CheckSettings(size="64x64", slow=SLOW, tolerance=0.2)
    async with faulty_server(deaf) as address:
        outcomes = await outcomes_of(address, "methods", "cancellation", settings=settings)
        for task in deaf.working:
            task.cancel()
    assert named(outcomes, "failed") == ["cancellation"]


class Late(ImageGenerationServiceBase):
    """A service that takes its time."""

    async def stream_image(self, request: Any) -> AsyncIterator[Any]:
        await asyncio.sleep(20)
        yield request


async def test_a_deadline_that_is_ignored_fails_in_its_rule(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # gRPC's own servers end a call at its deadline, whatever the handler does; grpclib may not.
    monkeypatch.setattr(Deadline, "from_headers", lambda headers: None)
    server = Server([Late()])
    await server.start("127.0.0.1", 0)
    port = server._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    try:
        settings = CheckSettings(tolerance=0.1)
        outcomes = await outcomes_of(f"127.0.0.1:{port}", "deadline", settings=settings)
        # The server closes its connections too.
        await until(lambda: all(handler.closing for handler in server._handlers))
    finally:
        server.close()
        await server.wait_closed()
    assert named(outcomes, "failed") == ["deadline"]


async def test_our_server_passes_with_the_embedded_backend() -> None:
    async with serving(EmbeddedBackend()) as address:
        outcomes = await outcomes_of(address)
    assert named(outcomes, "passed") == NAMES, findings(outcomes)


async def test_our_server_passes_with_a_grpc_backend() -> None:
    async with (
        serving(EmbeddedBackend()) as behind,
        serving(GrpcBackend(ServerAddress(behind))) as address,
    ):
        outcomes = await outcomes_of(address)
    assert named(outcomes, "passed") == NAMES, findings(outcomes)


async def test_our_server_passes_with_an_http_backend() -> None:
    plain = json.dumps(response(item(PNG))).encode()
    async with upstream() as api, serving(HttpBackend(api.url, "key")) as address:
        api.answers = [
            Answer([framed(happy(PNG, [PNG, PNG]))]),
            Answer([framed(happy())]),
            Answer([plain], content_type=JSON),
            Answer(status=404),  # For an unknown response, which is got and cancelled.
            Answer(status=404),
            Answer([framed(happy())]),
        ]
        outcomes = await outcomes_of(address, *QUICK)
    assert named(outcomes, "passed") == QUICK, findings(outcomes)


async def test_no_more_images_are_asked_for_than_allowed() -> None:
    async with serving(EmbeddedBackend()) as address:
        options = CheckSettings(size="64x64", max_images=3)
        async with grpc.aio.insecure_channel(address) as channel:
            session = Session(channel, options, target=address)
            outcomes = {outcome.rule.name: outcome async for outcome in run(session)}
    assert session.images == 3
    skipped = ["deadline", "cancellation", "large-request", "newer-request", "many-calls"]
    assert named(outcomes, "skipped") == skipped
    assert "--max-images" in outcomes["many-calls"].reason


async def test_without_images_only_the_rules_that_need_none_are_checked() -> None:
    async with serving(EmbeddedBackend()) as address:
        outcomes = await outcomes_of(address, settings=CheckSettings(max_images=0))
    assert not named(outcomes, "failed")
    assert "blank-prompt" in named(outcomes, "passed")
    assert "chunk-digest" in named(outcomes, "skipped")


async def test_a_server_without_conversions_is_not_checked_for_them() -> None:
    missing = fails(grpc.StatusCode.UNIMPLEMENTED, "no", lambda method, _: "Conversion" in method)
    async with faulty_server(missing) as address:
        outcomes = await outcomes_of(address, *QUICK)
    assert named(outcomes, "skipped") == [name for name in NAMES if name.startswith("convert-")]
    assert not named(outcomes, "failed")


def names_of(pool: Any, file: Any, outermost: str) -> set[str]:
    """The names in a message or a service."""
    if service := file.services_by_name.get(outermost):
        return {method.name for method in service.methods}
    message = file.message_types_by_name[outermost]
    return {*message.fields_by_name, *message.oneofs_by_name}


def test_each_rule_has_a_mistake() -> None:
    covered = {rule for rule, _ in MISTAKES.values()} | set(SLOW_RULES)
    assert covered == set(NAMES)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_each_rule_stands_in_a_text(rule: Any) -> None:
    if " " in rule.place:
        assert f"## {rule.place}\n" in SCHEMA.read_text()
        return
    outermost, _, name = rule.place.partition(".")
    pool, full_name = Default(), f"imagecall.v1.{outermost}"
    file = pool.FindFileContainingSymbol(full_name)
    assert rule.where == f"{file.name}, {rule.place}"
    assert not name or name in names_of(pool, file, outermost)
