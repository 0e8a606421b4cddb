"""The command line: as a user starts it, and for tables of cases in the process of the tests."""

import asyncio
import json
import re
import signal
import subprocess
from base64 import b64decode
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import imagecall
from imagecall.conversion.converter import CALLS
from imagecall.conversion.fields import key_of
from tests.cases import DOCUMENTS, ITEMS, REFUSED_JSON, Case, Refusal
from tests.commands.command import COMMAND, Done, run, run_here
from tests.json_value import json_value
from tests.streams import PNG, Event, framed, happy, item, response
from tests.upstream import JSON, upstream

ITEM = '{"type":"image_generation_call","id":"ig_1","result":"aGk=","status":"completed"}'
PAGES = [param for param in ITEMS if param.values[0].path.stem == "page"]


@pytest.fixture(scope="module")
def server(servers: tuple[str, str]) -> str:
    """The address of the gRPC door of `imagecall serve` in a process of its own."""
    return servers[0]


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[str, str]]:
    """The addresses of both doors of that process."""
    command = [*COMMAND, "serve", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        found = []
        for kind in ("grpc", "http"):
            line = process.stdout.readline()
            match = re.fullmatch(rf"listening {kind} (127\.0\.0\.1:[1-9][0-9]*)\n", line)
            assert match, line
            found.append(match[1])
        yield found[0], found[1]
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("format", ["binary", "text"])
@pytest.mark.parametrize("case", PAGES)
def test_the_five_pages_go_to_protobuf_and_back(
    case: Case, format: str, remote: bool, server: str
) -> None:
    where = ["--server", server] if remote else []
    variant = case.path.parent.name
    there = run_here("convert", "--to", format, "--variant", variant, *where, str(case.path))
    assert (there.returncode, there.stderr) == (0, b"")
    if format == "binary":
        assert there.stdout == case.golden.read_bytes()
    back = run_here("convert", "--from", format, "--to", "json", *where, stdin=there.stdout)
    assert json_value(back.stdout) == json_value(case.text)


@pytest.mark.parametrize("case", DOCUMENTS)
def test_documents_go_to_protobuf_and_back(case: Case, server: str) -> None:
    kind = case.path.parent.name
    for where in ([], ["--server", server]):
        options = ["--document", kind, *where]
        there = run_here("convert", *options, "--to", "binary", str(case.path))
        back = run_here("convert", *options, "--from", "binary", "--to", "json", stdin=there.stdout)
        assert json_value(back.stdout) == json_value(case.text), back.stderr


@pytest.mark.parametrize(
    "name", ["id_number", "not_utf8", "byte_order_mark", "duplicate_nested_key"]
)
def test_a_refusal_names_reason_and_place_and_exits_with_1(name: str, server: str) -> None:
    case: Refusal = next(p.values[0] for p in REFUSED_JSON if p.values[0].path.stem == name)
    for where in ([], ["--server", server]):
        done = run_here("convert", str(case.path), *where)
        assert (done.returncode, done.stdout) == (1, b"")
        at = f" at {case.pointer}" if case.pointer else ""
        assert done.stderr.decode().startswith(f"imagecall: {case.reason}{at}: ")
        assert done.stderr.count(b"\n") == 1


def test_the_profile_can_be_chosen() -> None:
    text = '{"type":"image_generation_call"}'
    assert run_here("convert", "--profile", "wire", stdin=text).returncode == 0
    assert b"MISSING_KEY at /id" in run_here("convert", "--profile", "strict", stdin=text).stderr


def test_output_goes_to_a_file_if_asked(tmp_path: Path) -> None:
    output = tmp_path / "out.binpb"
    done = run("convert", "--to", "binary", "-o", str(output), stdin=ITEM)
    assert (done.returncode, done.stdout) == (0, b"")
    call = imagecall.ImageGenerationCall.FromString(output.read_bytes())
    assert json.loads(imagecall.to_json(call)) == json.loads(ITEM)


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        (["convert", "no/such/file"], b"", "No such file"),
        (["convert", "--from", "binary"], b"\xff", "MALFORMED_PROTOBUF"),
        (["convert", "--from", "text"], b"nothing: 1", "MALFORMED_PROTOBUF"),
        (["convert", "--from", "text"], b"\xff", "MALFORMED_PROTOBUF"),
        (["convert", "--from", "text"], b"unknown_item { type: 9 }", "at line 1"),
        (
            ["convert", "--from", "text"],
            b"output_image_generation_call { status: 99999999999999999999 }",
            "MALFORMED_PROTOBUF",
        ),
        (["convert", "--from", "binary"], b"\x2a\x06\x0a\x01x\xf8\x7f\x01", "UNKNOWN_FIELD"),
        (["convert", "--from", "text"], b"output_image_generation_call { result {} }", "/result"),
        (["convert"], b'{"type":"x","a\\nb\\u001b":1,"a\\nb\\u001b":2}', "a\\u000ab\\u001b"),
    ],
)
def test_a_fault_is_a_sentence(arguments: list[str], stdin: bytes, message: str) -> None:
    assert_fault(run_here(*arguments, stdin=stdin), message)


