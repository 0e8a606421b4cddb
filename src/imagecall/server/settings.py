"""Settings of a server: by flag, by environment and by file, in that order of precedence.

The flag `--max-calls` is IMAGECALL_MAX_CALLS in the environment and `max-calls` in the TOML file of
`--config FILE` or IMAGECALL_CONFIG.
"""

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, TypeVar

from imagecall.access.limits import Limits
from imagecall.access.origins import read_origin
from imagecall.access.setting import (
    Setting,
    SettingError,
    address,
    address_or_off,
    build,
    choice,
    number,
    prefixed,
    seconds,
    sentence,
    setting,
    settings_of,
    switch,
)
from imagecall.backends.choice import EMBEDDED, FORMS
from imagecall.rpc.client_tls import ClientTls
from imagecall.rpc.headers import FORWARDED, Header, read_forwarded, read_header
from imagecall.server.settings_file import read_file

API_KEY: Final = "IMAGECALL_API_KEY"
"""Environment variable with the API key for the backend."""

CONFIG: Final = "IMAGECALL_CONFIG"
"""Environment variable with the path of the file of settings."""

TOKEN: Final = "IMAGECALL_TOKEN"
"""Environment variable with the bearer token for a server that a command calls."""

SERVER: Final = "IMAGECALL_SERVER"
"""Environment variable with the address of the server of `imagecall generate`."""

WORKER: Final = "IMAGECALL_IS_WORKER"
"""Environment variable that is set in each worker process of a server."""

_PREFIX: Final = "IMAGECALL_"

_Settings = TypeVar("_Settings")


@dataclass(frozen=True)
class ClientTlsSettings(ClientTls):
    """Settings of TLS towards a server, which a command calls, or which is the backend."""

    ca: Path | None = setting(
        None,
        "tls-ca",
        Path,
        "FILE",
        "CA certificates for the certificate of the server, PEM",
    )
    cert: Path | None = setting(
        None,
        "tls-cert",
        Path,
        "FILE",
        "certificate chain for a server that requires one, PEM",
    )
    key: Path | None = setting(None, "tls-key", Path, "FILE", "its private key, PEM")
    name: str | None = setting(
        None,
        "tls-name",
        str,
        "NAME",
        "name in the server's certificate, if that is not the host of the address",
    )


@dataclass(frozen=True)
class BackendSettings:
    """Settings of the backend, of `imagecall serve` and `imagecall generate`."""

    name: str | None = setting(
        None,
        "backend",
        str,
        "BACKEND",
        f"source of the images: {'; or '.join(FORMS)} (default: {EMBEDDED})",
    )
    api_key_file: Path | None = setting(
        None, "api-key-file", Path, "FILE", "file with the key for the backend"
    )
    headers: tuple[Header, ...] = setting(
        (),
        "backend-header",
        sentence(read_header),
        "'NAME: VALUE'",
        "header of each request to the backend, or metadata; may be repeated, in the environment "
        "one a line",
        separator="\n",
    )
    headers_file: Path | None = setting(
        None,
        "backend-headers-file",
        Path,
        "FILE",
        "file with such headers, one NAME: VALUE a line; a file does not appear in the list of "
        "processes",
    )
    tls: ClientTlsSettings = field(default_factory=ClientTlsSettings, metadata=prefixed("backend-"))
    fetch_images: bool = setting(
        False,
        "fetch-images",
        switch,
        "on|off",
        "on: images of which an Images API sends only the URL are fetched from any public host; "
        "off: only from the API's own",
    )


@dataclass(frozen=True)
class TlsSettings:
    """Settings of TLS: the certificate of all doors, and the CAs of client certificates."""

    cert: Path | None = setting(
        None,
        "tls-cert",
        Path,
        "FILE",
        "certificate chain for both doors, PEM; reloaded when it changes",
    )
    key: Path | None = setting(
        None,
        "tls-key",
        Path,
        "FILE",
        "private key of it, PEM; reloaded when it changes",
    )
    client_ca: Path | None = setting(
        None,
        "tls-client-ca",
        Path,
        "FILE",
        "CA certificates for those of clients, PEM: each client must have a certificate of one of "
        "these CAs; reloaded when it changes",
    )


