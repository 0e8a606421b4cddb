"""The first call: an image of any size, reassembled from its chunks."""

# README: begin
import hashlib
from typing import Any

import betterproto
from grpclib.client import Channel

from imagecall.v1 import betterproto as imagecall


async def stream_image(
    client: imagecall.ImageGenerationServiceStub, request: imagecall.ImageRequest
) -> tuple[bytes, imagecall.StreamEnd]:
    """The image, and the end of the stream. Raises grpclib.GRPCError."""
    value, image = bytearray(), b""
    part: Any
    async for response in client.stream_image(imagecall.StreamImageRequest(request=request)):
        name, part = betterproto.which_one_of(response, "part")
        if name == "end":
            return image, part
        if name != "chunk":
            continue  # an event reports progress
        if part.offset != len(value):
            raise ValueError("a chunk is lost")
        value += part.data
        if end := part.end:
            if (end.size, end.sha256) != (len(value), hashlib.sha256(value).digest()):
                raise ValueError("the chunks are damaged")
            if end.final_image:  # not a partial image, nor another large value
                image = bytes(value)
            value.clear()
    raise ValueError("the stream has no end")


async def draw_fox(host: str, port: int) -> bytes:
    async with Channel(host, port) as channel:
        client = imagecall.ImageGenerationServiceStub(channel, timeout=120)
        image, _ = await stream_image(client, imagecall.ImageRequest("a red fox in the snow"))
        return image


# README: end
