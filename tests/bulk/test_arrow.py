"""`imagecall.bulk`: columns of Arrow to messages and back, a row for each row."""

import hashlib
import json
import pickle
import re
import subprocess
import sys
from base64 import b64encode
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import imagecall
from imagecall import bulk
from imagecall.conversion.converter import Profile
from tests.bulk.command import JPEG, PNG, batch_response, item, response
from tests.json_value import json_value

LARGE = PNG + bytes(range(256)) * 4000
RECORDS = [
    item("a"),
    item("b", LARGE),
    item(None, None, status="new_status"),
    {"type": "openrouter:image_generation", "imageB64": b64encode(JPEG).decode()},
    {"type": "message", "content": []},
    response(item("c")),
    batch_response(response(item("d"))),
]
TEXTS = [json.dumps(each) for each in RECORDS]
BROKEN = ["{", None, '{"type":"image_generation_call","id":5}']
TYPES = [pa.string(), pa.large_string(), pa.binary(), pa.large_binary()]


def batch(texts: Sequence[str | None], type: pa.DataType = TYPES[0]) -> pa.RecordBatch:
    column = pa.array(texts, pa.string()).cast(type)
    return pa.RecordBatch.from_arrays([pa.array(range(len(texts))), column], ["key", "json"])


@pytest.mark.parametrize("type", TYPES, ids=str)
def test_rows_go_to_messages_and_back(type: pa.DataType) -> None:
    calls = bulk.calls_from_json(batch([*TEXTS, *BROKEN], type), keep=["key"])
    assert calls["key"].to_pylist() == [*range(10)]
    assert calls["reason"].to_pylist() == [None] * 7 + ["NOT_JSON", "NO_VALUE", "WRONG_TYPE"]
    assert calls["pointer"].to_pylist()[-1] == "/id"
    assert calls["call"].to_pylist()[:5] == [
        imagecall.serialized_from_json(text) for text in TEXTS[:5]
    ]
    assert [each is None for each in calls["document"].to_pylist()] == [True] * 5 + [False] * 2 + [
        True
    ] * 3
    calls.validate(full=True)
    texts = bulk.json_from_calls(calls, keep=["key"])
    texts.validate(full=True)
    assert texts["key"].to_pylist() == [*range(10)]
    assert [json_value(text) for text in texts["json"].to_pylist()[:7]] == [
        json_value(text) for text in TEXTS
    ]
    assert texts["reason"].to_pylist() == [None] * 7 + ["NO_VALUE"] * 3


def test_the_facts_of_an_item_are_columns() -> None:
    rows = bulk.calls_from_json(batch(TEXTS[:5])).to_pylist()
    names = ("id", "status", "format", "size", "sha256")
    assert [tuple(row[name] for name in names) for row in rows] == [
        ("a", "completed", "png", len(PNG), hashlib.sha256(PNG).hexdigest()),
        ("b", "completed", "png", len(LARGE), hashlib.sha256(LARGE).hexdigest()),
        (None, "new_status", None, None, None),
        (None, None, "jpeg", len(JPEG), hashlib.sha256(JPEG).hexdigest()),
        (None, None, None, None, None),
    ]


def test_the_image_of_a_message_is_a_view_if_it_is_large() -> None:
    column = bulk.calls_from_json(batch(TEXTS[:3]))["call"]
    images = [bulk.image_of(call) for call in column]
    assert images == [PNG, LARGE, None]
    assert isinstance(images[1], memoryview)


def test_a_slice_and_an_empty_batch_are_converted() -> None:
    sliced = batch([*TEXTS, *BROKEN]).slice(1, 8)
    calls = bulk.calls_from_json(sliced, keep=["key"]).slice(1, 6)
    assert bulk.json_from_calls(calls)["reason"].to_pylist() == [None] * 5 + ["NO_VALUE"]
    empty = bulk.calls_from_json(sliced.slice(0, 0))
    assert (empty.num_rows, bulk.json_from_calls(empty).num_rows) == (0, 0)


def test_the_functions_are_picklable_with_their_options() -> None:
    function: Any = partial(bulk.calls_from_json, profile=Profile.STRICT, kind="item")
    function = pickle.loads(pickle.dumps(function))
    assert function(batch(TEXTS[:3]))["reason"].to_pylist() == [None, None, "MISSING_KEY"]


def test_a_faulty_use_is_an_error() -> None:
    rows = batch(TEXTS[:1])
    with pytest.raises(KeyError):
        bulk.calls_from_json(rows, "missing")
    with pytest.raises(TypeError, match="the column must be of text or bytes, not int64"):
        bulk.calls_from_json(rows, "key")
    with pytest.raises(ValueError, match="columns of its own named id"):
        bulk.calls_from_json(rows.rename_columns(["id", "json"]), keep=["id"])


def test_a_column_over_the_limit_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imagecall.bulk.columns._MAX_COLUMN_BYTES", 1000)
    with pytest.raises(ValueError, match="make batches smaller"):
        bulk.calls_from_json(batch(TEXTS[:1] * 20))


def test_the_program_of_the_guide_runs() -> None:
    guide = Path(bulk.__file__).with_name("README.md").read_text()
    [program] = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    first, second = done.stdout.splitlines()
    assert f"# {first}\n" in program
    assert second == str(['{"type":"image_generation_call","id":"ig_1"}', None])


def test_images_go_to_a_filesystem_under_their_digests(tmp_path: Path) -> None:
    calls = bulk.calls_from_json(batch([*TEXTS, *BROKEN]))
    for _ in range(2):
        bulk.save_images(calls, f"file://{tmp_path}/images")
    images = {path.name: path.read_bytes() for path in (tmp_path / "images").iterdir()}
    endings = {PNG: "png", LARGE: "png", JPEG: "jpeg"}
    assert images == {
        f"{hashlib.sha256(image).hexdigest()}.{ending}": image for image, ending in endings.items()
    }
