"""Backend that calls another server of the schema: in another cluster, or of another team.

Answers are checked, and passed on as the received bytes. The caller's metadata and deadline are
forwarded; the metadata of the answer and the whole status of a failure are returned. "[key]"
replaces the token of this server in answers that quote it.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, Final, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from imagecall.access.budget import COPIES, MEMORY
from imagecall.access.limits import Limits
from imagecall.backends.grpc.channels import Channels
from imagecall.backends.grpc.errors import error_of_status
from imagecall.backends.masking import MaskedStream, masked, masked_errors, masked_message
from imagecall.backends.secret_words import has_secret, secrets_of
from imagecall.errors import GenerationError, damaged_answer
from imagecall.generation.backend import Part, WholeAnswer, WithResponse
from imagecall.generation.call_context import CALL
from imagecall.generation.checked_answer import (
    BACKEND,
    AnswerLimits,
    CheckedStream,
    checked_response,
)
from imagecall.generation.offload import run_offloaded
from imagecall.generation.response import ForResponse
from imagecall.generation.stored_responses import (
    OfStored,
    checked_id,
    costs_nothing,
    nothing_stored,
)
from imagecall.json.text import MAX_BYTES
from imagecall.observing.observer import ClientCall, client_call
from imagecall.observing.operations import rpc_called
from imagecall.rpc.addresses import ServerAddress
from imagecall.rpc.channel import bearer
from imagecall.rpc.client_tls import WITHOUT_FILES, ClientTls
from imagecall.rpc.headers import Header, Metadata, by_name, check_metadata_name
from imagecall.rpc.status import error_of, passed_on
from imagecall.v1.image_generation_service_pb2 import (
    DESCRIPTOR,
    CancelImageResponseRequest,
    CancelImageResponseResponse,
    DeleteImageResponseRequest,
    DeleteImageResponseResponse,
    GenerateImageRequest,
    GenerateImageResponse,
    GetImageResponseRequest,
    GetImageResponseResponse,
    StreamImageRequest,
)

_T = TypeVar("_T")

IDLE_SECONDS: Final = 300.0
"""Longest silence of a backend: models draw for minutes."""

_STATUS_SECONDS: Final = 5.0
"""Longest wait for the status of a call after the end of its stream."""

_SERVICE: Final = f"/{DESCRIPTOR.services_by_name['ImageGenerationService'].full_name}"


class GrpcBackend:
    """Calls ImageGenerationService of another server.

    Args:
        address: address of the other server.
        token: bearer token for the other server, which replaces the caller's. "": no token.
        headers: metadata of each call, which replaces the caller's of the same names.
        tls: files for TLS, and the name of the certificate. After a change of the files, further
            calls go over new connections; calls in progress stay on theirs.
        idle_seconds: longest silence of the other server before a call fails.
        max_bytes: largest answer to GenerateImage, or text of a stream.
        max_image_bytes: largest image of a stream.

    Raises ValueError for a header that cannot be metadata, OSError for a faulty file of TLS.
    """

    def __init__(
        self,
        address: ServerAddress,
        token: str = "",
        headers: Sequence[Header] = (),
        *,
        tls: ClientTls = WITHOUT_FILES,
        idle_seconds: float = IDLE_SECONDS,
        max_bytes: int = MAX_BYTES,
        max_image_bytes: int = Limits.image_bytes,
    ) -> None:
        self._address = address
        own = by_name(headers, token)
        for name in own:
            check_metadata_name(name)
        self._own = {name: header.value for name, header in own.items()} | dict(bearer(token))
        self._secrets = secrets_of(token, headers)
        self._idle_seconds = idle_seconds
        self._limits = AnswerLimits(max_image_bytes, max_bytes)
        self._channels = Channels(address, tls, self._limits)

    async def generate_image(
        self, request: GenerateImageRequest
    ) -> WholeAnswer[GenerateImageResponse]:
        return await self._unary(request, partial(self._response, GenerateImageResponse, request))

    async def stream_image(self, request: StreamImageRequest) -> AsyncGenerator[Part, None]:
        method: Any = self._channels.next().unary_stream(
            f"{_SERVICE}/StreamImage", request_serializer=StreamImageRequest.SerializeToString
        )
        stream = CheckedStream(self._limits, calls_once=request.calls_once)
        answer = MaskedStream(self._secrets)
        with self._observed("StreamImage") as observed, self._failures(stream):
            call = method(request, **self._options(observed))
            try:
                await self._take_initial(call)
                while (part := await self._next(call, stream)) is not grpc.aio.EOF:
                    checked = await run_offloaded(stream.text_bytes, stream.check, part)
                    for masked_part in answer.mask(checked):
                        yield masked_part
                await self._take_trailing(call)
            finally:
                call.cancel()
            stream.finish()

    async def get_image_response(
        self, request: GetImageResponseRequest
    ) -> WholeAnswer[GetImageResponseResponse]:
        return await self._stored(
            request, partial(self._response, GetImageResponseResponse, request)
        )

    async def cancel_image_response(
        self, request: CancelImageResponseRequest
    ) -> WholeAnswer[CancelImageResponseResponse]:
        return await self._stored(
            request, partial(self._response, CancelImageResponseResponse, request)
        )

    async def delete_image_response(
        self, request: DeleteImageResponseRequest
    ) -> DeleteImageResponseResponse:
        return await self._stored(request, self._deletion)

    async def close(self) -> None:
        await self._channels.close()

    async def _unary(self, request: Message, read: Callable[[bytes], _T]) -> _T:
        """Calls the method of a request, and reads its answer."""
        name = request.DESCRIPTOR.name.removesuffix("Request")
        method: Any = self._channels.next().unary_unary(
            f"{_SERVICE}/{name}", request_serializer=type(request).SerializeToString
        )
        with self._observed(name) as observed, self._failures():
            call = method(request, **self._options(observed))
            try:
                await self._take_initial(call)
                answer: bytes | None = await self._in_time(call)
                await MEMORY.get().grow(COPIES * len(answer or b""))
                await self._take_trailing(call)
            finally:
                call.cancel()
            if answer is None:
                raise damaged_answer(f"it has no {name}Response", BACKEND)
            return await run_offloaded(len(answer), read, answer)

    async def _stored(self, request: OfStored, read: Callable[[bytes], _T]) -> _T:
        """Calls a method that concerns a stored response."""
        checked_id(request.id)
        try:
            with costs_nothing():
                return await self._unary(request, read)
        except GenerationError as error:
            if error.code == "UNIMPLEMENTED" and not error.reason:  # As generated code answers.
                raise nothing_stored() from None
            raise

    def _observed(self, method: str) -> AbstractContextManager[ClientCall]:
        return client_call(
            rpc_called(f"{_SERVICE.removeprefix('/')}/{method}", self._address.target)
        )

    def _options(self, observed: ClientCall) -> dict[str, Any]:
        context = CALL.get()
        own = self._own | observed.headers
        forwarded = [(key, value) for key, value in context.metadata if key not in own]
        return {"metadata": [*forwarded, *own.items()] or None, "timeout": context.seconds_left}

    async def _next(self, call: Any, stream: CheckedStream) -> Any:
        """Reads the next message of a stream, or its end."""
        seconds = _STATUS_SECONDS if stream.ended else self._idle_seconds
        return await self._in_time(call.read(), min(seconds, self._idle_seconds))

    async def _in_time(self, work: Awaitable[_T], seconds: float | None = None) -> _T:
        """Awaits an answer of the backend. Raises GenerationError: UPSTREAM_TIMEOUT."""
        try:
            async with asyncio.timeout(self._idle_seconds if seconds is None else seconds):
                return await work
        except TimeoutError:
            message = f"the {BACKEND} was silent for too long"
            raise GenerationError("UPSTREAM_TIMEOUT", message, may_be_billed=True) from None

    async def _take_initial(self, call: Any) -> None:
        """Awaits the initial metadata, which a door may pass on."""
        metadata = await self._in_time(call.initial_metadata())
        if (answer := CALL.get().answer) is not None:
            answer.initial = self._metadata(metadata)

    async def _take_trailing(self, call: Any) -> None:
        if (answer := CALL.get().answer) is not None:
            answer.trailing = self._metadata(await call.trailing_metadata())

    def _metadata(self, metadata: Any) -> Metadata:
        return tuple((name, masked(value, self._secrets)) for name, value in passed_on(metadata))

    def _response(
        self, kind: type[WithResponse], request: ForResponse, serialized: bytes
    ) -> WholeAnswer[WithResponse]:
        answer = checked_response(kind, serialized, self._limits, calls_once=request.calls_once)
        if has_secret(serialized, self._secrets):
            return WholeAnswer(masked_message(answer.whole(), self._secrets))
        return answer

    def _deletion(self, serialized: bytes) -> DeleteImageResponseResponse:
        try:
            answer = DeleteImageResponseResponse.FromString(serialized)
        except DecodeError:
            raise damaged_answer("it is no DeleteImageResponseResponse", BACKEND) from None
        return masked_message(answer, self._secrets)

    @contextmanager
    def _failures(self, stream: CheckedStream | None = None) -> Iterator[None]:
        """Turns gRPC errors into ImagecallErrors, and masks the secrets in every error."""
        with masked_errors(self._secrets):
            try:
                yield
            except grpc.RpcError as error:
                failure = error_of(error)
                if not failure.status:
                    failure = error_of_status(failure, self._limits, stream, tls=self._address.tls)
                if stream and stream.has_parts and isinstance(failure, GenerationError):
                    failure.may_be_billed = True
                raise failure from None
