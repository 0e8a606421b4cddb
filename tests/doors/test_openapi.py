"""Description of the HTTP door in OpenAPI."""

import json
from typing import Any

import aiohttp
import pytest
from openapi_spec_validator import validate
from starlette.applications import Starlette
from starlette.routing import Mount, Route

from imagecall.access.admission import Admission
from imagecall.backends.embedded.backend import EmbeddedBackend
from imagecall.doors.http import openapi
from imagecall.doors.http.app import http_app
from imagecall.generation.images_api import SETTINGS
from tests.doors.test_http import door_before


async def description(**options: Any) -> Any:
    async with (
        door_before(EmbeddedBackend(), **options) as address,
        aiohttp.ClientSession() as session,
        session.get(f"http://{address}/openapi.json") as answer,
    ):
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
        return await answer.json()


async def test_the_description_passes_a_validator() -> None:
    validate(await description())


async def test_the_description_has_every_route() -> None:
    app = http_app(EmbeddedBackend())
    routes = {route.path.replace(":path}", "}") for route in app.routes if isinstance(route, Route)}
    assert set((await description())["paths"]) == routes


async def test_the_request_for_images_has_every_setting_of_the_schema() -> None:
    schemas = (await description())["components"]["schemas"]
    for name in ("ImagesRequest", "ImagesForm"):
        assert set(schemas[name]["properties"]) > {*SETTINGS, "prompt", "n", "stream", "mask"}


@pytest.mark.parametrize("needs_token", [False, True])
def test_the_description_shows_that_calls_need_a_token(needs_token: bool) -> None:
    assert ("security" in json.loads(openapi.description([], needs_token))) == needs_token


async def test_a_mounted_app_describes_itself() -> None:
    app = Starlette(routes=[Mount("/imagecall", http_app(EmbeddedBackend(), Admission()))])
    async with (
        door_before(EmbeddedBackend(), app=app) as address,
        aiohttp.ClientSession() as session,
        session.get(f"http://{address}/imagecall/openapi.json") as answer,
    ):
        assert "/v1/images/generations" in (await answer.json())["paths"]
