"""What a backend says, as parts of the answer to StreamImage."""

import secrets
from collections.abc import Collection, Iterator
from typing import Final

from imagecall.backends import Part
from imagecall.chunks import Piece
from imagecall.large_values import take_out
from imagecall.serialized import put_in
from imagecall.v1.chunk_pb2 import Chunk
from imagecall.v1.image_generation_service_pb2 import StreamEnd, StreamImageResponse
from imagecall.v1.stream_event_pb2 import StreamEvent

_MARKER: Final = secrets.token_hex(16)


def chunk_part(piece: Piece) -> bytes:
    """A chunk as a part of an answer, serialized: there is one copy of its data, not three."""
    data = _MARKER.encode() if piece.data else b""
    part = StreamImageResponse(chunk=Chunk(offset=piece.offset, data=data, end=piece.end))
    return put_in(part, {_MARKER: piece.data} if piece.data else {})


def in_parts(message: StreamEvent | StreamEnd, sent: Collection[str] = ()) -> Iterator[Part]:
    """An event or end as parts of an answer: chunks of what is large, then what is left of it.

    `sent` are the paths of images whose chunks have been given already.
    """
    for piece in take_out(message, sent):
        yield chunk_part(piece)
    if isinstance(message, StreamEvent):
        yield StreamImageResponse(event=message)
    else:
        yield StreamImageResponse(end=message)
