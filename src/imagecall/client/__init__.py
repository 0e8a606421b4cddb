"""Clients of a server: ImageClient, whose calls block the thread, and AsyncImageClient for asyncio.

>>> client = ImageClient("127.0.0.1:50051")
>>> result = client.generate("a red fox in the snow", save_to="fox.png")  # doctest: +SKIP

Both have the same methods. A client connects at its first call, so that a module can create one
before an event loop runs, or before a process forks. Threads share an ImageClient; event loops
share an AsyncImageClient. Calls past `max_calls` wait in the queue of the client.

With TLS, and a certificate of the client's own:

>>> files = ClientTls(ca="ca.pem", cert="client.pem", key="client.key")
>>> client = ImageClient("grpcs://images.example:50051", tls=files)  # doctest: +SKIP
"""

from imagecall.client.aio import AsyncImageClient
from imagecall.client.blocking import ImageClient
from imagecall.client.collection import FailedGeneration, Generation
from imagecall.client.events import Image, ImageEvent
from imagecall.client.settings import SERVICE_CONFIG
from imagecall.rpc.client_tls import ClientTls

__all__ = [
    "SERVICE_CONFIG",
    "AsyncImageClient",
    "ClientTls",
    "FailedGeneration",
    "Generation",
    "Image",
    "ImageClient",
    "ImageEvent",
]
