"""Servers for the samples of each language: what a server may send in place of an image."""

import asyncio
from base64 import b64encode
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from imagecall.conformance.session import STREAM
from tests import golden_streams
from tests.conformance.faulty import Faulty
from tests.conformance.kinds import DETAILS, fails, stream
from tests.conformance.mistakes import MISTAKES

_SECONDS: Final = 60
_DETAILS: Final[tuple[Message, ...]] = (
    ErrorInfo(reason="UPSTREAM_RATE_LIMITED", domain="imagecall"),
    BadRequest(field_violations=[BadRequest.FieldViolation(field="/model")]),
    RetryInfo(retry_delay=Duration(seconds=3)),
)
_BUSY: Final = "the API answered 429"
_LARGE: Final = 4_000_000


def _golden(name: str) -> Faulty:
    return stream(lambda parts: list(golden_streams.read(name)))


def _busy() -> Faulty:
    """Refuses each stream with all three details."""
    details = [Packed() for _ in _DETAILS]
    for packed, detail in zip(details, _DETAILS, strict=True):
        packed.Pack(detail)
    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    status = Status(code=code.value[0], message=_BUSY, details=details).SerializeToString()
    faulty = fails(code, _BUSY, lambda method, _: method == STREAM)
    refuse = faulty.on_request
    faulty.on_request = lambda method, request: (
        (code, _BUSY, ((DETAILS, status),)) if refuse(method, request) else None
    )
    return faulty


REFUSED: Final[dict[str, tuple[Faulty, tuple[str, ...]]]] = {
    "a response that failed": (
        _golden("failed"),
        ("no image", "FAILED", "the request asked for a failure"),
    ),
    "a response that is incomplete": (
        _golden("incomplete"),
        ("no image", "INCOMPLETE", "max_output_tokens"),
    ),
    "a text in place of an image": (
        _golden("no_image"),
        ("no image", "COMPLETED", "No image was drawn"),
    ),
    "no final image": (MISTAKES["not_final"][1], ("no image", "COMPLETED")),
    "a chunk that is missing": (MISTAKES["gap"][1], ("a chunk is lost",)),
    "chunks without an end": (MISTAKES["no_chunk_end"][1], ("a chunk is lost",)),
    "another size": (MISTAKES["size"][1], ("the value is damaged",)),
    "another digest": (MISTAKES["digest"][1], ("the value is damaged",)),
    "no end": (MISTAKES["no_end"][1], ("the stream has no end",)),
    "an error with details": (
        _busy(),
        (_BUSY, "reason UPSTREAM_RATE_LIMITED", "at /model", "retry after 3 s"),
    ),
}
"""Answers of a server without an image, and words in the sentence that `draw` then prints."""

LINES: Final = (
    b'{"type":"image_generation_call","id":"ig_0","result":"aGk="}\n'
    b'{"type":"image_generation_call","id":"\xff"}\n'
    b'{"type":"image_generation_call","id":5}\n'
    b'{"type":"image_generation_call","id":"ig_3","result":"%s"}\n' % b64encode(bytes(_LARGE))
)
"""Items, one of them with a bad byte, one with a wrong type, and one that is answered in chunks."""

CONVERTED: Final = [
    "0: ig_0, 2 bytes",
    "1: NOT_UTF8 at /id: the text is not UTF-8 at byte 38",
    '2: WRONG_TYPE at /id: "id" must be a string, not a number',
    f"3: ig_3, {_LARGE} bytes",
]


@dataclass
class Damaged(Faulty):
    """A server whose streams are damaged, and then hang.

    The check of its health waits until the client has cancelled the last stream.
    """

    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.messages = MISTAKES["gap"][1].messages
        self.last = self._hang
        self.before = self._wait

    async def handle(self, method: str, requests: Any, context: Any) -> None:
        """Answers a call. By itself, no stream ends."""
        try:
            await super().handle(method, requests, context)
        finally:
            if method == STREAM:
                self.cancelled.set()

    async def _hang(self, method: str) -> None:
        if method == STREAM:
            await asyncio.sleep(_SECONDS)

    async def _wait(self, method: str) -> None:
        if method == STREAM:
            self.cancelled.clear()
        elif "Health" in method:
            await asyncio.wait_for(self.cancelled.wait(), 10)
