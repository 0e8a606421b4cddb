"""Which calls a server takes: tokens, limits."""

import asyncio
import gc
import io
import json
import time
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import product
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc_health.v1 import health_pb2, health_pb2_grpc

from imagecall.access.admission import Admission
from imagecall.access.limits import Limits
from imagecall.access.tokens import Tokens
from imagecall.backends.embedded.backend import EmbeddedBackend
from imagecall.backends.responses_api.backend import HttpBackend
from imagecall.client import AsyncImageClient
from imagecall.doors.grpc.boundary import _clear_tracebacks
from imagecall.doors.grpc.server import GrpcServer
from imagecall.doors.http.server import HttpServer
from imagecall.errors import ConversionError, GenerationError
from imagecall.json.text import MAX_KEYS, MAX_VALUES
from imagecall.rpc.status import error_of
from imagecall.v1.conversion_service_pb2 import ConvertCallsRequest, ParseCallRequest
from imagecall.v1.conversion_service_pb2_grpc import ConversionServiceStub
from imagecall.v1.extra_field_pb2 import ExtraField
from imagecall.v1.image_generation_service_pb2 import GenerateImageRequest
from imagecall.v1.image_generation_service_pb2_grpc import ImageGenerationServiceStub
from imagecall.v1.image_request_pb2 import ImageRequest
from tests.doors.test_http import door_before
from tests.soak.attackers import resets
from tests.soak.server import running
from tests.streams import framed, happy
from tests.until import until
from tests.upstream import upstream

ITEM = '{"type":"image_generation_call","id":"ig_1"}'
SMALL_FOX = '{"input":"a fox","tools":[{"type":"image_generation","size":"64x64"}]}'
MIB = 1024 * 1024
ALICE, BOB = "alices-token-0123456789", "bobs-token-0123456789"


@asynccontextmanager
async def doors(admission: Admission, backend: Any = None) -> AsyncIterator[tuple[str, str]]:
    backend = backend or EmbeddedBackend()
    grpc_server = GrpcServer("127.0.0.1:0", backend, admission)
    http_server = HttpServer("127.0.0.1:0", backend, admission)
    try:
        yield await grpc_server.start(), await http_server.start()
    finally:
        await asyncio.gather(grpc_server.stop(0), http_server.stop(0))
        await backend.close()


def slow(seconds: float) -> ImageRequest:
    order = json.dumps({"delay_seconds": seconds})
    return ImageRequest(prompt="a fox", extra_fields=[ExtraField(name="embedded", json=order)])


async def parse(address: str, token: str = "") -> Any:
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = ConversionServiceStub(channel)
        return await stub.ParseCall(ParseCallRequest(json=ITEM), metadata=metadata)


async def refusal(work: Any) -> Any:
    with pytest.raises(grpc.RpcError) as caught:
        await work
    return error_of(caught.value)


async def test_a_call_needs_a_token_of_the_file_and_health_none(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"# who may call\nalice {ALICE}\n\nbob\t{BOB}\n")
    async with doors(Admission(tokens=Tokens(file))) as (address, page):
        for token in ("", "wrong", ALICE[:-1], ALICE + "x", f"{ALICE} x"):
            error = await refusal(parse(address, token))
            assert (error.reason, error.code) == ("TOKEN_REQUIRED", "UNAUTHENTICATED")
            assert ALICE not in str(error)
        assert (await parse(address, ALICE)).call == (await parse(address, BOB)).call
        async with grpc.aio.insecure_channel(address) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            answer = await health.Check(health_pb2.HealthCheckRequest())
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        async with aiohttp.ClientSession(f"http://{page}") as session:
            said = {"input": "a fox", "tools": [{"type": "image_generation", "size": "64x64"}]}
            for token, status in (("", 401), ("wrong", 401), (ALICE, 200)):
                headers = {"authorization": f"bearer {token}"}
                async with session.post("/v1/responses", json=said, headers=headers) as got:
                    assert got.status == status
                    if status == 401:
                        assert got.headers["www-authenticate"] == "Bearer"
                        assert (await got.json())["error"]["type"] == "token_required"
            async with session.get("/") as got:
                assert got.status == 200


