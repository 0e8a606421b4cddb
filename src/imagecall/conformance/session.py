"""Session with the server under check: requests, the budget of images, answers that rules share."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import grpc

from imagecall.conformance.answer import PlainAnswer, StreamAnswer
from imagecall.rpc.handshake import call_error
from imagecall.rpc.status import error_of, is_not_sent
from imagecall.v1 import image_generation_service_pb2 as pb
from imagecall.v1.extra_field_pb2 import ExtraField
from imagecall.v1.image_generation_tool_pb2 import ImageGenerationTool, Tool
from imagecall.v1.image_request_pb2 import ImageRequest

SERVICE: Final = "imagecall.v1.ImageGenerationService"
CONVERSION: Final = "imagecall.v1.ConversionService"
STREAM: Final = f"/{SERVICE}/StreamImage"
PLAIN: Final = f"/{SERVICE}/GenerateImage"
_END_OF_STREAM: Final = pb.StreamImageResponse.DESCRIPTOR.fields_by_name["end"].number


class Skipped(Exception):
    """Reason that a rule was not checked, as a phrase."""


@dataclass(frozen=True)
class CheckSettings:
    """Settings of a check.

    Attributes:
        max_images: most images that the suite asks for.
        prompt: description of the images.
        model: model that answers. "": the default of the server.
        size: size of the images. "": the default of the server.
        quality: quality of the images. "": the default of the server.
        extra: further keys of each request, with the raw JSON text of their values.
        slow: keys with which an image takes several seconds.
        tolerance: seconds within which a deadline and a cancellation take effect.
        status_seconds: longest wait for the status after the end of a stream.
        timeout: longest time of a call in seconds.
    """

    max_images: int = 200
    prompt: str = "a red fox in the snow"
    model: str = ""
    size: str = ""
    quality: str = ""
    extra: Sequence[tuple[str, str]] = ()
    slow: Sequence[tuple[str, str]] = ()
    tolerance: float = 0.1
    status_seconds: float = 5.0
    timeout: float = 300.0


@dataclass
class Session:
    """Calls of the suite to one server.

    Attributes:
        channel: channel to the server.
        settings: settings of the check.
        metadata: metadata of each call.
        target: HOST:PORT, for sentences.
        tls: True if the channel has TLS.
        images: number of images that the suite has asked for.
    """

    channel: grpc.aio.Channel
    settings: CheckSettings = field(default_factory=CheckSettings)
    metadata: tuple[tuple[str, str], ...] = ()
    target: str = ""
    tls: bool = False
    images: int = 0
    _streams: list[StreamAnswer] | None = None
    _plain: PlainAnswer | None = None
    _refusals: list[tuple[str, grpc.aio.AioRpcError | None]] | None = None

    def spend(self, images: int) -> None:
        """Counts images before they are asked for. Raises Skipped past the limit."""
        left = self.settings.max_images - self.images
        if images > left:
            raise Skipped(f"it needs {images} images, and --max-images leaves {left}")
        self.images += images

    def request(
        self, *, partial_images: int = 0, slow: bool = False, **fields: Any
    ) -> ImageRequest:
        """Makes a request for one image."""
        wanted = self.settings
        tool = ImageGenerationTool()
        if wanted.size:
            tool.size = wanted.size
        if wanted.quality:
            tool.quality = wanted.quality
        if partial_images:
            tool.partial_images = partial_images
        keys = [*wanted.extra, *(wanted.slow if slow else ())]
        extra = [ExtraField(name=name, json=json) for name, json in keys]
        base: dict[str, Any] = {"prompt": wanted.prompt, "model": wanted.model}
        return ImageRequest(
            tools=[Tool(image_generation_tool=tool)], extra_fields=extra, **(base | fields)
        )

    def unary(self, method: str, request: bytes) -> Any:
        """Calls a unary method with serialized messages."""
        call: Any = self.channel.unary_unary(method)
        return call(request, metadata=self.metadata, timeout=self.settings.timeout)

    def server_stream(self, method: str, request: bytes) -> Any:
        """Calls a method that answers with a stream, with serialized messages."""
        call: Any = self.channel.unary_stream(method)
        return call(request, metadata=self.metadata, timeout=self.settings.timeout)

    def bidirectional(self, method: str, requests: Any) -> Any:
        """Calls a method with a stream in both directions, with serialized messages."""
        call: Any = self.channel.stream_stream(method)
        return call(requests, metadata=self.metadata, timeout=self.settings.timeout)

    async def streams(self) -> list[StreamAnswer]:
        """The answers that the rules of streams share: to a door's request, and to a client's."""
        if self._streams is None:
            self.spend(1)
            whole = StreamAnswer("StreamImage with partial images", 2, True)
            flags = dict.fromkeys(("include_document", "include_other_events", "calls_once"), True)
            await self._fill(whole, flags)
            self._streams = [whole]
            with suppress(Skipped):
                self.spend(1)
                short = StreamAnswer("StreamImage")
                await self._fill(short, {})
                self._streams.append(short)
        return self._answered(self._streams)

    async def plain(self) -> PlainAnswer:
        """The answer to GenerateImage that rules share."""
        if self._plain is None:
            self.spend(1)
            request = pb.GenerateImageRequest(
                request=self.request(), include_document=True, calls_once=True
            )
            self._plain = PlainAnswer("GenerateImage")
            try:
                self._plain.message = await self.unary(PLAIN, request.SerializeToString())
            except grpc.aio.AioRpcError as error:
                self._plain.error = error_of(error)
        self._answered([self._plain])
        return self._plain

    async def answers(self) -> list[StreamAnswer | PlainAnswer]:
        """The answers of both methods, those that came. Raises Skipped if none did."""
        answers: list[StreamAnswer | PlainAnswer] = []
        reason = Skipped("no image may be asked for")
        for method in (self.streams, self.plain):
            try:
                part: Any = await method()
                answers += part if isinstance(part, list) else [part]
            except Skipped as skipped:
                reason = skipped
        if not answers:
            raise reason
        return answers

    @staticmethod
    def _answered(answers: list[Any]) -> list[Any]:
        """The answers of calls that did not fail. Raises Skipped if all failed."""
        answered = [answer for answer in answers if answer.error is None]
        if not answered:
            error = answers[0].error
            raise Skipped(f"{answers[0].name} failed: {error.code}: {error}")
        return answered

    async def failures(self) -> list[StreamAnswer | PlainAnswer]:
        """The ordinary requests that failed. Raises Skipped if none could be made."""
        with suppress(Skipped):
            await self.streams()
        with suppress(Skipped):
            await self.plain()
        known: list[Any] = [*(self._streams or ()), *([self._plain] if self._plain else ())]
        if not known:
            raise Skipped("no image may be asked for")
        return [answer for answer in known if answer.error is not None]

    async def _fill(self, answer: StreamAnswer, flags: dict[str, bool]) -> None:
        image = self.request(partial_images=answer.partial_images)
        await self.fill(answer, pb.StreamImageRequest(request=image, **flags))

    async def fill(self, answer: StreamAnswer, request: pb.StreamImageRequest) -> None:
        """Fills an answer with the messages and the status of a call."""
        begin = time.monotonic()
        call = self.server_stream(STREAM, request.SerializeToString())
        try:
            await self._read_all(call, answer)
        except grpc.aio.AioRpcError as error:
            answer.error = error_of(error)
        finally:
            call.cancel()
            answer.seconds = time.monotonic() - begin

    async def _read_all(self, call: Any, answer: StreamAnswer) -> None:
        ended = False
        while True:
            try:
                async with asyncio.timeout(self.settings.status_seconds if ended else None):
                    message = await call.read()
            except TimeoutError:
                return
            if message is grpc.aio.EOF:
                answer.has_status = True
                return
            answer.messages.append(message)
            ended = ended or _is_end(message)

    async def refusals(self) -> list[tuple[str, grpc.aio.AioRpcError | None]]:
        """Requests that a server refuses, each with its status; None if it was fulfilled."""
        if self._refusals is None:
            self._refusals = [
                (name, await self.status_of(method, self._blank(kind)))
                for name, method, kind in (
                    ("a blank prompt to GenerateImage", PLAIN, pb.GenerateImageRequest),
                    ("a blank prompt to StreamImage", STREAM, pb.StreamImageRequest),
                )
            ]
        return self._refusals

    async def status_of(self, method: str, request: bytes) -> grpc.aio.AioRpcError | None:
        """Failure of a call; None if the call succeeds."""
        call = self.server_stream(method, request)  # The same on the wire for a unary method.
        try:
            while await call.read() is not grpc.aio.EOF:
                pass
        except grpc.aio.AioRpcError as error:
            return error
        finally:
            call.cancel()
        return None

    async def connect(self) -> None:
        """Connects. Raises GenerationError if the server cannot be reached, or requires a token."""
        error = await self.status_of(PLAIN, self._blank(pb.GenerateImageRequest))
        if error is not None and (
            is_not_sent(error.details() or "") or error.code() is grpc.StatusCode.UNAUTHENTICATED
        ):
            raise call_error(error, self.target, tls=self.tls)

    def _blank(self, kind: type[Any]) -> bytes:
        """Request with a blank prompt, serialized."""
        serialized: bytes = kind(request=self.request(prompt=" \n")).SerializeToString()
        return serialized


def _is_end(message: bytes) -> bool:
    """True for a serialized message with the end of a stream, by its first tag."""
    return bool(message) and message[0] >> 3 == _END_OF_STREAM
