"""Lines that a server writes from its start to its end."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trustme

import imagecall

SERVE = [sys.executable, "-m", "imagecall", "serve", "--grpc", "127.0.0.1:0", "--http", "off"]
QUICK = ["--drain-delay-seconds", "0.1"]


def started(*options: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "GRPC_VERBOSITY": ""}
    return subprocess.Popen(
        [*SERVE, *QUICK, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def certificate_in(directory: Path) -> list[str]:
    leaf = trustme.CA().issue_cert("localhost")
    leaf.private_key_pem.write_to_path(directory / "key.pem")
    leaf.cert_chain_pems[0].write_to_path(directory / "cert.pem")
    return ["--tls-cert", str(directory / "cert.pem"), "--tls-key", str(directory / "key.pem")]


def without_tls(address: str) -> None:
    """Sends what is no handshake of TLS, which gRPC's core logs by default."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        while connection.recv(1024):
            pass


@pytest.mark.parametrize("workers", ["1", "2"])
def test_with_json_each_line_is_json_and_the_steps_have_the_version(
    workers: str, tmp_path: Path
) -> None:
    options = ["--log-format", "json", "--workers", workers, "--metrics", "127.0.0.1:0"]
    with started(*options, *certificate_in(tmp_path)) as process:
        assert process.stderr
        lines: list[Any] = []
        while len(lines) < 3:
            lines.append(json.loads(process.stderr.readline()))
        without_tls(lines[1]["address"])
        process.send_signal(signal.SIGTERM)
        printed, written = process.communicate(timeout=60)
    lines += map(json.loads, written.splitlines())
    assert (process.returncode, printed) == (0, "")
    steps = [(line["message"], line.get("door")) for line in lines]
    assert steps == [
        ("starting", None),
        ("listening", "grpc"),
        ("listening", "metrics"),
        ("draining", None),
        ("stopped", None),
    ]
    assert {line["version"] for line in lines} == {imagecall.__version__}


@pytest.mark.parametrize(
    "options",
    [
        ["--tls-cert", "/nowhere.pem"],
        ["--tokens-file", "/nowhere"],
        ["--workers", "2", "--tokens-file", "/nowhere"],
        ["--metrics", "192.0.2.1:1"],
    ],
)
def test_with_json_a_start_that_fails_is_json_too(options: Sequence[str]) -> None:
    with started("--log-format", "json", *options) as process:
        printed, written = process.communicate(timeout=60)
    assert process.returncode in (1, 2)
    assert printed == ""
    lines = [json.loads(line) for line in written.splitlines()]
    assert [line["level"] for line in lines] == ["INFO", "ERROR"]


def test_as_text_the_addresses_are_printed_and_the_steps_logged(tmp_path: Path) -> None:
    with started(*certificate_in(tmp_path)) as process:
        assert process.stdout
        first = process.stdout.readline()
        assert re.fullmatch(r"listening grpc 127\.0\.0\.1:\d+\n", first)
        without_tls(first.split()[2])
        process.send_signal(signal.SIGTERM)
        _, written = process.communicate(timeout=60)
    version = f" version={imagecall.__version__}"
    expected = ("starting", "listening", "draining", "stopped")
    for line, step in zip(written.splitlines(), expected, strict=True):
        assert re.match(rf"\d{{4}}-\d\d-\d\d \S+ INFO {step}{version}", line)