async def test_tokens_are_read_anew_and_a_faulty_file_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imagecall.access.watched_files._SECONDS", 0)
    file = tmp_path / "tokens"
    file.write_text(f"alice {ALICE}\n")
    async with doors(Admission(tokens=Tokens(file))) as (address, _):
        await parse(address, ALICE)
        file.write_text("alice tooshort\n")
        await parse(address, ALICE)
        assert "stays in use" in caplog.text
        assert "tooshort" not in caplog.text
        file.write_text(f"bob {BOB}\n")
        await parse(address, BOB)
        assert (await refusal(parse(address, ALICE))).reason == "TOKEN_REQUIRED"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("alice\n", "line 1 of the file of tokens"),
        ("# x\nalice short\n", "the token in line 2 of the file of tokens"),
        ("alice sk with spaces in it\n", "is not NAME TOKEN"),
    ],
)
def test_a_faulty_file_of_tokens_is_a_sentence_that_does_not_quote_it(
    text: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "tokens"
    file.write_text(text)
    with pytest.raises(OSError, match=message) as caught:
        Tokens(file)
    assert "short" not in str(caught.value)
    assert "spaces" not in str(caught.value)


async def test_a_token_for_us_is_not_passed_on(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"alice {ALICE}\n")
    from imagecall.backends.grpc.backend import GrpcBackend
    from imagecall.rpc.addresses import ServerAddress

    inner_file = tmp_path / "inner"
    inner_file.write_text(f"hop {BOB}\n")
    async with doors(Admission(tokens=Tokens(inner_file))) as (inner, _):
        for token, works in ((BOB, True), ("", False)):
            backend = GrpcBackend(ServerAddress(inner), token)
            async with (
                doors(Admission(tokens=Tokens(file)), backend) as (outer, _),
                AsyncImageClient(outer, token=ALICE) as client,
            ):
                if works:
                    assert (await client.generate_image(slow(0.01))).calls
                else:
                    with pytest.raises(GenerationError, match="no token"):
                        await client.generate_image(slow(0.01))


@pytest.mark.timing
async def test_past_the_limit_of_calls_one_is_refused_at_once_and_others_go_on() -> None:
    async with (
        doors(Admission(Limits(calls=2))) as (address, page),
        AsyncImageClient(address) as client,
    ):
        slow_ones = [asyncio.create_task(client.generate_image(slow(1))) for _ in range(2)]
        await asyncio.sleep(0.3)
        begun = time.monotonic()
        with pytest.raises(grpc.RpcError) as caught:
            await parse(address)
        assert time.monotonic() - begun < 0.5
        error = error_of(caught.value)
        assert isinstance(error, GenerationError)
        assert (error.reason, error.code) == ("TOO_MANY_CALLS", "RESOURCE_EXHAUSTED")
        assert error.retry_seconds == 1
        async with (
            aiohttp.ClientSession(f"http://{page}") as session,
            session.post("/v1/responses", json={"input": "a"}) as got,
        ):
            assert (got.status, got.headers["retry-after"]) == (429, "1")
        async with grpc.aio.insecure_channel(address) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            assert (await health.Check(health_pb2.HealthCheckRequest())).status == 1
        assert all(answer.calls for answer in await asyncio.gather(*slow_ones))
        assert (await parse(address)).call


class Sender:
    """A request to the HTTP door by hand, of which the body is sent as wanted."""

    def __init__(self, page: str, size: int, headers: str = "") -> None:
        self._page = page
        self._head = (
            "POST /convert HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
            f"content-length: {size}\r\n{headers}\r\n"
        )

    async def __aenter__(self) -> "Sender":
        host, port = self._page.split(":")
        self.reader, self._writer = await asyncio.open_connection(host, int(port))
        self.send(self._head.encode())
        return self

    async def __aexit__(self, *unused: object) -> None:
        self._writer.transport.abort()

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def answer(self) -> tuple[int, dict[str, str], Any]:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower()
        first, *lines = head.strip().split("\r\n")
        headers = dict(line.split(": ") for line in lines)
        body = await self.reader.readexactly(int(headers["content-length"]))
        return int(first.split()[1]), headers, json.loads(body)


ORIGINS = {
    None: 200,
    "http://localhost:8080": 200,
    "http://127.0.0.1:8080": 200,
    "http://[::1]:8080": 200,
    "https://app.localhost": 200,
    "http://attacker.example:8080": 403,
    "http://127.0.0.1.attacker.example": 403,
    "http://localhost.attacker.example": 403,
    "http://attacker.example/localhost": 403,
    "http://localhost@attacker.example": 403,
    "null": 403,
    "": 403,
    "http://[": 403,
}


@pytest.mark.parametrize("local", [True, False])
async def test_a_page_from_elsewhere_does_not_reach_what_asks_for_no_token(local: bool) -> None:
    async with doors(Admission(local=local)) as (_, page), aiohttp.ClientSession() as session:
        for origin, status in ORIGINS.items():
            expected = status if local else 200
            headers = {"content-type": "application/json"}
            if origin is not None:
                headers["origin"] = origin
            for path, body in (("/convert", ITEM), ("/v1/responses", SMALL_FOX)):
                url = f"http://{page}{path}"
                async with session.post(url, data=body, headers=headers) as answer:
                    assert answer.status == expected, origin
                    assert expected == 200 or "token" in (await answer.json())["error"]["message"]


HOSTS = {
    None: 200,
    "localhost:8080": 200,
    "[::1]:8080": 200,
    "app.localhost": 200,
    "attacker.example:8080": 403,
    "127.0.0.1.attacker.example": 403,
    "localhost@attacker.example": 403,
    "localhost.": 403,
    "[": 403,
    "": 403,
}


@pytest.mark.parametrize("local", [True, False])
async def test_a_page_whose_name_is_rebound_reads_nothing_of_what_asks_for_no_token(
    local: bool,
) -> None:
    admission = Admission(local=local)
    async with (
        door_before(EmbeddedBackend(), admission=admission) as page,
        aiohttp.ClientSession() as session,
    ):
        for host, method, path in product(HOSTS, ("GET", "HEAD"), ("/", "/health")):
            headers = {} if host is None else {"host": host}
            async with session.request(method, f"http://{page}{path}", headers=headers) as answer:
                assert answer.status == (HOSTS[host] if local else 200), (host, method, path)


async def test_head_needs_no_token_where_get_needs_none(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(f"alice {ALICE}\n")
    admission = Admission(Limits(), Tokens(tmp_path / "tokens"))
    async with doors(admission) as (_, page), aiohttp.ClientSession() as session:
        for path, status in (("/", 200), ("/health", 200), ("/v1/responses", 405), ("/x", 404)):
            async with session.head(f"http://{page}{path}") as answer:
                assert answer.status == status
                assert not await answer.read()


@pytest.mark.parametrize(("flags", "status"), [((), 403), (("--without-tokens", "on"), 200)])
async def test_it_does_reach_one_whose_owner_says_that_strangers_are_kept_out(
    flags: tuple[str, ...], status: int
) -> None:
    headers = {"content-type": "application/json", "origin": "https://app.example"}
    async with running(*flags) as server, aiohttp.ClientSession() as session:
        url = f"http://{server.http}/convert"
        async with session.post(url, data=ITEM, headers=headers) as answer:
            assert answer.status == status


async def test_metadata_past_the_limit_is_refused_with_details() -> None:
    async with (
        doors(Admission(Limits(metadata_bytes=1000))) as (address, _),
        grpc.aio.insecure_channel(address) as channel,
    ):
        stub: Any = ConversionServiceStub(channel)

        async def padded(size: int) -> Any:
            metadata = [("x-padding", "y" * size)]
            return await stub.ParseCall(ParseCallRequest(json=ITEM), metadata=metadata)

        assert (await padded(500)).call
        for size, reason in ((1000, "TOO_LARGE"), (2000, "TOO_LARGE"), (100_000, "")):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await padded(size)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert error_of(caught.value).reason == reason


async def test_bodies_that_are_being_read_are_no_calls_in_progress_but_take_memory() -> None:
    admission = Admission(Limits(calls=1, memory_bytes=5 * MIB))
    body = ITEM.encode().ljust(MIB)
    async with doors(admission) as (address, page), AsyncExitStack() as stack:
        for _ in range(5):
            (await stack.enter_async_context(Sender(page, 50_000))).send(ITEM.encode())
        first, second = [await stack.enter_async_context(Sender(page, MIB)) for _ in range(2)]
        first.send(body[:-1])
        await until(lambda: admission.budget.held > MIB)
        assert admission.in_progress == 0
        assert (await parse(address)).call
        second.send(body[:-1])
        status, headers, said = await second.answer()
        assert (status, headers["retry-after"]) == (429, "1")
        assert said["error"]["type"] == "too_many_calls"
        first.send(body[-1:])
        assert (await first.answer())[0] == 200
    await until(lambda: admission.budget.held == 0)
    assert admission.in_progress == 0


async def test_a_body_is_not_read_without_a_token_and_is_refused_once_whole(
    tmp_path: Path,
) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"alice {ALICE}\n")
    admission = Admission(Limits(calls=1), Tokens(file))
    async with doors(admission) as (address, page), Sender(page, 1000) as stranger:
        assert (await stranger.answer())[0] == 401
        async with (
            Sender(page, len(ITEM), f"authorization: Bearer {ALICE}\r\n") as sender,
            AsyncImageClient(address, token=ALICE) as client,
        ):
            sender.send(ITEM[:10].encode())
            working = asyncio.create_task(client.generate_image(slow(3600)))
            await until(lambda: admission.in_progress == 1)
            sender.send(ITEM[10:].encode())
            status, headers, said = await sender.answer()
            assert (status, headers["retry-after"]) == (429, "1")
            assert said["error"]["type"] == "too_many_calls"
            working.cancel()


@pytest.mark.timing
async def test_a_body_comes_at_a_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imagecall.doors.http.middleware._BODY_SECONDS", 0.5)
    monkeypatch.setattr("imagecall.doors.http.middleware._READ_BYTES", 3_000)
    async with (
        doors(Admission(Limits(call_seconds=0.2))) as (_, page),
        Sender(page, 30_000) as steady,
        Sender(page, 30_000) as slow_one,
    ):
        begun = time.monotonic()
        answer = asyncio.create_task(slow_one.answer())
        for count in range(10):
            steady.send(ITEM.encode().ljust(3_000) if count == 0 else b" " * 3_000)
            slow_one.send(b" ")
            await asyncio.sleep(0.15)
        assert (await steady.answer())[0] == 200  # After 1.5 s: 0.5 for each 3,000 bytes.
        status, headers, said = await answer
        assert (status, headers["connection"], said["error"]["code"]) == (408, "close", 408)
        with suppress(ConnectionError):
            assert not await slow_one.reader.read()
        assert time.monotonic() - begun < 3


async def test_resets_of_others_do_not_cancel_a_call() -> None:
    async with doors(Admission()) as (address, _), grpc.aio.insecure_channel(address) as channel:
        stub: Any = ConversionServiceStub(channel)
        request = ParseCallRequest(json=ITEM)
        await stub.ParseCall(request)
        attacks = asyncio.gather(*(resets(address, 5_000) for _ in range(4)))
        answers = []
        while not attacks.done():
            answers.append(asyncio.ensure_future(stub.ParseCall(request)))
            await asyncio.sleep(0.01)
        assert all(answer.call for answer in await asyncio.gather(*answers))
        await attacks


async def test_a_call_that_takes_too_long_is_ended() -> None:
    async with (
        doors(Admission(Limits(call_seconds=0.3))) as (address, page),
        AsyncImageClient(address) as client,
    ):
        with pytest.raises(GenerationError) as caught:
            await client.generate_image(slow(30))
        assert (caught.value.reason, caught.value.code) == ("CALL_TOO_LONG", "DEADLINE_EXCEEDED")
        async with aiohttp.ClientSession(f"http://{page}") as session:
            asked = {"input": "a", "embedded": {"delay_seconds": 30}}
            async with session.post("/v1/responses", json=asked) as got:
                assert got.status == 424
                assert (await got.json())["error"]["type"] == "call_too_long"


async def test_a_stream_takes_so_many_items_and_no_more() -> None:
    async with doors(Admission(Limits(stream_items=5))) as (address, _):
        channel = grpc.aio.insecure_channel(address)
        async with channel:
            stub: Any = ConversionServiceStub(channel)
            for items in (5, 6):
                request = ConvertCallsRequest()
                for _ in range(items):
                    request.conversions.add(json=ITEM)
                answered = []
                try:
                    async for response in stub.ConvertCalls(iter([request])):
                        answered += response.results
                    assert items == 5
                except grpc.RpcError as error:
                    assert items == 6
                    known = error_of(error)
                    assert isinstance(known, ConversionError)
                    assert (known.reason, known.code) == ("TOO_MANY_ITEMS", "RESOURCE_EXHAUSTED")
                assert len(answered) == 5


async def test_an_image_of_an_api_past_the_limit_is_refused() -> None:
    image = b"\x89PNG\r\n\x1a\n" + bytes(6_000_000)
    for limit, fits in ((len(image), True), (len(image) - 1, False)):
        async with upstream() as api:
            api.say(framed(happy(image)))
            backend = HttpBackend(api.url, max_image_bytes=limit)
            async with (
                doors(Admission(), backend) as (address, _),
                AsyncImageClient(address) as client,
            ):
                try:
                    async for _ in client.stream_image(ImageRequest(prompt="a")):
                        pass
                    assert fits
                except GenerationError as error:
                    assert not fits
                    assert error.reason == "UPSTREAM_ANSWER_TOO_LARGE"


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        (b'{"type":"x",' + b",".join(b'"%d":1' % n for n in range(MAX_KEYS - 1)) + b"}", True),
        (b'{"type":"x",' + b",".join(b'"%d":1' % n for n in range(MAX_KEYS)) + b"}", False),
        (b'{"type":"x","a":[' + b",".join([b"0"] * (MAX_VALUES - 2)) + b"]}", True),
        (b'{"type":"x","a":[' + b",".join([b"0"] * (MAX_VALUES - 1)) + b"]}", False),
        (b'{"type":"x","a":[' + b",".join([b"[]"] * 2_000_000) + b"]}", False),
        (b'{"type":"x","a":"' + b",:" * 2_000_000 + b'"}', True),
    ],
    ids=["keys", "one key more", "values", "one value more", "empty arrays", "a long string"],
)
@pytest.mark.parametrize("known", [False, True], ids=["unknown item", "item"])
def test_what_costs_much_more_than_its_bytes_is_refused(
    text: bytes, fits: bool, known: bool
) -> None:
    import imagecall

    if known:
        text = text.replace(b'"type":"x"', b'"type":"image_generation_call"', 1)
    try:
        call = imagecall.from_json(text)
    except ConversionError as error:
        assert error.reason == "TOO_MANY_VALUES"
        assert not fits
    else:
        assert fits
        assert imagecall.to_json(call) == text


