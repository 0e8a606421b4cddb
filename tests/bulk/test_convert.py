"""`imagecall convert` of many records: every kind of input, and back to the same values."""

import contextlib
import hashlib
import io
import itertools
import json
import os
import signal
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.protobuf.proto import parse_length_prefixed

import imagecall
from imagecall.bulk.parquet import read_parquet
from imagecall.v1.document_kind_pb2 import DocumentKind
from tests.bulk.command import (
    PNG,
    batch_response,
    event,
    item,
    lines,
    response,
    rows,
    run,
    sse,
)
from tests.commands.command import COMMAND
from tests.commands.command import run as run_process
from tests.json_value import json_value

ITEMS = [
    item("a"),
    item("b", PNG + bytes(300_000), size="auto", other={"deep": [1.50, "x"]}),
    item(None, None, status="new_status"),
    {"type": "openrouter:image_generation", "status": "completed", "imageB64": "aGk="},
    {"type": "message", "content": []},
]
SMALL = [each for each in ITEMS if each.get("id") != "b"]
DOCUMENTS = [
    response(item("a"), {"type": "message"}, item("b", PNG + bytes(300_000))),
    {"model": "m", "input": "a fox"},
    event("created", response=response()),
    batch_response(response(item("c"))),
    {"custom_id": "1", "method": "POST", "body": {"input": [item("d")]}},
]


def values(text: bytes) -> list[Any]:
    return [json_value(line) for line in text.splitlines() if line.strip()]


def messages(path: Path, message_class: Any) -> list[Any]:
    file = io.BytesIO(path.read_bytes())
    return list(iter(lambda: parse_length_prefixed(message_class, file), None))


@pytest.mark.parametrize("jobs", ["1", "2"])
@pytest.mark.parametrize("records", [ITEMS, DOCUMENTS], ids=["items", "documents"])
def test_lines_go_to_protobuf_and_back(records: list[Any], jobs: str, tmp_path: Path) -> None:
    text = lines(*records * 30)
    (tmp_path / "in.jsonl").write_bytes(text)
    command = [*COMMAND, "convert", "--jobs", jobs, "in.jsonl", "-o", "out.binpb"]
    there = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    assert b"150 converted, 0 refused" in there.stderr
    back = run("convert", "--lines", tmp_path / "out.binpb", "-o", tmp_path / "back.jsonl")
    assert back.code == 0
    assert values((tmp_path / "back.jsonl").read_bytes()) == values(text)


def test_items_are_calls_and_everything_else_is_a_document(tmp_path: Path) -> None:
    for name, records in (("items", ITEMS), ("documents", DOCUMENTS)):
        (tmp_path / name).write_bytes(lines(*records))
        run("convert", "--lines", tmp_path / name, "-o", tmp_path / f"{name}.binpb")
    calls = messages(tmp_path / "items.binpb", imagecall.ImageGenerationCall)
    assert [call.SerializeToString() for call in calls] == [
        imagecall.serialized_from_json(json.dumps(each)) for each in ITEMS
    ]
    documents = messages(tmp_path / "documents.binpb", imagecall.Document)
    kinds = [DocumentKind.Name(each.kind).removeprefix("DOCUMENT_KIND_") for each in documents]
    assert kinds == ["RESPONSE", "REQUEST", "EVENT", "BATCH_RESPONSE", "BATCH_REQUEST"]