def test_an_address_of_another_machine_is_a_fault() -> None:
    done = run("serve", "--grpc", "256.0.0.1:0", "--without-tokens", "on")
    assert_fault(done, "cannot listen on 256")


def assert_fault(done: Done, message: str) -> None:
    assert (done.returncode, done.stdout) == (1, b"")
    lines = done.stderr.decode().splitlines()
    assert message in lines[-1]
    assert not any("Traceback" in line for line in lines)


def test_a_server_that_is_not_there_exits_with_4() -> None:
    done = run("convert", "--server", "127.0.0.1:1", stdin=ITEM)
    assert (done.returncode, b"UNAVAILABLE" in done.stderr) == (4, True)


def test_closed_streams_are_a_sentence() -> None:
    for redirection in ("<&-", ">&-"):
        command = f"echo '{ITEM}' | {COMMAND[0]} convert {redirection}"
        done = subprocess.run(["bash", "-c", command], capture_output=True, check=False)
        assert done.returncode == 1
        assert done.stderr.decode().startswith("imagecall: standard ")


def test_a_reader_that_leaves_ends_a_command_without_a_word() -> None:
    items = f"for i in $(seq 20000); do echo '{ITEM}'; done"
    line = f"{items} | {COMMAND[0]} convert --lines --to json | head -n 1; exit ${{PIPESTATUS[1]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (141, b"")
    assert len(done.stdout.splitlines()) == 1


def test_wrong_usage_exits_with_2() -> None:
    for arguments in (
        [],
        ["nothing"],
        ["describe", "x"],
        ["convert", "--variant", "x"],
        ["convert", "--variant", CALLS.default, "--from", "binary"],
        ["convert", "--profile", "strict", "--document", "request"],
        ["serve", "--grpc", "nonsense"],
        ["serve", "--grpc", "127.0.0.1:65536"],
        ["serve", "--max-json-bytes", "0"],
        ["serve", "--max-json-bytes", "2147483647"],
    ):
        assert run_here(*arguments).returncode == 2


def test_describe_names_every_variant_and_every_key() -> None:
    text = run("describe").stdout.decode()
    for name in CALLS.variants:
        assert name in text
        details = run_here("describe", name).stdout.decode()
        field = imagecall.ImageGenerationCall.DESCRIPTOR.fields_by_name[name]
        assert field.message_type is not None
        for inner in field.message_type.fields:
            assert f"\n  {key_of(inner).name}" in details


