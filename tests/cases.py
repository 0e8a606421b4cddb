"""The files of tests/cases, and how each is read and written."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from google.protobuf import json_format
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

    @property
    def expected(self) -> Path:
        return self.path.with_suffix(".expected.json")


@dataclass(frozen=True)
class Refusal:
    """A text or message that is refused, and what is expected of its error."""

    path: Path
    reason: str
    pointer: str
    options: dict[str, Any]


def _texts(pattern: str) -> list[Path]:
    found = ROOT.glob(pattern)
    return sorted(path for path in found if not path.name.endswith(".expected.json"))


def cases() -> Iterator[Case]:
    for path in _texts("items/*/*.json"):
        read: Callable[[bytes], Any] = partial(imagecall.from_json, variant=path.parent.name)
        yield Case(path, imagecall.ImageGenerationCall, read, imagecall.to_json)
    for path in _texts("documents/*/*.json"):
        kind: Any = path.parent.name
        read = partial(imagecall.document_from_json, kind=kind)
        yield Case(path, imagecall.Document, read, imagecall.document_to_json)
    for path in _texts("events/*.json"):
        yield Case(path, StreamEvent, imagecall.event_from_json, imagecall.event_to_json)
    for path in _texts("tools/*.json"):
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


def newer() -> dict[str, Message]:
    """Messages of a newer schema, with fields and values that this one does not have."""
    number, text = b"\xa0\x38\x96\x01", b"\xaa\x38\x05later"  # 900: 150, 901: "later"
    wide = b"\xb1\x38" + bytes(range(8)) + b"\xbd\x38" + bytes(range(4))  # 902 and 903, fixed
    item = imagecall.from_json('{"type":"image_generation_call","id":"ig_1","result":"aGk="}')
    item.output_image_generation_call.MergeFromString(number + text + wide)
    item.output_image_generation_call.result.MergeFromString(text)
    status = imagecall.from_json('{"type":"image_generation_call","id":"ig_1"}')
    status.output_image_generation_call.MergeFromString(b"\x18\x63")  # status (3): 99
    return {
        "fields": item,
        "status": status,
        "variant": imagecall.ImageGenerationCall.FromString(b"\xa2\x38\x06\x0a\x04ig_1"),
        "event": StreamEvent.FromString(text),
        "tool": Tool.FromString(text + wide),
    }


def expected(message: Message) -> str:
    """Returns the expectation for every language: a message's type, and its fields in ProtoJSON."""
    fields = json_format.MessageToDict(message)
    seen = {"message": message.DESCRIPTOR.full_name, "fields": fields}
    return json.dumps(seen, indent=1, ensure_ascii=False) + "\n"


def names() -> list[str]:
    """The cases that have a message: their paths without the suffix."""
    return sorted(str(path.relative_to(ROOT))[:-6] for path in ROOT.rglob("*.binpb"))


def _files() -> Iterator[tuple[Path, bytes]]:
    """Yields the files beside the JSON, and the messages of a newer schema."""
    found = [(case.path.with_suffix(""), case.read(case.text)) for case in cases()]
    found += [(ROOT / "newer" / name, message) for name, message in newer().items()]
    for path, message in found:
        yield path.with_suffix(".binpb"), message.SerializeToString(deterministic=True)
        yield path.with_suffix(".expected.json"), expected(message).encode()


def write_missing() -> list[Path]:
    """Writes the files that are not there; returns their paths."""
    missing = [(path, data) for path, data in _files() if not path.exists()]
    for path, data in missing:
        path.write_bytes(data)
    return [path for path, _ in missing]


def main() -> None:
    """Writes the golden messages, and what is expected of them, anew."""
    for path, data in _files():
        path.write_bytes(data)


if __name__ == "__main__":
    main()
