"""Settings: by flag, environment and file; what is wrong with one, in a sentence."""

import subprocess
import sys
from pathlib import Path

import pytest

from imagecall.access.limits import Limits
from imagecall.access.setting import SettingError
from imagecall.server.settings import ServerSettings, misspelt, read_settings

COMMAND = [sys.executable, "-m", "imagecall", "serve"]


def test_a_flag_comes_before_the_environment_and_that_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    lines = (
        "max-calls = 1",
        "max-connections = 2",
        "workers = 3",
        'http = "off"',
        "metrics = true",
    )
    file.write_text("\n".join(lines))
    environment = {"IMAGECALL_MAX_CALLS": "4", "IMAGECALL_MAX_CONNECTIONS": "5"}
    settings = read_settings(ServerSettings, {"max_calls": "6"}, environment, file)
    assert (settings.limits.calls, settings.limits.connections, settings.workers) == (6, 5, 3)
    assert (settings.http, settings.metrics, settings.traces) == (None, True, False)


def test_without_any_setting_the_defaults_are_those_of_the_dataclasses() -> None:
    assert read_settings(ServerSettings, {}, {}) == ServerSettings()
    assert ServerSettings().limits == Limits()


def test_a_misspelt_variable_is_named_with_the_nearest_right_one() -> None:
    environment = {"IMAGECALL_MAX_CALL": "1", "IMAGECALL_MAX_CALLS": "1", "IMAGECALL_API_KEY": "k"}
    [warning] = misspelt(environment)
    assert "IMAGECALL_MAX_CALL is not known; did you mean IMAGECALL_MAX_CALLS?" in warning
    assert "k" not in warning.split()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max-calls = 0", "\"max-calls\" in FILE: '0' is not a number from 1"),
        ("maxcalls = 1", 'there is no setting "maxcalls"'),
        ("max-calls", "is not TOML"),
        ("max-calls = [1]", '"max-calls" in FILE must be a string, a number, true or false'),
        ('reflection = "yes"', "'yes' is none of on, off"),
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
    ("arguments", "code", "message"),
    [
        (["--config", "/nowhere.toml"], 2, "/nowhere.toml cannot be read: No such file"),
        (["--workers", "0"], 2, "--workers: '0' is not a number from 1 to 256"),
        (["--grpc", "0.0.0.0:0"], 1, "--tokens-file FILE, or, if something else keeps strangers"),
        (["--http", "0.0.0.0:0"], 1, "0.0.0.0:0 can be reached from elsewhere"),
        (["--tls-cert", "/nowhere.pem"], 1, "--tls-cert and --tls-key belong together"),
        (["--tls-client-ca", "/nowhere.pem"], 1, "--tls-client-ca needs --tls-cert"),
        (["--tls-cert", "/nowhere", "--tls-key", "/nowhere"], 1, "/nowhere cannot be read"),
        (["--tls-cert", __file__, "--tls-key", __file__], 1, "no certificate with its key"),
        (["--tokens-file", "/nowhere"], 1, "the file of tokens, /nowhere, cannot be read"),
        (["--tokens-file", __file__], 1, "is not NAME TOKEN"),
        (["--workers", "6", "--tokens-file", "/nowhere"], 1, "the file of tokens, /nowhere"),
        (["--workers", "6", "--api-key-file", "/nowhere"], 1, "the file of the API key, /nowhere"),
    ],
)
def test_a_bad_setting_stops_the_start_with_a_sentence(
    arguments: list[str], code: int, message: str
) -> None:
    base = [*COMMAND, "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"]
    done = subprocess.run([*base, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.count(message) == 1
    assert "Traceback" not in done.stderr
