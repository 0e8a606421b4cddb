"""Calls of the HTTP door to the backend."""

import time
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing

from starlette.requests import Request

from imagecall.access.admission import Admission
from imagecall.access.budget import counted
from imagecall.doors.http.event_stream import Arrived
from imagecall.generation.assembly import ImagesApart, reassemble, size_of_part
from imagecall.generation.backend import Backend, WholeAnswer
from imagecall.generation.call_context import CALL, CallContext
from imagecall.generation.stored_responses import stored_responses_of
from imagecall.rpc.headers import AUTHORIZATION, forwarded, lower
from imagecall.v1.image_generation_service_pb2 import (
    GenerateImageRequest,
    GenerateImageResponse,
    StreamImageRequest,
)


class Calls:
    """Calls to a backend, within the limits of an admission.

    Args:
        backend: generates images.
        admission: has the limits.
        forward_headers: names of the headers of a caller that a backend may forward.

    Attributes:
        stored: responses that the backend stores.
    """

    def __init__(
        self, backend: Backend, admission: Admission, forward_headers: Collection[str]
    ) -> None:
        self._backend = backend
        self.stored = stored_responses_of(backend)
        self.admission = admission
        # The token of this server is not for the upstream API.
        self._forward = lower(forward_headers) - (
            {AUTHORIZATION} if admission.needs_token else set()
        )

    def begin(self, request: Request, size: int) -> None:
        """Sets the context of the calls of a request: its size, deadline and forwarded headers."""
        connection = ",".join(request.headers.getlist("connection"))  # RFC 9110, section 7.6.1.
        names = self._forward - {name.strip().lower() for name in connection.split(",")}
        seconds = self.admission.limits.call_seconds
        deadline = time.monotonic() + seconds
        metadata = forwarded(request.headers.items(), names)
        CALL.set(CallContext(metadata, deadline, request_bytes=size))

    async def generate(self, request: GenerateImageRequest) -> WholeAnswer[GenerateImageResponse]:
        """Returns the answer of the backend."""
        return WholeAnswer.of(await self._backend.generate_image(request))

    async def stream(self, request: StreamImageRequest) -> AsyncGenerator[Arrived, None]:
        """Yields the events and the end of the backend's stream."""
        large = ImagesApart()
        async with aclosing(self._backend.stream_image(request)) as parts:
            limit = self.admission.limits.image_bytes
            async for item in reassemble(counted(parts, size_of_part), limit, large.keep):
                yield Arrived(item, large.take())
