"""Rules of the messages of an answer: their order, their sizes, and the chunks of values."""

from collections.abc import AsyncIterator
from typing import Final

from imagecall.conformance.answer import sentence_of
from imagecall.conformance.rule import Check, Finding, Rule
from imagecall.conformance.session import Session, Skipped


def _check_of(name: str, sentence: str) -> Check:
    """Check of a rule whose faults generation.checked_answer finds."""

    async def check(session: Session) -> AsyncIterator[Finding]:
        hidden = set()
        answers = await session.answers()
        for answer in answers:
            fault = answer.fault
            if fault is not None and (fault.rule or "json") == name:
                yield Finding(f"{answer.name}: {sentence_of(fault)}", sentence)
                return
            if fault is not None:
                hidden.add(fault.rule or "json")
        if len(hidden) and all(answer.fault for answer in answers):
            raise Skipped(f"hidden by the fault of {', '.join(sorted(hidden))}")

    return check


_FAULTS: Final = (
    (
        "message-part",
        "each message of a stream has one part: a chunk, an event or the end",
        "StreamImageResponse.part",
    ),
    (
        "message-size",
        "no message of a stream is larger than 4 MiB",
        "ImageGenerationService.StreamImage",
    ),
    ("end", "a stream has one StreamEnd, as its last message", "StreamImageResponse.end"),
    (
        "json",
        "every response, event and document converts to JSON",
        "ImageGenerationService",
    ),
    (
        "chunk-order",
        "chunks come in order, without a gap, and none is empty unless the value is",
        "Chunk.offset",
    ),
    ("chunk-end", "the last chunk of a value, and only the last, has an end", "Chunk.end"),
    ("chunk-size", "the end has the size of the whole value", "ChunkEnd.size"),
    ("chunk-digest", "the end has the SHA-256 digest of the whole value", "ChunkEnd.sha256"),
    (
        "chunk-field",
        "the end names a field of the next event that is set and empty, each field once",
        "ChunkEnd.field",
    ),
    (
        "chunk-value",
        "an image comes in chunks before its event, where its field is set and empty",
        "StreamImageResponse",
    ),
    ("chunk-text", "chunks of a text are UTF-8", "StreamImageResponse"),
    (
        "media-type",
        "the end of an image has the media type that its first bytes show",
        "ChunkEnd.media_type",
    ),
    (
        "final-image",
        "final_image is true for the image of an OutputItemDoneEvent, and for nothing else",
        "ChunkEnd.final_image",
    ),
    (
        "document",
        "a document has every image call of the response",
        "ImageResponse.document",
    ),
)


async def _status(session: Session) -> AsyncIterator[Finding]:
    for answer in await session.streams():
        if not answer.has_status:
            limit = session.settings.status_seconds
            yield Finding(
                f"{answer.name}: no status within {limit:g} s of the end",
                "the status, directly after the end",
            )


RULES: Final = (
    *(Rule(name, sentence, place, _check_of(name, sentence)) for name, sentence, place in _FAULTS),
    Rule("status", "the status of a stream follows its end", "StreamImageResponse.end", _status),
)
