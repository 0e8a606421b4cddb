"""Converts the items of a file, a line each: python convert.py ADDRESS FILE"""

# README: begin
import asyncio
import sys
from collections.abc import Iterable

from client import connect, convert_lines, explain

from imagecall.v1 import betterproto as imagecall


async def convert(address: str, lines: Iterable[bytes]) -> None:
    async with connect(address) as channel:
        client = imagecall.ConversionServiceStub(channel)
        async for result in convert_lines(client, lines):
            report(result)


def report(result: imagecall.ConversionResult) -> None:
    match result:
        case imagecall.ConversionResult(error=error):
            print(f"{result.index}: {error.reason.name} at {error.pointer}: {error.message}")
        case imagecall.ConversionResult(call=item):
            call = item.output_image_generation_call
            print(f"{result.index}: {call.id}, {len(call.result.image)} bytes")


try:
    with open(sys.argv[2], "rb") as file:
        asyncio.run(convert(sys.argv[1], file))
except Exception as error:  # of the call, of its chunks, or of the file
    sys.exit(explain(error))
# README: end