@dataclass(frozen=True)
class ServerSettings:
    """Settings of `imagecall serve`."""

    grpc: str = setting(
        "127.0.0.1:50051",
        "grpc",
        address,
        "HOST:PORT",
        "address of the gRPC door; port 0 selects a free one",
    )
    http: str | None = setting(
        "127.0.0.1:8080",
        "http",
        address_or_off,
        "HOST:PORT",
        "address of the HTTP door; off: no HTTP door",
    )
    backend: BackendSettings = field(default_factory=BackendSettings)
    workers: int = setting(1, "workers", number(1, 256), "N", "processes that share the ports")
    tls: TlsSettings = field(default_factory=TlsSettings)
    tokens_file: Path | None = setting(
        None,
        "tokens-file",
        Path,
        "FILE",
        "bearer tokens, one NAME TOKEN a line: each call must have one of them; reloaded when it "
        "changes",
    )
    without_tokens: bool = setting(
        False,
        "without-tokens",
        switch,
        "on|off",
        "on: allow addresses other than loopback without tokens",
    )
    reflection: bool = setting(
        True, "reflection", switch, "on|off", "gRPC reflection: shows clients the schema"
    )
    channelz: bool = setting(
        False, "channelz", switch, "on|off", "gRPC channelz: shows clients the connections"
    )
    limits: Limits = field(default_factory=Limits)
    forward_headers: tuple[str, ...] = setting(
        FORWARDED,
        "forward-header",
        sentence(read_forwarded),
        "NAME",
        "header, or metadata, of a caller that is forwarded to the API; may be repeated; replaces "
        "the default; off: none",
        separator=",",
    )
    main_model: str | None = setting(
        None,
        "main-model",
        str,
        "MODEL",
        "model that calls the image tool for requests of the Images API, whose own model is that "
        "of the tool; a Responses API needs one, other backends none",
    )
    listed_models: tuple[str, ...] = setting(
        (),
        "listed-model",
        str,
        "MODEL",
        "model that GET /v1/models lists; may be repeated",
        separator=",",
    )
    cors_origins: tuple[str, ...] = setting(
        (),
        "cors-origin",
        sentence(read_origin),
        "ORIGIN",
        "origin of web pages that may call the HTTP door, such as https://app.example.com; may be "
        "repeated",
        separator=",",
    )
    drain_delay_seconds: float = setting(
        1.0,
        "drain-delay-seconds",
        seconds(),
        "SECONDS",
        "at SIGTERM, time in which new calls are still accepted after health is NOT_SERVING, so "
        "that load balancers notice",
    )
    drain_seconds: float = setting(
        30.0,
        "drain-seconds",
        seconds(),
        "SECONDS",
        "after that, time for the calls in progress to end",
    )
    log_format: str = setting(
        "text", "log-format", choice("text", "json"), "text|json", "form of the log, on stderr"
    )
    log_calls: bool = setting(False, "log-calls", switch, "on|off", "a log line for each call")
    metrics: str | None = setting(
        None,
        "metrics",
        address_or_off,
        "HOST:PORT",
        "address at which GET /metrics answers Prometheus, by plain HTTP and without a token; "
        "off: nowhere",
    )
    traces: bool = setting(
        False,
        "traces",
        switch,
        "on|off",
        "traces by OTLP, configured by OpenTelemetry's variables OTEL_...",
    )

    @property
    def call_addresses(self) -> dict[str, str]:
        """Address of each door that takes calls, by the name of its setting."""
        return {"grpc": self.grpc} | ({"http": self.http} if self.http else {})

    @property
    def addresses(self) -> dict[str, str]:
        """Address of each door that listens, by the name of its setting."""
        return self.call_addresses | ({"metrics": self.metrics} if self.metrics else {})


def add_settings(parser: argparse.ArgumentParser, kind: type[Any]) -> None:
    """Adds a flag for each setting of a dataclass."""
    for definition in settings_of(kind):
        default = "" if definition.default is None else f" (default: {definition.default})"
        action = "append" if definition.separator else "store"
        parser.add_argument(
            f"--{definition.name}",
            metavar=definition.metavar,
            help=definition.help + default,
            action=action,
        )


def read_settings(
    kind: type[_Settings],
    arguments: Mapping[str, Any],
    environment: Mapping[str, str],
    file: Path | None = None,
) -> _Settings:
    """Reads the settings of a dataclass such as ServerSettings.

    Args:
        kind: the dataclass.
        arguments: the values of the command line, by names with underscores.
        environment: the environment variables.
        file: a TOML file, with the lowest precedence. Relative paths in it are relative to the
            folder of the file.

    Raises SettingError with a sentence that names the flag, the variable or the file.
    """
    in_file = read_file(file, kind) if file else {}

    def value_of(definition: Setting) -> Any:
        sources = (
            (arguments.get(definition.key), f"--{definition.name}"),
            (environment.get(definition.variable) or None, f"${definition.variable}"),
            (in_file.get(definition.name), f'"{definition.name}" in {file}'),
            (definition.default, ""),
        )
        text: Any
        text, where = next((source for source in sources if source[0] is not None), (None, ""))
        try:
            if definition.separator:
                return tuple(map(definition.read, _texts(text, definition.separator)))
            return None if text is None else definition.read(text)
        except argparse.ArgumentTypeError as error:
            raise SettingError(f"{where}: {error}") from None

    settings: _Settings = build(kind, value_of)
    return settings


def misspelt(environment: Mapping[str, str]) -> Iterator[str]:
    """Yields a warning for each unknown IMAGECALL_ variable, with the nearest known name."""
    names = {definition.variable for definition in settings_of(ServerSettings)}
    names |= {API_KEY, CONFIG, SERVER, TOKEN, WORKER}
    for name in environment:
        if name.startswith(_PREFIX) and name not in names:
            matches = get_close_matches(name, names, n=1)
            hint = f"; did you mean {matches[0]}?" if matches else ""
            yield f"the environment variable {name} is not known{hint}"


def _texts(value: str | list[str] | None, separator: str) -> list[str]:
    """Returns the texts of a setting with several values; none for the word "off"."""
    if isinstance(value, str):
        value = [text for text in map(str.strip, value.split(separator)) if text]
    return [] if value is None or value == ["off"] else value
