"""The files of tests/cases, and how each is read and written."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from google.protobuf.message import Message

import imagecall
from imagecall.v1.image_generation_tool_pb2 import Tool
from imagecall.v1.stream_event_pb2 import StreamEvent

ROOT: Final = Path(__file__).parent / "cases"


@dataclass(frozen=True)
class Case:
    """A JSON text that is accepted, and how it is read and written."""

    path: Path
    message_class: type[Message]
    read: Callable[[bytes], Any]
    write: Callable[[Any], bytes]

    @property
    def text(self) -> bytes:
        return self.path.read_bytes()

    @property
    def golden(self) -> Path:
        return self.path.with_suffix(".binpb")


@dataclass(frozen=True)
class Refusal:
    """A text or message that is refused, and what is expected of its error."""

    path: Path
    reason: str
    pointer: str
    options: dict[str, Any]


def cases() -> Iterator[Case]:
    for path in sorted(ROOT.glob("items/*/*.json")):
        read: Callable[[bytes], Any] = partial(imagecall.from_json, variant=path.parent.name)
        yield Case(path, imagecall.ImageGenerationCall, read, imagecall.to_json)
    for path in sorted(ROOT.glob("documents/*/*.json")):
        kind: Any = path.parent.name
        read = partial(imagecall.document_from_json, kind=kind)
        yield Case(path, imagecall.Document, read, imagecall.document_to_json)
    for path in sorted(ROOT.glob("events/*.json")):
        yield Case(path, StreamEvent, imagecall.event_from_json, imagecall.event_to_json)
    for path in sorted(ROOT.glob("tools/*.json")):
        yield Case(path, Tool, imagecall.tool_from_json, imagecall.tool_to_json)


def refusals(directory: str, suffix: str) -> Iterator[Refusal]:
    for path in sorted((ROOT / directory).glob("*.expected.json")):
        expected = json.loads(path.read_text())
        subject = path.with_name(path.name.removesuffix(".expected.json") + suffix)
        yield Refusal(subject, expected.pop("reason"), expected.pop("pointer"), expected)


def named(found: Iterator[Any]) -> list[Any]:
    """As arguments of pytest.mark.parametrize, with the path as the name."""
    return [pytest.param(one, id=str(one.path.relative_to(ROOT))) for one in found]


CASES: Final = named(cases())
ITEMS: Final = named(case for case in cases() if "items" in case.path.parts)
DOCUMENTS: Final = named(case for case in cases() if "documents" in case.path.parts)
REFUSED_JSON: Final = named(refusals("refused_json", ".json"))
REFUSED_MESSAGES: Final = named(refusals("refused_messages", ".txtpb"))


def main() -> None:
    """Writes the golden messages anew."""
    for case in cases():
        message = case.read(case.text)
        case.golden.write_bytes(message.SerializeToString(deterministic=True))


if __name__ == "__main__":
    main()
