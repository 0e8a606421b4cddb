"""Request ids."""

import json
from typing import Any

import aiohttp
import grpc
import pytest

from imagecall.backends.responses_api.backend import HttpBackend
from imagecall.v1 import conversion_service_pb2 as pb
from imagecall.v1.conversion_service_pb2_grpc import ConversionServiceStub
from imagecall.v1.image_generation_service_pb2_grpc import ImageGenerationServiceStub
from tests.doors.test_generation import AN_IMAGE
from tests.observing.servers import grpc_door, http_door
from tests.streams import item, response
from tests.upstream import JSON, upstream


@pytest.mark.parametrize("sent", ["", "with space", "é", "x" * 129, "a\tb"])
async def test_a_request_id_that_is_not_sane_is_replaced(sent: str) -> None:
    async with upstream() as api, http_door(HttpBackend(api.url)) as door:
        api.say(json.dumps(response(item())).encode(), content_type=JSON)
        async with (
            aiohttp.ClientSession() as session,
            session.post(
                f"{door}/v1/responses", json={"input": "x"}, headers={"x-request-id": sent}
            ) as answer,
        ):
            made = answer.headers["x-request-id"]
    assert len(made) == 32
    assert api.requests[0].headers["x-request-id"] == made


async def test_with_everything_off_images_still_have_a_request_id() -> None:
    async with (
        upstream() as api,
        grpc_door(HttpBackend(api.url)) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        api.say(json.dumps(response(item())).encode(), content_type=JSON)
        stub: Any = ImageGenerationServiceStub(channel)
        call = stub.GenerateImage(AN_IMAGE, metadata=(("x-request-id", "r-2"),))
        await call
        trailers: Any = await call.trailing_metadata()
        assert dict(trailers)["x-request-id"] == "r-2"
        assert api.requests[0].headers["x-request-id"] == "r-2"
        conversions: Any = ConversionServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await conversions.ParseCall(pb.ParseCallRequest(), metadata=(("x-request-id", "r-3"),))
        trailers = caught.value.trailing_metadata()
        assert dict(trailers)["x-request-id"] == "r-3"