def test_a_file_has_one_message_and_the_others_are_faults(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(lines(b"{", item("a"), response(), item("b")))
    report = tmp_path / "report"
    done = run("convert", "--lines", tmp_path / "in", "-o", tmp_path / "out", "--errors", report)
    assert done.code == 3
    assert [(row["line"], row["reason"]) for row in rows(report)] == [
        (1, "NOT_JSON"),
        (3, "OTHER_MESSAGE"),
    ]
    assert len(messages(tmp_path / "out", imagecall.ImageGenerationCall)) == 2


def test_a_stream_and_a_document_become_lines(tmp_path: Path) -> None:
    events = [event("created", response=response()), event("output_item.done", item=item())]
    (tmp_path / "a.sse").write_bytes(sse(*events))
    (tmp_path / "b.json").write_text(json.dumps(response(item()), indent=2))
    run("convert", tmp_path / "a.sse", tmp_path / "b.json", "-o", tmp_path / "out.jsonl")
    text = (tmp_path / "out.jsonl").read_bytes()
    assert values(text) == [json_value(json.dumps(each)) for each in [*events, response(item())]]


def test_a_folder_becomes_a_folder_and_is_resumed(tmp_path: Path) -> None:
    for name in ("a.jsonl", "deep/b.jsonl", "deep/b.json"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(lines(item(name)))
    options: list[str | Path] = [
        "convert",
        tmp_path / "in",
        "-o",
        tmp_path / "out",
        "--skip-existing",
    ]
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.binpb").write_bytes(b"from before")
    done = run(*options)
    assert (done.code, "2 converted, 0 refused, 1 files skipped" in done.err) == (0, True)
    names = [
        str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.binpb")
    ]
    assert sorted(names) == ["a.binpb", "deep/b.json.binpb", "deep/b.jsonl.binpb"]
    assert (tmp_path / "out/a.binpb").read_bytes() == b"from before"
    again = run(*options)
    assert (again.code, "0 converted, 0 refused, 3 files skipped" in again.err) == (0, True)


def test_a_killed_run_leaves_no_output_that_a_resumed_one_would_skip(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "in")
    command = [*COMMAND, "convert", "--lines", "in", "-o", "out.binpb"]
    process = subprocess.Popen(command, cwd=tmp_path)
    with (tmp_path / "in").open("wb") as pipe:
        pipe.write(lines(item()) * 20_000)
        process.kill()
    process.wait()
    assert not (tmp_path / "out.binpb").exists()


NOTHING_TO_CONVERT: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "folder": Path.mkdir,
    "loop of links": lambda path: path.symlink_to(path),
    "unreadable": lambda path: path.symlink_to("/proc/self/mem"),
    "compressed": lambda path: path.write_bytes(b"\x1f\x8b\x08" + bytes(20)),
    "broken Parquet": lambda path: path.write_bytes(b"PAR1" + bytes(20) + b"PAR1"),
    "broken lines": lambda path: path.write_bytes(lines(b"{", b"[]")),
}
"""Inputs of which nothing is converted, each with the function that makes it."""


@pytest.mark.parametrize("target", ["jsonl", "binpb", "parquet"])
@pytest.mark.parametrize("kind", NOTHING_TO_CONVERT)
def test_an_input_that_gives_nothing_replaces_and_makes_no_output(
    kind: str, target: str, tmp_path: Path
) -> None:
    source = tmp_path / ("in.parquet" if "Parquet" in kind else "in.jsonl")
    NOTHING_TO_CONVERT[kind](source)
    there, new = tmp_path / f"there.{target}", tmp_path / f"new/new.{target}"
    there.write_bytes(b"from before")
    for output in (there, new):
        done = run("convert", "--lines", source, "-o", output)
        assert done.code == 1
        assert done.err
    assert there.read_bytes() == b"from before"
    assert not new.parent.exists()


def test_an_input_without_records_gives_an_empty_output(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").touch()
    (tmp_path / "out.binpb").write_bytes(b"from before")
    assert run("convert", tmp_path / "in.jsonl", "-o", tmp_path / "out.binpb").code == 0
    assert (tmp_path / "out.binpb").read_bytes() == b""


def test_inputs_that_give_nothing_do_not_stop_the_others(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(lines(item("a")))
    (tmp_path / "broken.jsonl").write_bytes(lines(b"{"))
    names = [tmp_path / name for name in ("no.jsonl", "broken.jsonl", "in.jsonl")]
    done = run("convert", *names[1:], "-o", tmp_path / "out.jsonl")
    assert (done.code, "1 converted, 1 refused" in done.err) == (3, True)
    assert rows(tmp_path / "out.jsonl") == [item("a")]
    (tmp_path / "out").mkdir()
    assert run("convert", *names, "-o", tmp_path / "out").code == 3
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["in.binpb"]


def cut_messages(path: Path) -> None:
    """Writes messages, of which the last is cut."""
    good = imagecall.serialized_from_json(json.dumps(item()))
    path.write_bytes((bytes([len(good)]) + good) * 3000 + good[:20])


def damaged_parquet(path: Path) -> None:
    """Writes Parquet with a row group that cannot be read."""
    schema = pa.schema([("json", pa.string())])
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=False) as writer:
        for count in (1500, 1000, 1500):
            writer.write_table(pa.table({"json": [json.dumps(item())] * count}, schema))
    data = bytearray(path.read_bytes())
    start = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    data[start : start + 200] = bytes(200)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "write"), [("in.binpb", cut_messages), ("in.parquet", damaged_parquet)]
)
def test_an_output_that_lacks_records_is_not_skipped_by_a_resumed_run(
    name: str, write: Callable[[Path], object], tmp_path: Path
) -> None:
    write(tmp_path / name)
    output = tmp_path / "out.jsonl"
    for _ in range(2):
        done = run("convert", tmp_path / name, "-o", output, "--skip-existing")
        assert done.code == 3
        assert f"{output} is not written" in done.err
        assert not output.exists()
        assert rows(tmp_path / "out.jsonl.partial") == [item()] * 3000
    output.write_bytes(b"from before")
    assert run("convert", tmp_path / name, "-o", output).code == 3
    assert output.read_bytes() == b"from before"


