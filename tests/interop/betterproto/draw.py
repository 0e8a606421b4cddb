"""Draws a fox: python draw.py ADDRESS FILE"""

# README: begin
import asyncio
import sys
from pathlib import Path

from client import connect, explain, stream_image

from imagecall.v1 import betterproto as imagecall


async def draw(address: str) -> bytes:
    async with connect(address) as channel:
        client = imagecall.ImageGenerationServiceStub(channel, timeout=120)
        return await stream_image(client, imagecall.ImageRequest(prompt="a red fox in the snow"))


try:
    Path(sys.argv[2]).write_bytes(asyncio.run(draw(sys.argv[1])))
except Exception as error:  # of the call, of its chunks, or of the file
    sys.exit(explain(error))
# README: end
