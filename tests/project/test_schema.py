"""The schema: what must hold of the .proto files, and that code follows from them alone."""

import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from imagecall.conversion.converter import CALLS
from imagecall.conversion.fields import key_of, spellings
from imagecall.errors import CODES
from imagecall.v1 import (
    conversion_error_pb2,
    document_pb2,
    image_generation_call_pb2,
    image_generation_tool_pb2,
    stream_event_pb2,
)
from imagecall.v1.image_generation_status_pb2 import ImageGenerationStatus
from tests.cases import CASES, REFUSED_JSON, REFUSED_MESSAGES

REPOSITORY = Path(__file__).parents[2]
SEED_VARIANTS = [
    "InputImageGenerationCall1",
    "InputImageGenerationCall2",
    "InstructionsImageGenerationCall1",
    "InstructionsImageGenerationCall2",
    "OutputImageGenerationCall",
    "OpenResponsesInputItemImageGenerationCall",
    "OutputImageGenerationCallItem",
    "OutputImageGenerationServerToolItem",
    "UnknownItem",
]


def variant_fields() -> list[FieldDescriptor]:
    descriptor = image_generation_call_pb2.ImageGenerationCall.DESCRIPTOR
    return list(descriptor.oneofs_by_name["variant"].fields)


def test_every_type_is_a_variant_named_as_the_style_guide_wants() -> None:
    names = {
        field.message_type.name: field.name for field in variant_fields() if field.message_type
    }
    assert list(names)[: len(SEED_VARIANTS)] == SEED_VARIANTS  # Later ones may follow.
    for message, field in names.items():
        assert field == re.sub(r"(?<=[a-z])(?=[A-Z])", "_", message).lower()
    descriptor = image_generation_call_pb2.ImageGenerationCall.DESCRIPTOR
    assert len(descriptor.fields) == len(names)


def test_common_fields_have_one_number_and_type_in_every_variant() -> None:
    by_name = defaultdict(set)
    by_number = defaultdict(set)
    common = ("id", "result", "status", "unknown_status", "extra_fields")
    for variant in variant_fields():
        assert variant.message_type is not None
        for field in variant.message_type.fields:
            kind = field.message_type or field.enum_type
            by_name[field.name].add((field.number, field.type, kind and kind.full_name))
            by_number[field.number].add(field.name)
        if not CALLS.variants[variant.name].option.fallback:
            assert set(common) <= set(variant.message_type.fields_by_name)
    assert all(len(found) == 1 for found in by_name.values()), by_name
    assert all(len(found) == 1 for found in by_number.values()), by_number


def test_statuses_are_those_of_the_pages() -> None:
    assert spellings(ImageGenerationStatus.DESCRIPTOR) == {
        "in_progress": 1,
        "completed": 2,
        "generating": 3,
        "failed": 4,
    }


def test_every_reason_has_a_status_code_and_occurs_in_some_case() -> None:
    used = {param.values[0].reason for param in [*REFUSED_JSON, *REFUSED_MESSAGES]}
    upstream = {reason for reason in CODES if reason.startswith("UPSTREAM_")}
    tested_elsewhere = upstream | {
        "EMPTY_PROMPT",
        "UNSUPPORTED",
        "TOO_LARGE",
        "UNKNOWN_FIELD",
        "UNKNOWN_PROFILE",
        "NOT_REPLAYABLE",
        "MALFORMED_PROTOBUF",
        "CHUNKS_DAMAGED",
        "TOO_MANY_VALUES",
        "TOO_MANY_ITEMS",
        "TOO_MANY_CALLS",
        "TOKEN_REQUIRED",
        "CALL_TOO_LONG",
        "NO_STORED_RESPONSES",
    }
    assert used | tested_elsewhere == set(CODES)
    others = [p for p in Path(__file__).parents[1].rglob("test_*.py") if p != Path(__file__)]
    texts = "".join(path.read_text() for path in others)
    assert all(f'"{reason}"' in texts for reason in tested_elsewhere)
    assert not used & tested_elsewhere
    assert len(CODES) == len(conversion_error_pb2.ErrorReason.keys()) - 1


def test_every_field_of_every_convertible_message_occurs_in_some_case() -> None:
    seen: set[str] = set()
    for param in CASES:
        case = param.values[0]
        _collect(case.message_class.FromString(case.golden.read_bytes()), seen)
    wanted: set[str] = set()
    for root in (
        image_generation_call_pb2.ImageGenerationCall,
        stream_event_pb2.StreamEvent,
        image_generation_tool_pb2.Tool,
        document_pb2.Document,
    ):
        _reachable(root.DESCRIPTOR, wanted)
    in_answers_only = {
        f"imagecall.v1.DocumentCall.{name}" for name in ("call_index", "output_index")
    }
    assert wanted - seen == in_answers_only


def _collect(message: object, seen: set[str]) -> None:
    for field, value in message.ListFields():  # type: ignore[attr-defined]  # a message
        seen.add(field.full_name)
        for inner in value if field.is_repeated else [value]:
            if field.message_type is not None:
                _collect(inner, seen)


def _reachable(descriptor: Descriptor, found: set[str]) -> None:
    for field in descriptor.fields:
        if field.full_name not in found:
            found.add(field.full_name)
            if field.message_type is not None:
                _reachable(field.message_type, found)