def test_an_item_of_20_mb_goes_through_the_server(server: str, tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    path.write_text(ITEM.replace("aGk=", "AAAA" * 5_000_000))
    there = run("convert", "--to", "binary", "--server", server, str(path))
    assert there.returncode == 0, there.stderr
    back = run(
        "convert", "--from", "binary", "--to", "json", "--server", server, stdin=there.stdout
    )
    assert json.loads(back.stdout) == json.loads(path.read_text())


def generate(*arguments: str, cwd: Path) -> tuple[int, str, str]:
    """Runs imagecall generate in a directory: exit code, output, and progress on stderr."""
    done = subprocess.run(
        [*COMMAND, "generate", *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


def generate_here(*arguments: str, cwd: Path) -> tuple[int, str, str]:
    """Runs imagecall generate in a directory, in the process of the test."""
    with chdir(cwd):
        done = run_here("generate", *arguments)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize(
    ("name", "format"),
    [("a.png", "PNG"), ("a.jpg", "JPEG"), ("a.jpeg", "JPEG"), ("a.webp", "WEBP")],
)
def test_an_image_is_generated_in_the_format_of_the_file_name(
    name: str, format: str, remote: bool, server: str, tmp_path: Path
) -> None:
    where = ["--server", server] if remote else []
    options = ["--size", "128x96", "--quality", "low", *where]
    code, output, said = generate_here("a fox", "-o", name, *options, cwd=tmp_path)
    assert code == 0, said
    path = tmp_path / name
    with Image.open(path) as image:
        assert (image.format, image.size) == (format, (128, 96))
    size = f"{path.stat().st_size:,}"
    assert output == f"{name}: {format.lower()}, 128 x 96 pixels, {size} bytes\n"
    assert "imagecall: image_generation_call.generating\n" in said
    assert "warning" not in said


def test_partial_images_are_saved_if_asked_for(tmp_path: Path) -> None:
    options = ["-o", "a.png", "--size", "64x64", "--partial-images", "2", "--save-partial-images"]
    code, output, said = generate_here("a fox", *options, cwd=tmp_path)
    assert code == 0, said
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.partial0.png",
        "a.partial1.png",
        "a.png",
    ]
    assert output.count("64 x 64 pixels") == 3


def test_an_image_to_start_from_and_other_keys_are_sent(tmp_path: Path) -> None:
    assert generate_here("a fox", "-o", "a.png", "--size", "256x256", cwd=tmp_path)[0] == 0
    options = ["--input", "a.png", "--set", 'user="me"', "--model", "m", "--background", "opaque"]
    code, _, said = generate_here(
        "a fox", "-o", "b.png", "--size", "256x256", *options, cwd=tmp_path
    )
    assert code == 0, said
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


GENERATE_FAILURES = [
    (['embedded={"http_status":429,"retry_after_seconds":3}'], "UPSTREAM_RATE_LIMITED: "),
    (['embedded={"ending":"failed"}'], "the response ended as failed: the request asked for"),
    (['embedded={"ending":"incomplete"}'], "the response ended as incomplete: max_output_tokens"),
    (['embedded={"ending":"cut"}'], "UPSTREAM_DAMAGED: "),
    (
        ['embedded={"delay_seconds":60}', "--timeout", "0.5"],
        "DEADLINE_EXCEEDED: it took longer than the time limit",
    ),
]


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize(("arguments", "message"), GENERATE_FAILURES)
def test_a_failure_to_generate_is_a_sentence_and_exits_with_4(
    arguments: list[str], message: str, remote: bool, server: str, tmp_path: Path
) -> None:
    where = ["--server", server] if remote else []
    options = ["-o", "a.png", "--size", "64x64", *where, "--set", *arguments]
    code, output, said = generate_here("a fox", *options, cwd=tmp_path)
    assert (code, output) == (4, "")
    assert f"imagecall: {message}" in said
    assert "Traceback" not in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("set", ["input=1", 'embedded={"http_status":400}'])
def test_refused_input_of_generate_exits_with_1(
    set: str, remote: bool, server: str, tmp_path: Path
) -> None:
    where = ["--server", server] if remote else []
    code, output, said = generate_here("a fox", "--set", set, *where, cwd=tmp_path)
    assert (code, output) == (1, "")
    assert "NOT_CANONICAL at /input: " in said or "UPSTREAM_INVALID_REQUEST" in said


@pytest.mark.parametrize("output", [[], [item()]])
async def test_the_words_of_the_model_are_shown(output: list[Event], tmp_path: Path) -> None:
    parts = [
        {"type": "output_text", "text": "I can't draw\nthat.\x1b[1m"},
        {"type": "refusal", "refusal": "No."},
    ]
    message = {"type": "message", "id": "msg_1", "content": parts}
    async with upstream() as api:
        api.say(json.dumps(response(*output, message)).encode(), content_type=JSON)
        options = ["-o", "a.png", "--backend", api.url]
        code, _, said = await asyncio.to_thread(generate, "a fox", *options, cwd=tmp_path)
    assert code == (0 if output else 4)
    assert said.splitlines()[-3:] == [
        "imagecall: the model wrote: I can't draw",
        "imagecall: the model wrote: that.\\u001b[1m",
        "imagecall: the model refused: No.",
    ]


def test_what_no_api_answers_is_a_sentence(tmp_path: Path) -> None:
    code, _, said = generate_here("a", "--backend", "http://127.0.0.1:1/v1", cwd=tmp_path)
    assert (code, said.splitlines()[-1]) == (
        4,
        "imagecall: UPSTREAM_UNREACHABLE: there is no connection to the API: it was refused",
    )
    (tmp_path / "empty").write_text("\n")
    for options, message in (
        (["--backend", "nope"], "there is no backend 'nope'"),
        (["--api-key-file", "missing"], "the file of the API key, missing, cannot be read"),
        (["--api-key-file", "empty"], "the file of the API key, empty, is empty"),
        (["--input", "empty"], "empty is not an image"),
    ):
        code, _, said = generate_here("a", *options, cwd=tmp_path)
        assert code == (1 if "--input" in options else 2)
        assert f"imagecall: {message}" in said


@pytest.mark.parametrize(
    "arguments",
    [
        ["-o", "a.bmp"],
        ["-o", "missing/a.png"],
        ["--set", "user=me"],
        ["--set", "user"],
        ["--timeout", "0"],
        ["--save-partial-images"],
        ["--partial-images", "99999999999"],
        ["--model", "\udcff"],
        ["--timeout", "1e10"],
        ["--server", "http://127.0.0.1:1"],
        ["--server", "127.0.0.1:1", "--backend", "embedded"],
    ],
)
def test_wrong_usage_of_generate_exits_with_2_and_says_how_it_is_used(
    arguments: list[str], tmp_path: Path
) -> None:
    code, _, said = generate_here("a fox", *arguments, cwd=tmp_path)
    assert code == 2
    assert said.startswith("usage: imagecall generate ")


async def generate_by(answer: Event, name: str, directory: Path) -> tuple[int, str, str, Any]:
    """Runs imagecall generate before an API that answers with an item.

    Returns its exit code, output and errors, and the body that the API got.
    """
    async with upstream() as api:
        api.say(framed(happy(done=answer)))
        options = ("-o", name, "--backend", api.url)
        done = await asyncio.to_thread(generate, "a", *options, cwd=directory)
    return *done, api.requests[-1].body


async def test_a_declared_format_that_the_file_has_not_is_told(tmp_path: Path) -> None:
    code, output, errors, _ = await generate_by(item(PNG, output_format="webp"), "a.jpg", tmp_path)
    assert code == 0, errors
    assert output == "a.jpg: png, 1 x 1 pixels, 70 bytes\n"
    assert "warning: output_format declares webp, the file is png" in errors
    assert "warning: the file name declares jpeg, the file is png" in errors


GIF = b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")


@pytest.mark.parametrize(
    ("format", "image", "facts"),
    [("gif", GIF, "gif, 1 x 1 pixels, 42 bytes"), ("svg", b"<svg></svg>", "svg, 11 bytes")],
    ids=["gif", "svg"],
)
async def test_gif_and_svg_are_asked_for_by_the_file_name(
    format: str, image: bytes, facts: str, tmp_path: Path
) -> None:
    name = f"a.{format}"
    answer = item(image, output_format=format)
    code, output, errors, body = await generate_by(answer, name, tmp_path)
    assert code == 0, errors
    assert body["tools"] == [{"type": "image_generation", "output_format": format}]
    assert output == f"{name}: {facts}\n"
    assert "warning" not in errors


@pytest.mark.parametrize("format", ["gif", "svg"])
def test_the_embedded_backend_refuses_gif_and_svg(format: str, tmp_path: Path) -> None:
    code, _, errors = generate_here("a", "-o", f"a.{format}", cwd=tmp_path)
    assert code == 1
    assert f'output_format is "{format}"; the embedded backend has png, jpeg, webp' in errors
