"""List of the models at the HTTP door, with the SDK of OpenAI."""

from pathlib import Path

import openai
import pytest

from imagecall.access.admission import Admission
from imagecall.access.tokens import Tokens
from imagecall.backends.embedded.backend import EmbeddedBackend
from imagecall.doors.http.models import MODELS_PATHS
from imagecall.server.run import listed_models, shown_name
from imagecall.server.settings import ServerSettings, read_settings
from tests.doors.test_http import door_before, sdk

NAMES = ("gpt-image-1", "openai/gpt-5-image")


async def test_the_sdk_lists_the_models_and_retrieves_each() -> None:
    async with (
        door_before(EmbeddedBackend(), models=NAMES) as address,
        sdk(address) as client,
    ):
        models = [model async for model in await client.models.list()]
        assert [model.id for model in models] == list(NAMES)
        for model in models:
            assert await client.models.retrieve(model.id) == model
        with pytest.raises(openai.NotFoundError, match='there is no model "other"'):
            await client.models.retrieve("other")


@pytest.mark.parametrize("path", MODELS_PATHS)
async def test_the_models_need_a_token_where_calls_need_one(path: str, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("me secret-token-of-mine\n")
    admission = Admission(tokens=Tokens(tmp_path / "tokens"))
    async with door_before(EmbeddedBackend(), admission=admission, models=NAMES) as address:
        url = f"http://{address}{path.removesuffix('/models')}"
        async with openai.AsyncOpenAI(base_url=url, api_key="wrong", max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError):
                await client.models.list()
            with pytest.raises(openai.AuthenticationError):
                await client.models.retrieve(NAMES[0])
        key = "secret-token-of-mine"
        async with openai.AsyncOpenAI(base_url=url, api_key=key) as client:
            assert (await client.models.retrieve(NAMES[1])).id == NAMES[1]


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({}, ["imagecall-test-card"]),
        ({"listed_model": list(NAMES)}, list(NAMES)),
        ({"main_model": "gpt-5"}, ["gpt-5"]),
        ({"backend": "https://api.example/v1"}, []),
    ],
)
def test_the_models_are_those_of_the_settings(
    settings: dict[str, object], names: list[str]
) -> None:
    assert list(listed_models(read_settings(ServerSettings, settings, {}))) == names


@pytest.mark.parametrize(
    ("backend", "shown"),
    [
        ("embedded", "embedded"),
        ("https://me:secret@api.example:8443/v1?key=secret", "https://api.example:8443/v1"),
        ("grpc://[::1]:50051", "grpc://[::1]:50051"),
        ("package.module:Backend", "package.module:Backend"),
    ],
)
def test_the_name_of_a_backend_shows_no_secret(backend: str, shown: str) -> None:
    assert shown_name(backend) == shown