def test_every_field_of_an_object_says_how_it_stands_in_json() -> None:
    for variant in variant_fields():
        assert variant.message_type is not None
        for field in variant.message_type.fields:
            assert key_of(field).name or key_of(field).role, field.full_name


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("rpc StreamImage(", "rpc StreamImages("),
        ("service ImageGenerationService ", "service ImageService "),
        ("string prompt = ", "string text = "),
        ("string prompt = 1", "string prompt = 999"),
    ],
)
def test_the_schema_may_not_lose_a_name_or_number(old: str, new: str, tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "proto", tmp_path / "proto")
    changed = 0
    for file in (tmp_path / "proto").rglob("*.proto"):
        text = file.read_text()
        changed += text.count(old)
        file.write_text(text.replace(old, new))
    assert changed
    command = ("buf", "breaking", tmp_path / "proto", "--against", REPOSITORY / "proto")
    assert subprocess.run(command, capture_output=True, check=False).returncode == 100


@pytest.mark.timeout(300)
@pytest.mark.toolchain  # The generators take some five seconds.
def test_a_made_up_variant_converts_with_no_change_to_python(tmp_path: Path) -> None:
    for name in ("proto", "src"):
        ignored = ("--exclude=__pycache__", "--exclude=*.egg-info")
        source = subprocess.run(
            ["tar", "-C", REPOSITORY, *ignored, "-c", name], check=True, capture_output=True
        )
        subprocess.run(["tar", "-C", tmp_path, "-x"], input=source.stdout, check=True)
    python = _python_files(tmp_path)
    directory = tmp_path / "proto/imagecall/v1"
    (directory / "sketch_call.proto").write_text(
        """
        syntax = "proto3";
        package imagecall.v1;
        import "imagecall/v1/extra_field.proto";
        import "imagecall/v1/image_result.proto";
        import "imagecall/v1/options.proto";
        message SketchCall {
          option (json_object).type = "sketch_call";
          optional string id = 1 [(json_key).name = "id", (json_key).required = true];
          repeated ExtraField extra_fields = 5 [(json_key).role = FIELD_ROLE_EXTRA_FIELDS];
          ImageResult drawing = 40 [(json_key).name = "theDrawing"];
          optional int64 strokes = 41 [(json_key).name = "strokes"];
          optional bool signed = 42 [(json_key).name = "signed"];
          optional double weight = 43 [(json_key).name = "weight"];
          optional uint32 pages = 44 [(json_key).name = "pages", (json_key).lenient = true];
          repeated string inks = 45 [(json_key).name = "inks", (json_key).lenient = true];
          repeated string pens = 46 [(json_key).name = "pens", (json_key).lenient = true];
        }
        """
    )
    union = directory / "image_generation_call.proto"
    text = union.read_text().replace(
        'import "imagecall/v1/unknown_item.proto";',
        'import "imagecall/v1/sketch_call.proto";\nimport "imagecall/v1/unknown_item.proto";',
    )
    union.write_text(text.replace("oneof variant {", "oneof variant {\n SketchCall sketch = 30;"))
    subprocess.run(
        [REPOSITORY / "scripts/generate", directory.parents[1], tmp_path / "src/imagecall/v1"],
        check=True,
    )
    assert _python_files(tmp_path) == python
    program = """if True:
        import imagecall
        text = (b'{"type":"sketch_call","id":"a","theDrawing":"aGk=","strokes":-9007199254740993,'
                b'"signed":false,"weight":0.1,"inks":["red",""],"pages":-1,"pens":[],"x":1.0}')
        call = imagecall.from_json(text)
        assert call.sketch.drawing.image == b"hi" and not call.sketch.HasField("pages"), call
        assert call.sketch.inks == ["red", ""] and not call.sketch.pens, call
        assert call.sketch.strokes == -9007199254740993 and call.sketch.HasField("signed"), call
        assert imagecall.to_json(call) == text, imagecall.to_json(call)
        assert imagecall.view(call).type == "sketch_call"
        for bad, pointer in ((b'{"type":"sketch_call","id":"a","strokes":1.5}', "/strokes"),
                             (b'{"type":"sketch_call","id":"a","weight":1e-1}', "/weight"),
                             (b'{"type":"sketch_call","id":"a","signed":0}', "/signed"),
                             (b'{"type":"sketch_call"}', "/id")):
            try:
                imagecall.from_json(bad, variant="sketch", profile=imagecall.Profile.STRICT)
            except imagecall.ConversionError as error:
                assert error.pointer == pointer, error.pointer
            else:
                raise AssertionError(bad)
        response = '{"output":[{"type":"sketch_call","id":"b"}]}'
        document = imagecall.document_from_json(response, kind="response")
        assert document.calls[0].call.sketch.id == "b"
        assert imagecall.document_to_json(document).decode() == response
        print("converted", imagecall.__file__)
    """
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "src")}
    run = [sys.executable, "-c", program]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.startswith(f"converted {tmp_path}"), done.stderr


def _python_files(root: Path) -> dict[Path, str]:
    """The hand-written Python files and their content."""
    files = (root / "src/imagecall").rglob("*.py")
    return {file: file.read_text() for file in files if "v1" not in file.parts}
