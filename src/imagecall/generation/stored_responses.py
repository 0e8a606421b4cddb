"""Interface of a backend that stores responses, such as those that it generates in the background.

A stored response costs nothing to get, to cancel or to delete, so each call may be repeated.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol, TypeAlias, runtime_checkable

from imagecall.errors import ConversionError, GenerationError, pointer_to, quoted
from imagecall.generation.backend import Backend, UnaryAnswer
from imagecall.v1.image_generation_service_pb2 import (
    CancelImageResponseRequest,
    CancelImageResponseResponse,
    DeleteImageResponseRequest,
    DeleteImageResponseResponse,
    GetImageResponseRequest,
    GetImageResponseResponse,
)

OfStored: TypeAlias = (
    GetImageResponseRequest | CancelImageResponseRequest | DeleteImageResponseRequest
)
"""Request that concerns a stored response."""

_ID: Final = re.compile(r"[A-Za-z0-9_=+:~-]{1,1024}")
"""Identifier that cannot change the path of an URL: without a slash, a dot, and a percent sign."""

_NOTHING_STORED: Final = (
    "the backend stores no responses: only a Responses API has them, or a gRPC backend that "
    "implements GetImageResponse"
)


@runtime_checkable
class StoredResponses(Protocol):
    """Storage of responses.

    The methods behave as the methods of ImageGenerationService in
    proto/imagecall/v1/image_generation_service.proto, and raise ImagecallError.
    """

    async def get_image_response(
        self, request: GetImageResponseRequest
    ) -> UnaryAnswer[GetImageResponseResponse]:
        """Returns a response as it is now."""

    async def cancel_image_response(
        self, request: CancelImageResponseRequest
    ) -> UnaryAnswer[CancelImageResponseResponse]:
        """Cancels a response that is generated in the background."""

    async def delete_image_response(
        self, request: DeleteImageResponseRequest
    ) -> DeleteImageResponseResponse:
        """Deletes a response."""


class _NothingStored:
    """Storage of a backend without stored responses: refuses every call."""

    async def get_image_response(
        self, request: GetImageResponseRequest
    ) -> UnaryAnswer[GetImageResponseResponse]:
        raise nothing_stored()

    async def cancel_image_response(
        self, request: CancelImageResponseRequest
    ) -> UnaryAnswer[CancelImageResponseResponse]:
        raise nothing_stored()

    async def delete_image_response(
        self, request: DeleteImageResponseRequest
    ) -> DeleteImageResponseResponse:
        raise nothing_stored()


def stored_responses_of(backend: Backend) -> StoredResponses:
    """Returns the storage of a backend; without one, a storage that refuses every call."""
    return backend if isinstance(backend, StoredResponses) else _NothingStored()


def nothing_stored() -> ConversionError:
    """Returns the error for a call to a backend without stored responses."""
    return ConversionError("NO_STORED_RESPONSES", "", _NOTHING_STORED)


def checked_id(name: str) -> str:
    """Returns the identifier of a response. Raises ConversionError (UNSUPPORTED)."""
    if not _ID.fullmatch(name):
        text = (
            f'the id {quoted(name)} must be 1 to 1,024 letters, digits and characters of "-_=+:~"'
        )
        raise ConversionError("UNSUPPORTED", pointer_to("id"), text)
    return name


@contextmanager
def costs_nothing() -> Iterator[None]:
    """Marks a failure of a call that no API bills, so that the call may be repeated."""
    try:
        yield
    except GenerationError as error:
        error.may_be_billed = False
        raise
