"""Keys, tokens and images reach no log, trace or metric."""

import asyncio
import base64
import json
import logging
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest

from imagecall.access.admission import Admission
from imagecall.access.limits import Limits
from imagecall.access.tokens import Tokens
from imagecall.backends.embedded.backend import EmbeddedBackend
from imagecall.backends.grpc.backend import GrpcBackend
from imagecall.backends.responses_api.backend import HttpBackend
from imagecall.observing.logs import JsonFormatter, TextFormatter
from imagecall.rpc.addresses import ServerAddress
from imagecall.server.settings import ServerSettings, read_settings
from imagecall.v1 import conversion_service_pb2 as pb
from imagecall.v1.conversion_service_pb2_grpc import ConversionServiceStub
from imagecall.v1.image_generation_service_pb2_grpc import ImageGenerationServiceStub
from tests.doors.test_generation import AN_IMAGE
from tests.observing.servers import Receiver, grpc_door, http_door, logged, metrics_door, observing
from tests.streams import PNG, item, response
from tests.upstream import JSON, upstream

KEY = "sk-planted-0123456789abcdef"
TOKEN = "token-planted-0123456789abcdef"
SECRET = b"planted image bytes, which nobody should see"


class Faulty(EmbeddedBackend):
    """A backend with a fault that quotes what it works on."""

    async def generate_image(self, request: Any) -> Any:
        raise RuntimeError(f"{KEY} {TOKEN} {SECRET!r} {request}")


@pytest.mark.parametrize("form", ["text", "json"])
async def test_nothing_shows_a_key_a_token_or_an_image(
    form: str, receiver: Receiver, tmp_path: Path
) -> None:
    tokens, key_file = tmp_path / "tokens", tmp_path / "key"
    tokens.write_text(f"someone {TOKEN}\n")
    key_file.write_text(KEY)
    image = PNG + SECRET
    encoded = base64.b64encode(image).decode()
    shown: list[str] = []
    given = {"metrics": "127.0.0.1:0", "traces": "on", "log_calls": "on", "log_format": form}
    files = {"tokens_file": str(tokens), "api_key_file": str(key_file)}
    settings = read_settings(ServerSettings, {**given, **files}, {})
    admission = Admission(Limits(), Tokens(tokens))
    async with AsyncExitStack() as stack:
        formatter = JsonFormatter() if form == "json" else TextFormatter()
        written = stack.enter_context(logged(formatter))
        api = await stack.enter_async_context(upstream())
        seen = await stack.enter_async_context(observing(**given))
        options: Any = {"admission": admission, "observer": seen}
        backend = HttpBackend(api.url, KEY)
        shown += map(repr, (settings, backend, vars(admission)["_tokens"], admission, seen))
        good = await stack.enter_async_context(grpc_door(backend, **options))
        faulty = await stack.enter_async_context(grpc_door(Faulty(), **options))
        relay = GrpcBackend(ServerAddress(good))
        shown.append(repr(relay))
        door = await stack.enter_async_context(http_door(relay, **options))
        bad_door = await stack.enter_async_context(http_door(Faulty(), **options))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        headers = {"authorization": f"Bearer {TOKEN}"}
        answers: list[bytes] = [
            json.dumps(response(item(image))).encode(),
            json.dumps({"error": {"message": f"bad key {KEY}"}}).encode(),
            json.dumps(response(item(image)))[:-9].encode(),
        ]
        asked = {"input": encoded}
        metadata = (("authorization", f"Bearer {TOKEN}"),)
        for body in answers:
            api.say(body, content_type=JSON)
            for url in (door, bad_door):
                url += "/v1/responses"
                async with session.post(url, json=asked, headers=headers) as answer:
                    if answer.status != 200:
                        shown.append(await answer.text())
            wrong = {"authorization": f"Basic {TOKEN}"}
            async with session.post(f"{door}/{TOKEN}", json=asked, headers=wrong) as answer:
                shown += [await answer.text(), str(answer.headers)]
            for address in (good, faulty):
                async with grpc.aio.insecure_channel(address) as channel:
                    images: Any = ImageGenerationServiceStub(channel)
                    conversions: Any = ConversionServiceStub(channel)
                    try:
                        await images.GenerateImage(AN_IMAGE, metadata=metadata)
                    except grpc.aio.AioRpcError as error:
                        shown.append(repr(error))
                    for text in (json.dumps(item(image)), f'{{"id":"{encoded}",}}'):
                        request = pb.ParseCallRequest(json=text, variant=TOKEN)
                        try:
                            await conversions.ParseCall(request, metadata=metadata)
                        except grpc.aio.AioRpcError as error:
                            # The client's own words, which go back to it alone.
                            shown.append(repr(error).replace(TOKEN, ""))
        metrics = await stack.enter_async_context(metrics_door(seen))
        async with session.get(f"{metrics}/metrics") as answer:
            shown.append(await answer.text())
        logging.getLogger("elsewhere").error("fault", exc_info=RuntimeError(KEY))
        logging.getLogger("grpc._cython.cygrpc").error("Invalid encoding on %s", TOKEN.encode())
        loop = asyncio.get_running_loop()
        loop.call_exception_handler({"message": "lost", "exception": RuntimeError(SECRET.decode())})
        loop.call_exception_handler({"message": "lost", "handle": KEY})
    shown += [written.getvalue(), *(body.decode(errors="replace") for body in receiver.bodies)]
    assert "internal error" in written.getvalue()
    assert "RuntimeError" in written.getvalue()
    assert "someone" in written.getvalue()
    assert "Invalid encoding on" in written.getvalue()
    assert "lost" in written.getvalue()
    assert len(receiver.spans) > 20
    assert any("imagecall_items_total" in text for text in shown)
    everything = "\n".join(shown)
    for secret in (KEY, TOKEN, SECRET.decode(), encoded[:40], base64.b64encode(SECRET).decode()):
        assert secret not in everything
    if form == "json":
        lines = [json.loads(line) for line in written.getvalue().splitlines()]
        assert all(line["time"] and line["level"] for line in lines)
        faults = [line for line in lines if line["message"].startswith("internal error")]
        assert faults
        assert all(line["request_id"] for line in faults)