def test_a_message_whose_json_would_be_refused_is_not_written() -> None:
    import imagecall

    call = imagecall.from_json(ITEM)
    item = call.output_image_generation_call
    many = ",".join(["0"] * (MAX_VALUES // 2))
    for count in range(3):
        item.extra_fields.add(name=f"a{count}", json=f"[{many}]")
    with pytest.raises(ConversionError, match="values"):
        imagecall.to_json(call)
    del item.extra_fields[:]
    for count in range(MAX_KEYS - 2):
        item.extra_fields.add(name=f"a{count}", json="0")
    assert imagecall.from_json(imagecall.to_json(call)) == call
    item.extra_fields.add(name="more", json="0")
    with pytest.raises(ConversionError, match="keys"):
        imagecall.to_json(call)


def test_details_of_a_refused_call_have_a_time_to_retry() -> None:
    from imagecall.rpc.status import to_status

    busy = GenerationError("TOO_MANY_CALLS", "busy", retry_seconds=1)
    kinds = {detail.type_url.rpartition(".")[2] for detail in to_status(busy).details}
    assert kinds == {ErrorInfo.DESCRIPTOR.name, RetryInfo.DESCRIPTOR.name}


async def test_the_http_door_says_whether_it_is_about_to_stop(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"alice {ALICE}\n")
    admission = Admission(tokens=Tokens(file))
    async with doors(admission) as (_, page), aiohttp.ClientSession(f"http://{page}") as session:
        for draining, status, said in ((False, 200, "SERVING"), (True, 503, "NOT_SERVING")):
            admission.draining = draining
            async with session.get("/health") as got:
                assert (got.status, await got.json()) == (status, {"status": said})


class _Broken(EmbeddedBackend):
    async def generate_image(self, request: GenerateImageRequest) -> Any:
        held = request.SerializeToString()
        try:
            raise KeyError(len(held))
        except KeyError:
            raise RuntimeError("nobody foresaw this") from None


def test_errors_in_a_circle_are_clear_tracebacks_all_the_same() -> None:
    def raised(error: Exception) -> Exception:
        try:
            raise error
        except (ValueError, KeyError) as caught:
            return caught

    one, other = raised(ValueError()), raised(KeyError())
    one.__cause__, other.__context__ = other, one
    _clear_tracebacks(one)
    assert (one.__traceback__, other.__traceback__) == (None, None)


async def test_what_was_refused_is_not_kept_until_python_looks_for_cycles() -> None:
    json_bytes, calls = 3_000_000, 5
    body = b'"' + b"x" * json_bytes
    request = ParseCallRequest(json=body.decode())
    headers = {"content-type": "application/json"}
    for_broken = GenerateImageRequest(request=ImageRequest(prompt="x" * json_bytes))
    async with (
        doors(Admission(), _Broken()) as (grpc_address, http_address),
        grpc.aio.insecure_channel(grpc_address) as channel,
        aiohttp.ClientSession() as session,
    ):
        conversion: Any = ConversionServiceStub(channel)
        generation: Any = ImageGenerationServiceStub(channel)

        async def refused() -> None:
            for method, asked in (
                (conversion.ParseCall, request),
                (generation.GenerateImage, for_broken),
            ):
                with suppress(grpc.aio.AioRpcError):
                    await method(asked)
                    raise AssertionError("it was taken")
            async with session.post(
                f"http://{http_address}/convert", data=io.BytesIO(body), headers=headers
            ) as answer:
                assert answer.status == 400

        await refused()
        gc.collect()
        gc.disable()
        tracemalloc.start()
        try:
            for _ in range(calls):
                await refused()
            await asyncio.sleep(0.1)
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            gc.enable()
    assert kept < json_bytes
