"""Web pages of other origins, which may call the HTTP door if a setting names their origin."""

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from imagecall.access.admission import Admission
from imagecall.access.origins import read_origin
from imagecall.access.tokens import Tokens
from imagecall.backends.embedded.backend import EmbeddedBackend
from tests.doors.test_http import door_before

ORIGIN = "https://app.example.com"
OTHER = "https://other.example.com"
PATH = "/v1/images/generations"


@pytest.fixture
async def door() -> AsyncIterator[str]:
    """A door of this machine only, without tokens."""
    admission = Admission(local=True)
    async with door_before(
        EmbeddedBackend(), admission=admission, cors_origins=[ORIGIN]
    ) as address:
        yield f"http://{address}"


async def test_a_page_of_a_named_origin_may_call_and_read_the_answer(door: str) -> None:
    body = {"prompt": "a fox", "size": "64x64"}
    async with (
        aiohttp.ClientSession(headers={"origin": ORIGIN}) as session,
        session.post(door + PATH, json=body) as answer,
    ):
        assert answer.status == 200
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        exposed = answer.headers["access-control-expose-headers"]
        assert set(exposed.split(", ")) == {"x-request-id", "retry-after", "x-should-retry"}


async def test_it_reads_the_error_of_a_faulty_request_too(door: str) -> None:
    async with (
        aiohttp.ClientSession(headers={"origin": ORIGIN}) as session,
        session.post(door + PATH, json={}) as answer,
    ):
        assert answer.status == 400
        assert answer.headers["access-control-allow-origin"] == ORIGIN


async def test_a_preflight_is_answered_without_a_token(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("me secret-token-of-mine\n")
    admission = Admission(tokens=Tokens(tmp_path / "tokens"))
    headers = {
        "origin": ORIGIN,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization, content-type, x-stainless-lang",
    }
    async with (
        door_before(EmbeddedBackend(), admission=admission, cors_origins=[ORIGIN]) as address,
        aiohttp.ClientSession(headers=headers) as session,
    ):
        async with session.options(f"http://{address}{PATH}") as answer:
            assert answer.status == 200
            assert answer.headers["access-control-allow-origin"] == ORIGIN
            allowed = answer.headers["access-control-allow-headers"]
            assert "x-stainless-lang" in allowed
        async with session.post(f"http://{address}{PATH}", json={}) as answer:
            assert answer.status == 401
            assert answer.headers["access-control-allow-origin"] == ORIGIN


async def test_a_page_of_another_origin_may_not(door: str) -> None:
    preflight = {"access-control-request-method": "POST"}
    async with aiohttp.ClientSession(headers={"origin": OTHER}) as session:
        async with session.options(door + PATH, headers=preflight) as answer:
            assert answer.status == 400
            assert "access-control-allow-origin" not in answer.headers
        async with session.post(door + PATH, json={"prompt": "a"}) as answer:
            assert answer.status == 403
            assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    ("origin", "status"),
    [(None, 200), (ORIGIN, 200), ("own", 200), (OTHER, 403), ("null", 403), ("http://[", 403)],
)
async def test_a_form_of_another_site_is_refused_as_browsers_send_forms_without_a_preflight(
    origin: str | None, status: int
) -> None:
    async with door_before(EmbeddedBackend(), cors_origins=[ORIGIN]) as address:
        headers = {"origin": f"http://{address}" if origin == "own" else origin} if origin else {}
        data = aiohttp.FormData({"prompt": "a", "size": "64x64"})
        data.add_field("image", b"an image", filename="a.png")
        url = f"http://{address}/v1/images/edits"
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.post(url, data=data) as answer,
        ):
            assert answer.status == status


async def test_without_the_setting_no_page_may() -> None:
    async with (
        door_before(EmbeddedBackend()) as address,
        aiohttp.ClientSession(headers={"origin": ORIGIN}) as session,
        session.get(f"http://{address}/health") as answer,
    ):
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://app.example.com", "https://app.example.com"),
        ("HTTP://LOCALHOST:3000", "http://localhost:3000"),
        ("http://[::1]:80", "http://[::1]:80"),
    ],
)
def test_an_origin_is_a_scheme_and_a_host(text: str, origin: str) -> None:
    assert read_origin(text) == origin


@pytest.mark.parametrize(
    "text",
    ["*", "https://*.example.com", "app.example.com", "https://a/", "https://a/b", "https://",
     "file:///a", "null", "https://me@a", "https://a:99999", "http://[", "https://a?b"],
)  # fmt: skip
def test_another_text_is_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match="is not an origin"):
        read_origin(text)