def test_an_input_that_is_missing_leaves_the_output_incomplete(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(lines(item("a")))
    for names in (["no.jsonl", "in.jsonl"], ["in.jsonl", "no.jsonl"]):
        done = run("convert", *(tmp_path / name for name in names), "-o", tmp_path / "out.jsonl")
        assert done.code == 3
        assert rows(tmp_path / "out.jsonl.partial") == [item("a")]
        assert not (tmp_path / "out.jsonl").exists()


def test_broken_lines_are_listed_and_the_rest_goes_on(tmp_path: Path) -> None:
    broken = itertools.cycle(
        [
            (b'{"type":"image_generation_call","id":5}', "/id", "WRONG_TYPE"),
            (b'{"type":"image_generation_call","id":"\xff"}', "/id", "NOT_UTF8"),
            (b'{"type":"image_generation_call","id":"a', "/id", "NOT_JSON"),
            (b"[]", "", "WRONG_TYPE"),
            (b"{}", "/type", "MISSING_KEY"),
        ]
    )
    faults, text = [], b"\xef\xbb\xbf"
    for number in range(1, 3001):
        if number % 10:
            text += lines(item(f"ig_{number}"))
        else:
            line, pointer, reason = next(broken)
            text += line + (b"\r\n" if number % 20 else b"\n")
            faults.append((number, pointer, reason))
    (tmp_path / "in.jsonl").write_bytes(text)
    report = tmp_path / "report.jsonl"
    output = tmp_path / "out.jsonl"
    done = run("convert", tmp_path / "in.jsonl", "-o", output, "--errors", report)
    assert done.code == 3
    assert "2,700 converted, 300 refused" in done.err
    assert done.err.count("\n") == 22  # 20 of them, the count of the others, and the summary
    assert [(row["line"], row["pointer"], row["reason"]) for row in rows(report)] == faults
    assert [value["id"] for value in rows(output)] == [f"ig_{n}" for n in range(1, 3001) if n % 10]


def test_damaged_messages_are_faults(tmp_path: Path) -> None:
    good = imagecall.serialized_from_json(json.dumps(item()))
    framed = bytes([len(good)]) + good
    wrong = b"\x03\xff\xff\xff"
    for data, code, numbers, reason in (
        (framed + wrong + framed, 3, [2], "MALFORMED_PROTOBUF"),
        (framed + framed[:-1], 3, [2], "UNREADABLE"),
        (framed + b"\xff\xff\xff\x7f" + framed, 3, [2, 2], "UNREADABLE"),
        (b"\xff" * 20, 1, [1], "UNREADABLE"),
        (b"", 0, [], ""),
    ):
        (tmp_path / "in").write_bytes(data)
        report = tmp_path / "report"
        options: list[str | Path] = [
            "--from",
            "binary",
            "-o",
            tmp_path / "out.jsonl",
            "--errors",
            report,
        ]
        assert run("convert", "--lines", tmp_path / "in", *options).code == code
        assert [row["line"] for row in rows(report)] == numbers
        assert [row["reason"] for row in rows(report)][-1:] == [reason] * bool(numbers)


def test_a_document_with_line_ends_in_it_is_one_line(tmp_path: Path) -> None:
    value = response(item(note={"a": [1, 2]}), {"type": "message", "text": "a\nb"})
    (tmp_path / "in.json").write_text(json.dumps(value, indent=2))
    done = run(
        "convert", "--lines", "--kind", "response", tmp_path / "in.json", "-o", tmp_path / "x"
    )
    assert done.code == 1  # With --lines, each line of it is a record.
    run("convert", tmp_path / "in.json", tmp_path / "in.json", "-o", tmp_path / "out.jsonl")
    assert rows(tmp_path / "out.jsonl") == [value, value]


def test_standard_input_and_output_are_used(tmp_path: Path) -> None:
    there = run_process("convert", "--lines", "--to", "binary", stdin=lines(*ITEMS))
    assert there.returncode == 0
    back = run_process("convert", "--lines", "--from", "binary", "-o", "-", stdin=there.stdout)
    assert values(back.stdout) == values(lines(*ITEMS))


def test_the_kind_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(lines({"tools": []}, response()))
    done = run("convert", "--lines", "--kind", "request", tmp_path / "in", "-o", tmp_path / "out")
    assert done.code == 0
    assert {each.kind for each in messages(tmp_path / "out", imagecall.Document)} == {1}


def test_the_profile_and_the_variant_hold_for_each_line(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(lines(item(None), item("a")))
    variant: list[str | Path] = ["--variant", "input_image_generation_call1", "--profile", "strict"]
    done = run("convert", "--lines", tmp_path / "in", *variant, "-o", tmp_path / "out")
    assert "in:1: MISSING_KEY at /id" in done.err
    [call] = messages(tmp_path / "out", imagecall.ImageGenerationCall)
    assert call.input_image_generation_call1.id == "a"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--lines", "--to", "text"],
        ["--lines", "--server", "127.0.0.1:1"],
        ["--skip-existing"],
        ["--jobs", "0"],
        ["--kind", "nothing"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    assert run("convert", *arguments).code == 2


def test_an_output_that_is_an_input_is_refused(tmp_path: Path) -> None:
    text = lines(item())
    (tmp_path / "in.jsonl").write_bytes(text)
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "in.jsonl")
    for output in ("in.jsonl", "link.jsonl"):
        done = run("convert", tmp_path / "in.jsonl", "-o", tmp_path / output)
        assert (done.code, "is both input and output" in done.err) == (1, True)
    done = run("convert", "--lines", "--to", "json", tmp_path / "in.jsonl", "-o", tmp_path)
    assert done.code == 1
    assert (tmp_path / "in.jsonl").read_bytes() == text


@pytest.mark.parametrize(
    ("command", "report"),
    [
        *itertools.product(["convert", "extract"], ["in.jsonl", "link", "hard link"]),
        *itertools.product(["convert"], ["out.binpb", "link to out"]),
    ],
)
def test_a_report_that_is_an_input_or_the_output_is_refused(
    command: str, report: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = lines(item(), b"{")
    (tmp_path / "in.jsonl").write_bytes(text)
    (tmp_path / "link").symlink_to(tmp_path / "in.jsonl")
    (tmp_path / "hard link").hardlink_to(tmp_path / "in.jsonl")
    (tmp_path / "link to out").symlink_to(tmp_path / "out.binpb")
    for source in ("in.jsonl", "."):
        options = ("-o", "out.binpb", "--errors", report)
        done = run(command, source, *options)
        assert (done.code, "would overwrite" in done.err) == (1, True)
        assert not (tmp_path / "out.binpb").exists()
    assert (tmp_path / "in.jsonl").read_bytes() == text


def test_standard_input_and_output_are_apart_from_the_report_and_each_other(
    tmp_path: Path,
) -> None:
    text = lines(item(), b"{")
    (tmp_path / "in.jsonl").write_bytes(text)
    for arguments, message in (
        (["--errors", "in.jsonl"], "would overwrite the input -"),
        (["--errors", "out"], "would overwrite the output"),
        (["-o", "in.jsonl"], "- is both input and output"),
        (["in.jsonl", "-o", "-", "--errors", "out"], "would overwrite the output"),
    ):
        command = [*COMMAND, "convert", "--lines", "--to", "json", *arguments]
        with (tmp_path / "in.jsonl").open() as given, (tmp_path / "out").open("w") as output:
            done = subprocess.run(
                command,
                cwd=tmp_path,
                stdin=given,
                stdout=output,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
        assert (done.returncode, message in done.stderr) == (1, True), done.stderr
        assert (tmp_path / "in.jsonl").read_bytes() == text


def test_files_of_a_folder_that_are_not_read_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.jsonl", ".hidden.csv", *(f"{n}.csv" for n in range(7))):
        (folder / name).write_bytes(lines(item("a")))
    named = ", ".join(str(folder / f"{n}.csv") for n in range(5))
    left_out = f", 7 files left out by their extensions: {named}, ...\n"
    assert run("convert", folder, "-o", tmp_path / "out.jsonl").err.endswith(left_out)
    assert run("extract", folder, "-o", tmp_path / "images").err.endswith(left_out)
    for name in ("a.jsonl", ".hidden.csv", "0.csv"):
        done = run("convert", "--lines", folder / name, "-o", tmp_path / "out.jsonl")
        assert (done.code, "left out" in done.err) == (0, False)


def test_one_document_is_known_by_its_keys(tmp_path: Path) -> None:
    for value in DOCUMENTS:
        (tmp_path / "in.json").write_text(json.dumps(value))
        run("convert", tmp_path / "in.json", "--to", "binary", "-o", tmp_path / "out.binpb")
        document = imagecall.Document.FromString((tmp_path / "out.binpb").read_bytes())
        assert json.loads(imagecall.document_to_json(document)) == value
        back: list[str | Path] = ["--from", "binary", "--to", "json", "-o", tmp_path / "back.json"]
        assert run("convert", tmp_path / "out.binpb", *back).code == 0
        assert json.loads((tmp_path / "back.json").read_text()) == value


def test_lines_go_to_parquet_and_back(tmp_path: Path) -> None:
    text = lines(*ITEMS, *DOCUMENTS, b"{", *SMALL * 600)
    (tmp_path / "in.jsonl").write_bytes(text)
    there = run("convert", tmp_path / "in.jsonl", "-o", tmp_path / "out.parquet")
    assert (there.code, "in.jsonl:11: NOT_JSON" in there.err) == (3, True)
    table = pq.read_table(tmp_path / "out.parquet")
    first = table.slice(0, 1).to_pylist()[0]
    assert (first["id"], first["status"], first["format"]) == ("a", "completed", "png")
    assert (first["size"], first["sha256"]) == (len(PNG), hashlib.sha256(PNG).hexdigest())
    assert first["call"] == imagecall.serialized_from_json(json.dumps(ITEMS[0]))
    assert table["document"].null_count == len(ITEMS) + len(SMALL) * 600
    for output in ("back.jsonl", "back.binpb"):
        options = ("-o", tmp_path / output)
        back = run("convert", tmp_path / "out.parquet", *options)
        assert (back.code, back.err[-10:]) == (0, "a second)\n")
    good = [*ITEMS, *DOCUMENTS, *SMALL * 600]
    assert values((tmp_path / "back.jsonl").read_bytes()) == values(lines(*good))


@pytest.mark.parametrize("type", [pa.string(), pa.large_string(), pa.binary(), pa.large_binary()])
@pytest.mark.parametrize("column", ["json", "body"])
def test_a_column_of_json_is_read(column: str, type: pa.DataType, tmp_path: Path) -> None:
    texts = [json.dumps(item("a")), None, "{", json.dumps(response(item("b")))]
    key = pa.array(range(4))
    rows_of_json = pa.array(texts, pa.string()).cast(type)
    pq.write_table(pa.table({"key": key, column: rows_of_json}), tmp_path / "in.parquet")
    report = tmp_path / "report"
    options = () if column == "json" else ("--column", column)
    done = run(
        *("convert", tmp_path / "in.parquet", "-o", tmp_path / "out.jsonl", *options),
        *("--to", "json", "--errors", report),
    )
    assert done.code == 3
    reasons = [(row["line"], row["reason"]) for row in rows(report)]
    assert sorted(reasons) == [(2, "NO_VALUE"), (3, "NOT_JSON"), (4, "OTHER_MESSAGE")]
    assert rows(tmp_path / "out.jsonl") == [item("a")]
    fully = run("convert", tmp_path / "in.parquet", *options, "-o", tmp_path / "out.parquet")
    assert fully.code == 3
    assert pq.read_table(tmp_path / "out.parquet")["id"].to_pylist() == ["a", None]


def test_rows_of_large_images_are_read_a_few_at_a_time(tmp_path: Path) -> None:
    text = json.dumps(item("a", PNG + bytes(1_000_000)))
    table = pa.table({"json": [text] * 40})
    pq.write_table(table, tmp_path / "in.parquet", compression=None, use_dictionary=False)
    sizes = [len(batch.texts) for batch in read_parquet(str(tmp_path / "in.parquet"), None)]
    assert sizes == [1] * 40


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in.parquet", "-o", "out.jsonl"], "name the column of JSON by --column: a, b"),
        (["in.parquet", "--column", "c", "-o", "out.jsonl"], "there is no column c"),
        (["in.parquet", "--column", "a", "-o", "out.jsonl"], "must be of text or bytes, not int64"),
        (["--from", "parquet", "-o", "out.jsonl"], "Parquet is read from a file"),
        (["in.jsonl", "--to", "parquet"], "Parquet is written to a file"),
        (["no.parquet", "-o", "out.jsonl"], "No such file"),
        (["in.jsonl", "--from", "parquet", "-o", "out.jsonl"], "UNREADABLE"),
    ],
)
def test_parquet_that_cannot_be_read_or_written_is_a_sentence(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.jsonl").write_bytes(lines(item()))
    pq.write_table(pa.table({"a": [1], "b": ["{}"]}), "in.parquet")
    done = run("convert", *arguments)
    assert done.code == 1
    assert message in done.err


@pytest.mark.parametrize("jobs", ["1", "2"])
@pytest.mark.parametrize("files", [("in.jsonl", "-o", "out.parquet"), ("no.parquet",)])
def test_without_pyarrow_a_run_for_parquet_ends_as_wrong_usage(
    files: tuple[str, ...], jobs: str, tmp_path: Path
) -> None:
    (tmp_path / "in.jsonl").write_bytes(lines(item()))
    program = (
        "import sys\n"
        "sys.modules['pyarrow'] = None\n"
        "from imagecall.commands.main import main\n"
        f"sys.exit(main(['convert', '--errors', 'report', '--jobs', '{jobs}', *{files!r}]))\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "the package pyarrow is not installed: pip install " in done.stderr
    assert "[bulk]'" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


@pytest.mark.parametrize("target", ["binary", "parquet"])
def test_an_output_can_be_a_pipe(target: str, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(lines(item()))
    os.mkfifo(tmp_path / "pipe")
    command = [*COMMAND, "convert", "--lines", "in.jsonl", "-o", "pipe", "--to", target]
    process = subprocess.Popen(command, cwd=tmp_path)
    data = (tmp_path / "pipe").read_bytes()
    assert process.wait() == 0
    (tmp_path / "copy").write_bytes(data)
    run("convert", "--from", target, tmp_path / "copy", "--lines", "-o", tmp_path / "back.jsonl")
    assert rows(tmp_path / "back.jsonl") == [item()]


@pytest.mark.parametrize("target", ["binpb", "jsonl", "parquet"])
def test_records_near_the_limit_are_converted_in_300_mib(target: str, tmp_path: Path) -> None:
    result = b64encode(os.urandom(37_000_000)).decode()
    with (tmp_path / "in.jsonl").open("w") as file:
        file.writelines(json.dumps(item(f"{n}", result=result)) + "\n" for n in range(2))
    program = (
        "import resource, subprocess, sys\n"
        "subprocess.run(sys.argv[1:], check=True)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
    )
    command = [*COMMAND, "convert", "in.jsonl", "-o", f"out.{target}", "--jobs", "2"]
    measured = [sys.executable, "-c", program, *command]
    done = subprocess.run(measured, cwd=tmp_path, capture_output=True, check=True)
    kibibyte = 1 if sys.platform == "darwin" else 1024
    assert int(done.stdout) * kibibyte < 300 * 1024 * 1024


def workers_of(pid: int) -> list[int]:
    """Processes of --jobs that a process has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [
        int(child)
        for child in children
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_process_of_jobs_ends_the_run_without_an_output(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "in")
    command = [*COMMAND, "convert", "--lines", "in", "-o", "out.binpb", "--jobs", "2"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE)
    with contextlib.suppress(BrokenPipeError), (tmp_path / "in").open("wb") as pipe:
        while not (workers := workers_of(process.pid)):
            pipe.write(lines(item()) * 1000)
            pipe.flush()
        os.kill(workers[0], signal.SIGKILL)
        pipe.write(lines(item()) * 50_000)
    _, errors = process.communicate()
    assert process.returncode == 1
    assert b"a process of --jobs ended before its work was done" in errors
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
