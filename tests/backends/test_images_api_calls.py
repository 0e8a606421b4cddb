"""The choice of the backend that calls an Images API, and its connections, headers and statuses."""

import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from imagecall.backends.choice import backend_from_uri
from imagecall.backends.images_api.backend import ImagesBackend
from imagecall.errors import REASONS_BY_HTTP_STATUS, GenerationError
from imagecall.generation.call_context import CALL, CallContext
from imagecall.observing.generation import provider_of
from imagecall.rpc.client_tls import ClientTls
from imagecall.rpc.headers import read_header
from imagecall.server.settings import ServerSettings, read_settings
from imagecall.v1.image_generation_service_pb2 import GenerateImageRequest
from imagecall.v1.image_request_pb2 import ImageRequest
from tests.images_api import B64, ImagesApi, images_api
from tests.streams import PNG
from tests.upstream import JSON

ANSWER = json.dumps({"created": 1, "data": [{"b64_json": B64}]}).encode()


@pytest.fixture
async def api() -> AsyncIterator[ImagesApi]:
    async with images_api() as server:
        server.say(ANSWER, content_type=JSON)
        yield server


async def generate(backend: Any) -> Any:
    request = GenerateImageRequest(request=ImageRequest(prompt="a fox"))
    try:
        return (await backend.generate_image(request)).response
    finally:
        await backend.close()


async def test_the_uri_of_an_images_api_has_images_before_the_url(api: ImagesApi) -> None:
    backend = backend_from_uri(f"images+{api.url}", "sk-1")
    assert isinstance(backend, ImagesBackend)
    [call] = (await generate(backend)).calls
    assert call.output_image_generation_call.result.image == PNG


@pytest.mark.parametrize(
    "uri", ["images+ftp://a/v1", "images+", "images+https://", "images:https://a", "images+a"]
)
def test_another_uri_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match=r"images\+https|base URL"):
        backend_from_uri(uri)


def test_tls_is_for_https_only() -> None:
    with pytest.raises(ValueError, match="has no TLS"):
        backend_from_uri("images+http://a/v1", tls=ClientTls(name="a"))
    backend_from_uri("images+https://a/v1", tls=ClientTls(name="a"))


def test_the_setting_that_fetches_images_is_off_by_default() -> None:
    assert not read_settings(ServerSettings, {}, {}).backend.fetch_images
    on = {"IMAGECALL_FETCH_IMAGES": "on"}
    assert read_settings(ServerSettings, {}, on).backend.fetch_images


def test_the_provider_of_an_images_api_is_that_of_its_host() -> None:
    for url in ("https://api.openai.com/v1", "https://openrouter.ai/api/v1", "http://a.test/v1"):
        assert provider_of(f"images+{url}") == provider_of(url)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("https://openrouter.ai/api/v1", "https://openrouter.ai/api/v1/images"),
        ("https://eu.openrouter.ai/api/v1", "https://eu.openrouter.ai/api/v1/images"),
        ("http://a.test/api/v1/images/", "http://a.test/api/v1/images"),
        ("https://notopenrouter.ai/v1", "https://notopenrouter.ai/v1/images/generations"),
        ("https://a.test/v1?api-version=1", "https://a.test/v1/images/generations?api-version=1"),
    ],
)
def test_the_form_of_openrouter_is_known_by_host_or_path(url: str, path: str) -> None:
    backend = ImagesBackend(url)
    urls = {endpoint.target.url for endpoint in backend._endpoints.values()}
    assert path in urls
    assert backend._is_openrouter is ("generations" not in path)


async def test_headers_of_the_backend_and_of_the_caller_are_sent(api: ImagesApi) -> None:
    headers = [read_header("X-Title: imagecall"), read_header("api-key: 0123456789abcdef0")]
    backend = ImagesBackend(api.url, headers=headers)
    CALL.set(CallContext(metadata=(("http-referer", "https://a.test"), ("cookie", "a=b"))))
    await generate(backend)
    [sent] = api.requests
    assert sent.headers["x-title"] == "imagecall"
    assert sent.headers["api-key"] == "0123456789abcdef0"
    assert sent.headers["http-referer"] == "https://a.test"
    assert "cookie" not in sent.headers


async def test_a_compressed_answer_is_read(api: ImagesApi) -> None:
    api.say(gzip.compress(ANSWER), content_type=JSON, headers={"content-encoding": "gzip"})
    assert len((await generate(ImagesBackend(api.url))).calls) == 1


@pytest.mark.parametrize("status", REASONS_BY_HTTP_STATUS)
async def test_a_status_is_the_reason(api: ImagesApi, status: int) -> None:
    api.say(b'{"error":"no"}', status=status, content_type=JSON, headers={"retry-after": "7"})
    with pytest.raises(GenerationError) as failed:
        await generate(ImagesBackend(api.url))
    assert failed.value.reason == REASONS_BY_HTTP_STATUS[status]
    assert failed.value.retry_seconds == 7
    assert len(api.requests) == 1


@pytest.mark.parametrize("status", [204, 302])
async def test_no_images_api_answers_so(api: ImagesApi, status: int) -> None:
    api.say(status=status, headers={"location": "http://127.0.0.1:1/"})
    with pytest.raises(GenerationError) as failed:
        await generate(ImagesBackend(api.url))
    assert failed.value.reason == "UPSTREAM_NOT_UNDERSTOOD"


async def test_no_connection_costs_nothing(api: ImagesApi) -> None:
    with pytest.raises(GenerationError) as failed:
        await generate(ImagesBackend("http://127.0.0.1:1/v1"))
    assert (failed.value.reason, failed.value.may_be_billed) == ("UPSTREAM_UNREACHABLE", False)
