"""Both clients, called alike by a test."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias

from imagecall.client import AsyncImageClient, ImageClient

AnyClient: TypeAlias = ImageClient | AsyncImageClient

CLIENTS: Final[tuple[type[AnyClient], ...]] = (ImageClient, AsyncImageClient)


@asynccontextmanager
async def opened(client: AnyClient) -> AsyncIterator[AnyClient]:
    """A client, closed at the end."""
    try:
        yield client
    finally:
        await called(client, "close")


async def called(client: AnyClient, method: str, *arguments: Any, **options: Any) -> Any:
    """Calls a method of a client, the blocking one in a thread; returns a list for an iterator."""
    if isinstance(client, ImageClient):
        return await asyncio.to_thread(_called, client, method, *arguments, **options)
    result = getattr(client, method)(*arguments, **options)
    return [each async for each in result] if hasattr(result, "__anext__") else await result


def _called(client: ImageClient, method: str, *arguments: Any, **options: Any) -> Any:
    result = getattr(client, method)(*arguments, **options)
    return list(result) if isinstance(result, Iterator) else result
