"""Settings: by flag, environment and file; what is wrong with one, in a sentence."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from imagecall.access.limits import Limits
from imagecall.access.setting import SettingError
from imagecall.rpc.headers import Header
from imagecall.server.run import check
from imagecall.server.settings import BackendSettings, ServerSettings, misspelt, read_settings

COMMAND = [sys.executable, "-m", "imagecall", "serve"]


def test_a_flag_comes_before_the_environment_and_that_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    lines = (
        "max-calls = 1",
        "max-connections = 2",
        "workers = 3",
        'http = "off"',
        'metrics = "127.0.0.1:9464"',
    )
    file.write_text("\n".join(lines))
    environment = {"IMAGECALL_MAX_CALLS": "4", "IMAGECALL_MAX_CONNECTIONS": "5"}
    settings = read_settings(ServerSettings, {"max_calls": "6"}, environment, file)
    assert (settings.limits.calls, settings.limits.connections, settings.workers) == (6, 5, 3)
    assert (settings.http, settings.metrics, settings.traces) == (
        None,
        "127.0.0.1:9464",
        False,
    )


def test_without_any_setting_the_defaults_are_those_of_the_dataclasses() -> None:
    assert read_settings(ServerSettings, {}, {}) == ServerSettings()
    assert ServerSettings().limits == Limits()


def test_a_misspelt_variable_is_named_with_the_nearest_right_one() -> None:
    environment = {"IMAGECALL_MAX_CALL": "1", "IMAGECALL_MAX_CALLS": "1", "IMAGECALL_API_KEY": "k"}
    [warning] = misspelt(environment)
    assert "IMAGECALL_MAX_CALL is not known; did you mean IMAGECALL_MAX_CALLS?" in warning
    assert "k" not in warning.split()


SEVERAL = [
    ({"forward_header": ["A", "B"]}, {"IMAGECALL_FORWARD_HEADER": "C"}, "", ("A", "B")),
    ({}, {"IMAGECALL_FORWARD_HEADER": "A, B,"}, 'forward-header = "C"', ("A", "B")),
    ({}, {}, 'forward-header = ["A", "B"]', ("A", "B")),
    ({}, {}, 'forward-header = "A,B"', ("A", "B")),
    ({"forward_header": ["off"]}, {}, 'forward-header = "A,B"', ()),
    ({}, {"IMAGECALL_FORWARD_HEADER": "off"}, "", ()),
    ({}, {}, "forward-header = []", ()),
]


@pytest.mark.parametrize(("arguments", "environment", "text", "names"), SEVERAL)
def test_a_setting_can_have_several_values(
    arguments: Any, environment: dict[str, str], text: str, names: tuple[str, ...], tmp_path: Path
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(text)
    assert read_settings(ServerSettings, arguments, environment, file).forward_headers == names


def test_headers_for_the_backend_stand_in_lines_of_the_environment_and_in_a_list_of_the_file(
    tmp_path: Path,
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('backend-header = ["a: 1, 2", "b: c: d"]')
    headers = (Header("a", "1, 2"), Header("b", "c: d"))
    environment = {"IMAGECALL_BACKEND_HEADER": "a:1, 2\n\n b: c: d \n"}
    assert read_settings(ServerSettings, {}, {}, file).backend.headers == headers
    assert read_settings(BackendSettings, {}, environment).headers == headers


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("s3cret", "is not NAME: VALUE"),
        ("s3c ret: x", "the name of a header is empty, or has characters"),
        ("s3cret : x", "the name of a header is empty, or has characters"),
        (": s3cret", "the name of a header is empty, or has characters"),
        ("a:", "a header has no value"),
        ("a: s3cret\r\nb: c", "the value of a header is not printable ASCII"),
        ("a: s3cret\0", "the value of a header is not printable ASCII"),
        ("a: s3crét", "the value of a header is not printable ASCII"),
        ("Content-Length: 53", 'the header "content-length" is set for each request'),
        ("Accept: s3cret", 'the header "accept" is set for each request'),
        ("X-Request-ID: s3cret", 'the header "x-request-id" is set for each request'),
        ("Transfer-Encoding: s3cret", 'the header "transfer-encoding" belongs to a connection'),
        ("Host: s3cret", 'the header "host" belongs to a connection'),
    ],
)
def test_a_header_that_cannot_be_sent_is_refused_and_not_quoted(text: str, message: str) -> None:
    with pytest.raises(SettingError) as caught:
        read_settings(BackendSettings, {"backend_header": [text]}, {})
    assert str(caught.value).startswith("--backend-header: ")
    assert message in str(caught.value)
    assert "s3c" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["Connection", "Host", "Content-Type", "a b", "", "x-bin", "grpc-x"]
)
def test_a_header_that_cannot_go_on_is_refused(name: str) -> None:
    with pytest.raises(SettingError, match="--forward-header: the "):
        read_settings(ServerSettings, {"forward_header": [name]}, {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max-calls = 0", "\"max-calls\" in FILE: '0' is not a number from 1"),
        ("maxcalls = 1", 'has "maxcalls", which is not a setting'),
        ("max-calls", "is not TOML"),
        ("max-calls = [1]", '"max-calls" in FILE must be a string, a number, true or false'),
        ('reflection = "yes"', "'yes' is not one of on, off"),
        ("forward-header = [1]", '"forward-header" in FILE must be a string, or a list of strings'),
        ("backend-header = 1", '"backend-header" in FILE must be a string, or a list of strings'),
        ('grpc = "localhost"', "is not HOST:PORT"),
        ("idle-seconds = 0", "is not a number of seconds above 0"),
    ],
)
def test_a_faulty_file_is_a_sentence(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(text)
    with pytest.raises(SettingError) as caught:
        read_settings(ServerSettings, {}, {}, file)
    shown = str(caught.value).replace(str(file), "FILE").replace("are not TOML", "is not TOML")
    assert message in shown


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"workers": "0"}, "--workers: '0' is not a number from 1 to 256"),
        ({"grpc": "0.0.0.0:0"}, "set --tokens-file FILE, or, if a network or a proxy keeps"),
        ({"http": "0.0.0.0:0"}, "0.0.0.0:0 is not a loopback address"),
        ({"tls_cert": "/nowhere.pem"}, "--tls-cert and --tls-key belong together"),
        ({"tls_client_ca": "/nowhere.pem"}, "--tls-client-ca requires --tls-cert"),
        ({"tls_cert": "/nowhere", "tls_key": "/nowhere"}, "/nowhere cannot be read"),
        ({"tls_cert": __file__, "tls_key": __file__}, "no certificate with its key"),
        ({"tokens_file": "/nowhere"}, "the file of tokens, /nowhere, cannot be read"),
        ({"tokens_file": __file__}, "is not NAME TOKEN"),
        ({"backend_headers_file": "/nowhere"}, "the file of the headers for the backend, /"),
        ({"backend_headers_file": __file__}, f"{__file__}: line 1: the name of a header"),
        ({"api_key_file": "/nowhere"}, "the file of the API key, /nowhere"),
    ],
)
def test_a_bad_setting_is_a_sentence(flags: dict[str, str], message: str) -> None:
    with pytest.raises(SettingError) as caught:
        check(read_settings(ServerSettings, flags, {}))
    assert str(caught.value).count(message) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "/nowhere.toml"], "/nowhere.toml cannot be read: No such file"),
        (["--http", "0.0.0.0:0"], "0.0.0.0:0 is not a loopback address"),
        (["--tls-cert", "/nowhere", "--tls-key", "/nowhere"], "/nowhere cannot be read"),
        (["--backend-headers-file", "/nowhere"], "the file of the headers for the backend, /"),
        (["--workers", "6", "--tokens-file", "/nowhere"], "the file of tokens, /nowhere"),
    ],
)
def test_a_bad_setting_stops_the_start_with_2(arguments: list[str], message: str) -> None:
    base = [*COMMAND, "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"]
    done = subprocess.run([*base, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count(message) == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--grpc", "127.0.0.1:0"], "--server 127.0.0.1:"),
        (["--grpc", "0.0.0.0:0", "--without-tokens", "on"], "--server 127.0.0.1:"),
        (["--grpc", "127.0.0.1:0", "--tokens-file", "TOKENS"], ""),
    ],
)
def test_commands_to_try_are_shown_only_where_they_work(
    arguments: list[str], hint: str, tmp_path: Path
) -> None:
    (tmp_path / "TOKENS").write_text("caller 0123456789abcdef")
    command = [*COMMAND, *arguments, "--http", "off", "--drain-delay-seconds", "0.1"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        first = process.stdout.readline()
        process.terminate()
        printed = process.stdout.read()
    assert first.startswith("listening grpc ")
    assert (hint in printed) if hint else (printed == "")


def test_relative_paths_of_the_file_are_relative_to_its_folder(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('tokens-file = "a/tokens"\nbackend-tls-ca = "/ca.pem"\n')
    settings = read_settings(ServerSettings, {"tls_cert": "cert.pem"}, {}, file)
    assert settings.tokens_file == tmp_path / "a/tokens"
    assert (settings.backend.tls.ca, settings.tls.cert) == (Path("/ca.pem"), Path("cert.pem"))
