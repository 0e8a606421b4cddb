"""`imagecall extract`: images out of every kind of record, under safe names."""

import json
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import Any

import pytest

from tests.bulk.command import (
    JPEG,
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
from tests.commands.command import run as run_process

STREAM = sse(
    event("created", response=response()),
    event("output_item.added", item=item(image=None, status="in_progress")),
    event(
        "image_generation_call.partial_image",
        item_id="ig_1",
        partial_image_index=0,
        partial_image_b64=item(image=JPEG)["result"],
    ),
    event("output_item.done", item=item()),
    event("completed", response=response(item())),
)


def images(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize(
    "data",
    [
        lines(item()),
        json.dumps(item(), indent=2).encode(),
        b"\xef\xbb\xbf" + lines(item()),
        lines(response(item())),
        json.dumps(response({"type": "message"}, item()), indent=1).encode(),
        lines({"model": "m", "input": ["a fox", item()]}),
        lines(event("output_item.done", item=item())),
        lines(event("completed", response=response(item()))),
        lines(batch_response(response(item()))),
        lines({"custom_id": "1", "method": "POST", "body": {"input": [item()]}}),
        lines(b"", item(), b"  ").replace(b"\n", b"\r\n"),
        lines(item())[:-1],
        json.dumps([item()], indent=1).encode(),
        STREAM,
        b"\xef\xbb\xbf" + STREAM.replace(b"\n", b"\r\n"),
        STREAM.replace(b"\n", b"\r"),
        STREAM[: STREAM.rindex(b"\n\ndata: [DONE]")],
    ],
)
def test_the_image_of_each_kind_of_file_is_written(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(data)
    done = run("extract", tmp_path / "in", "-o", tmp_path / "out")
    assert images(tmp_path / "out") == {"ig_1-1.png": PNG}
    assert done.code == 0
    assert done.out == f"{tmp_path}/out/ig_1-1.png: png, {len(PNG)} bytes\n"
    assert "imagecall: 1 written" in done.err


def test_standard_input_is_read(tmp_path: Path) -> None:
    for arguments in ([], ["-"]):
        output = tmp_path / f"out{len(arguments)}"
        done = run_process("extract", *arguments, "-o", str(output), stdin=lines(item()))
        assert done.returncode == 0, done.stderr
        assert images(output) == {"ig_1-1.png": PNG}


def test_a_large_image_beside_others_is_written_whole(tmp_path: Path) -> None:
    large = PNG + bytes(range(256)) * 4000
    (tmp_path / "in").write_bytes(lines(response(item("a", large), item("b", large[:-1]))))
    run("extract", tmp_path / "in", "-o", tmp_path / "out")
    assert images(tmp_path / "out") == {"a-1.png": large, "b-1.png": large[:-1]}


def test_partial_images_are_written_if_asked_for(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(STREAM)
    done = run("extract", tmp_path / "in", "-o", tmp_path / "out")
    assert "1 partial images left out (--partial-images writes them)" in done.err
    run("extract", tmp_path / "in", "-o", tmp_path / "out", "--partial-images")
    assert images(tmp_path / "out") == {"ig_1-1.png": PNG, "ig_1-partial0-1.jpg": JPEG}


def test_the_format_is_that_of_the_bytes(tmp_path: Path) -> None:
    url = "data:image/png;base64," + item(image=JPEG)["result"]
    unpadded = urlsafe_b64encode(JPEG).decode().rstrip("=")
    (tmp_path / "in").write_bytes(
        lines(
            item("a", JPEG, output_format="png"),
            item("b", b"hello"),
            item("c", result=url),
            item("d", result=unpadded),
        )
    )
    done = run("extract", tmp_path / "in", "-o", tmp_path / "out")
    assert [*images(tmp_path / "out")] == ["a-1.jpg", "b-1.bin", "c-1.jpg", "d-1.jpg"]
    assert "b-1.bin: unknown format, 5 bytes" in done.out


HOSTILE: list[tuple[Any, str]] = [
    ("../../up", "_.._up-1.png"),
    ("/etc/passwd", "_etc_passwd-1.png"),
    ("..", "image-1.png"),
    ("", "image-1.png"),
    (None, "image-1.png"),
    ("a\0b", "a_b-1.png"),
    ("a\\..\\b", "a_.._b-1.png"),
    ("-rf", "rf-1.png"),
    (".hidden", "hidden-1.png"),
    ("x" * 5000, "x" * 100 + "-1.png"),
    ("füchse\u202e", "f_chse_-1.png"),
    ("{id.__class__}", "_id.__class___-1.png"),
]


@pytest.mark.parametrize(("id", "name"), HOSTILE, ids=lambda value: ascii(value)[:20])
def test_an_id_never_becomes_a_path(id: str | None, name: str, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(lines(item(id)))
    assert run("extract", tmp_path / "in", "-o", tmp_path / "out").code == 0
    assert images(tmp_path / "out") == {name: PNG}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_the_same_id_gets_the_next_number_in_any_case_of_letters(tmp_path: Path) -> None:
    values = [item("Fox", PNG + bytes([n])) for n in range(2)]
    (tmp_path / "in").write_bytes(
        lines(*values, item("fox", JPEG), item("fo/x"), item("fo?x", JPEG))
    )
    run("extract", tmp_path / "in", "-o", tmp_path / "out")
    assert [*images(tmp_path / "out")] == [
        "Fox-1.png",
        "Fox-2.png",
        "fo_x-1.png",
        "fo_x-2.jpg",
        "fox-3.jpg",
    ]


def test_items_without_an_id_are_all_written(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(lines(item(None), item(None), item(None, JPEG)))
    run("extract", tmp_path / "in", "-o", tmp_path / "out")
    assert [*images(tmp_path / "out")] == ["image-1.png", "image-2.png", "image-3.jpg"]


def test_the_name_can_be_chosen(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(lines(item("con"), item("con", JPEG)))
    name = ["--name", "{id}.{n:03}.{ext}"]
    run("extract", tmp_path / "in", "-o", tmp_path / "out", *name)
    assert [*images(tmp_path / "out")] == ["_con.001.png", "_con.002.jpg"]


def test_a_name_without_a_number_loses_no_image_in_silence(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(lines(item("a"), item("A", PNG + b"2")))
    done = run(
        "extract", tmp_path / "in", "-o", tmp_path / "out", "--name", "{id}.{ext}", "--force"
    )
    assert images(tmp_path / "out") == {"a.png": PNG}
    assert done.code == 3
    assert "NOT_WRITTEN: A.png is the name of an earlier image: use {n} in --name" in done.err


@pytest.mark.parametrize(
    "name",
    ["../{id}.png", "a/b", "a\\b", "{id.__class__}", "{}", "{other}", "{id", "", "..", "{n:x"],
)
def test_a_faulty_name_is_wrong_usage(name: str, tmp_path: Path) -> None:
    done = run("extract", "in", "-o", tmp_path / "out", "--name", name)
    assert done.code == 2
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten_without_force(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(lines(item("a"), item("b")))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a-1.png").write_bytes(b"mine")
    done = run("extract", tmp_path / "in", "-o", tmp_path / "out")
    assert done.code == 3
    assert "NOT_WRITTEN: a-1.png is there already: --force replaces it" in done.err
    assert images(tmp_path / "out") == {"a-1.png": b"mine", "b-1.png": PNG}
    assert run("extract", tmp_path / "in", "-o", tmp_path / "out", "--force").code == 0
    assert images(tmp_path / "out") == {"a-1.png": PNG, "b-1.png": PNG}
    again = run("extract", tmp_path / "in", "-o", tmp_path / "out")
    assert again.code == 0
    assert "0 written, 2 there already" in again.err


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_nothing_is_written_through_a_symbolic_link(force: list[str], tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(lines(item("a"), item("b")))
    (tmp_path / "out").mkdir()
    (tmp_path / "victim").write_bytes(PNG)
    (tmp_path / "out/a-1.png").symlink_to(tmp_path / "victim")
    (tmp_path / "out/b-1.png").symlink_to(tmp_path / "new")
    done = run("extract", tmp_path / "in", "-o", tmp_path / "out", *force)
    assert (tmp_path / "victim").read_bytes() == PNG
    assert not (tmp_path / "new").exists()
    assert done.code == (0 if force else 1)
    assert (tmp_path / "out/a-1.png").is_symlink() is not bool(force)


def test_a_folder_in_the_place_of_an_image_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(lines(item("a"), item("b")))
    (tmp_path / "out/a-1.png").mkdir(parents=True)
    done = run("extract", tmp_path / "in", "-o", tmp_path / "out", "--force")
    assert done.code == 3
    assert "NOT_WRITTEN: a-1.png cannot be written: Is a directory" in done.err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a-1.png", "b-1.png"]


def test_each_record_without_an_image_gets_its_cause(tmp_path: Path) -> None:
    refused = {"error": {"message": "the limit has been reached"}}
    (tmp_path / "in").write_bytes(
        lines(
            item(image=None, status="failed"),
            item(result="https://example.com/a.png"),
            item(result="<value>"),
            {"type": "message"},
            response({"type": "message"}),
            batch_response(refused, 400),
            event("created", response=response()),
            item(image=b""),
            item() | {"id": 5},
        )
    )
    report = tmp_path / "report.jsonl"
    done = run("extract", tmp_path / "in", "-o", tmp_path / "out", "--errors", report)
    assert done.code == 1
    assert "0 written, 7 without an image, 1 events without an image, 1 refused" in done.err
    causes = [row["message"] for row in rows(report)]
    assert causes == [
        'its "result" is null; its status is "failed"',
        'its "result" is a URL, which is not fetched',
        'its "result" is text, and no image; its status is "completed"',
        'an item of type "message" has none',
        "there is no image generation call",
        "there is no image generation call, but an error: the limit has been reached",
        'its "result" is empty; its status is "completed"',
        '"id" must be a string, not a number',
    ]


def test_broken_lines_do_not_stop_the_rest(tmp_path: Path) -> None:
    good = [item(f"ig_{n}") for n in range(90)]
    bad = [b'{"type":', b'{"type":"x","a":"\xff"}', b"null", lines(item())[:50], b"\0"] * 2
    mixed: list[Any] = []
    for number, value in enumerate(good):
        mixed += [value, bad[number // 9]] if number % 9 == 0 else [value]
    (tmp_path / "in.jsonl").write_bytes(lines(*mixed))
    report = tmp_path / "report.jsonl"
    done = run("extract", tmp_path / "in.jsonl", "-o", tmp_path / "out", "--errors", report)
    assert done.code == 3
    assert len(images(tmp_path / "out")) == 90
    assert [row["line"] for row in rows(report)] == [2 + 10 * n for n in range(10)]
    assert {row["reason"] for row in rows(report)} == {"NOT_JSON", "NOT_UTF8", "WRONG_TYPE"}
    assert {row["file"] for row in rows(report)} == {str(tmp_path / "in.jsonl")}


def test_a_folder_gives_its_files_and_a_missing_file_does_not_stop_the_rest(tmp_path: Path) -> None:
    (tmp_path / "in/deep").mkdir(parents=True)
    (tmp_path / "in/a.json").write_text(json.dumps(item("a")))
    (tmp_path / "in/deep/b.SSE").write_bytes(STREAM)
    (tmp_path / "in/c.png").write_bytes(PNG)
    (tmp_path / "in/.hidden.json").write_text(json.dumps(item("hidden")))
    done = run("extract", tmp_path / "no", tmp_path / "in", "-o", tmp_path / "out")
    assert [*images(tmp_path / "out")] == ["a-1.png", "ig_1-1.png"]
    assert done.code == 3
    assert f"{tmp_path}/no: UNREADABLE: No such file or directory" in done.err
    (tmp_path / "empty").mkdir()
    assert "has no file that ends with" in run("extract", tmp_path / "empty", "-o", tmp_path).err


def test_without_an_image_no_folder_is_made(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(lines(item(image=None)))
    for source in ("in", "no"):
        assert run("extract", tmp_path / source, "-o", tmp_path / "out", "--force").code == 1
        assert not (tmp_path / "out").exists()
    (tmp_path / "in").write_bytes(lines(item()))
    (tmp_path / "out").write_bytes(b"mine")
    done = run("extract", tmp_path / "in", "-o", tmp_path / "out", "--force")
    assert (done.code, "File exists" in done.err) == (1, True)
    assert (tmp_path / "out").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("start", "word"),
    [
        (b"\x1f\x8b\x08", "gunzip"),
        (b"PK\x03\x04", "ZIP"),
        (b"PAR1", "Parquet"),
        (b"\xff\xfe{\0", "UTF-16"),
    ],
)
def test_a_file_of_another_format_is_refused_in_words(
    start: bytes, word: str, tmp_path: Path
) -> None:
    (tmp_path / "in").write_bytes(start + bytes(20))
    done = run("extract", tmp_path / "in", "-o", tmp_path / "out")
    assert done.code == 1
    assert word in done.err


def test_a_record_over_the_limit_is_a_fault_and_the_rest_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imagecall.bulk.records.MAX_RECORD_BYTES", 1_500_000)
    long = item("long", PNG + bytes(1_500_000))
    data = [item("a"), long, item("b")]
    (tmp_path / "in.jsonl").write_bytes(lines(*data))
    stream = [event("output_item.done", item=each) for each in data]
    (tmp_path / "in.sse").write_bytes(sse(*stream))
    for name in ("in.jsonl", "in.sse"):
        done = run("extract", tmp_path / name, "-o", tmp_path / f"{name}.out")
        assert "TOO_LARGE: the record has more than 1,500,000 bytes" in done.err
        assert [*images(tmp_path / f"{name}.out")] == ["a-1.png", "b-1.png"]


def test_convert_writes_no_image_and_says_what_does(tmp_path: Path) -> None:
    (tmp_path / "in").write_text(json.dumps(item()))
    for target in ([], ["--to", "binary"]):
        done = run("convert", tmp_path / "in", *target, "-o", tmp_path / "out.png")
        assert done.code == 2
        assert "imagecall extract FILE -o DIR" in done.err
        assert not (tmp_path / "out.png").exists()


DONE_EVENT = json.dumps(event("output_item.done", output_index=0, item=item("ig_1"))).encode()
COMPLETED = json.dumps(event("completed", response=response(item("ig_2")))).encode()
UNTYPED = json.dumps({"output_index": 0, "item": item("ig_1")}).encode()

STREAMS = {
    "data picked out of a log": b"data: %b\ndata: %b\ndata: [DONE]\n" % (DONE_EVENT, COMPLETED),
    "end and start on consecutive lines": b"data: %b\n\ndata: [DONE]\ndata: %b\n\n"
    % (DONE_EVENT, COMPLETED),
    "type in the event line": b"event: response.output_item.done\ndata: %b\n\ndata: %b\n\n"
    % (UNTYPED, COMPLETED),
    "data on several lines": b"data: {\ndata: %b\ndata: }\n\ndata:%b\n\n"
    % (DONE_EVENT[1:-1], COMPLETED),
    "mark, comments and retry": b"\xef\xbb\xbf: OPENROUTER PROCESSING\r\n\r\nretry: 3000\r\n\r\n"
    b"data: %b\r\n\r\n: ping\r\ndata: %b\r\n\r\n" % (DONE_EVENT, COMPLETED),
}
"""Saved streams of two images."""


@pytest.mark.parametrize("form", STREAMS)
def test_streams_are_read_as_they_are_saved(form: str, tmp_path: Path) -> None:
    (tmp_path / "in.sse").write_bytes(STREAMS[form])
    done = run("extract", tmp_path / "in.sse", "-o", tmp_path / "out")
    assert (done.code, done.err) == (0, "imagecall: 2 written\n")
    assert run("convert", tmp_path / "in.sse", "-o", tmp_path / "out.jsonl").code == 0
    kinds = [row["type"] for row in rows(tmp_path / "out.jsonl")]
    assert kinds == ["response.output_item.done", "response.completed"]


def test_lines_of_the_batch_api_say_why_they_have_no_image(tmp_path: Path) -> None:
    chat = {"object": "chat.completion", "choices": [{"message": {"content": "4"}}]}
    embedding = {"object": "list", "data": [{"embedding": [0.1, -2.5e-05]}]}
    invalid = {"error": {"message": "Invalid size", "type": "invalid_request_error"}}
    expired = {"code": "batch_expired", "message": "It expired."}
    of_azure = {"custom_id": "r", "response": {"body": response(item("az")), "status_code": 200}}
    (tmp_path / "in.jsonl").write_bytes(
        lines(
            batch_response(response(item("ig_1"))),
            of_azure,
            batch_response(chat),
            batch_response(embedding),
            batch_response(invalid, 400),
            {"id": "b", "custom_id": "r", "response": None, "error": expired},
            {"custom_id": "r", "response": {"status_code": 429, "body": ""}, "error": expired},
            {"custom_id": "r", "response": {"status_code": 200, "body": {}}, "error": None},
        )
    )
    report = tmp_path / "report"
    done = run("extract", tmp_path / "in.jsonl", "-o", tmp_path / "out", "--errors", report)
    assert "2 written, 6 without an image" in done.err
    none = "there is no image generation call"
    assert [(row["line"], row["message"]) for row in rows(report)] == [
        (3, none),
        (4, none),
        (5, f"{none}, but an error: Invalid size"),
        (6, f"{none}, but an error: It expired."),
        (7, f"{none}, but an error: It expired."),
        (8, none),
    ]
    assert run("convert", tmp_path / "in.jsonl", "-o", tmp_path / "out.binpb").code == 0
    assert run("convert", tmp_path / "out.binpb", "-o", tmp_path / "back.jsonl").code == 0
    assert rows(tmp_path / "back.jsonl") == rows(tmp_path / "in.jsonl")
