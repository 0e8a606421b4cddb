"""The settings of a server: by flag, by environment and by file, in that order of precedence.

A flag `--max-calls` is IMAGECALL_MAX_CALLS in the environment
and `max-calls` in the file, which is TOML: `--config FILE`, or IMAGECALL_CONFIG.
"""

import argparse
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from imagecall.rpc.addresses import is_address
from imagecall.server.limits import Limits

_MAX_JSON_BYTES: Final = 2**30
_MAX_IMAGE_BYTES: Final = 2**32 - 1
_LARGE: Final = 2**31 - 1
_WEEK: Final = 7 * 24 * 3600


class SettingError(Exception):
    """A setting that cannot be as it is."""


class Setting(NamedTuple):
    """A setting.

    Attributes:
        name: as a flag, without the dashes before it.
        read: what makes a value of a text. Raises argparse.ArgumentTypeError.
        default: the value, as a text. None: there is none.
        shown: what stands for the value in the help.
        help: a phrase.
    """

    name: str
    read: Callable[[str], Any]
    default: str | None
    shown: str
    help: str

    @property
    def variable(self) -> str:
        """The name in the environment."""
        return "IMAGECALL_" + self.name.upper().replace("-", "_")


def address(text: str) -> str:
    """HOST:PORT."""
    if not is_address(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT with a port of 0 to 65535")
    return text


def number(lowest: int, highest: int) -> Callable[[str], int]:
    """Reads a whole number."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and lowest <= int(text[:20]) <= highest):
            message = f"{text!r} is not a number from {lowest} to {highest}"
            raise argparse.ArgumentTypeError(message)
        return int(text)

    return read


def seconds(highest: int = _WEEK) -> Callable[[str], float]:
    """Reads a time, above 0."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = 0
        if not 0 < value <= highest:
            message = f"{text!r} is not a number of seconds above 0, up to {highest}"
            raise argparse.ArgumentTypeError(message)
        return value

    return read


def choice(*choices: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in choices:
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(choices)}")
        return text

    return read


def switch(text: str) -> bool:
    return choice("on", "off")(text) == "on"


def _address_or_off(text: str) -> str | None:
    return None if text == "off" else address(text)


BACKEND: Final = (
    Setting(
        "backend",
        str,
        "embedded",
        "BACKEND",
        "what generates images: embedded (test cards, no network), the base URL of a Responses API "
        "such as https://openrouter.ai/api/v1, or another server of the same schema: "
        "grpc://HOST:PORT, or grpcs://HOST:PORT with TLS",
    ),
    Setting("api-key-file", Path, None, "FILE", "file with the key for the backend"),
)
"""The settings that choose a backend, which `imagecall generate` has too."""

SERVER: Final = (
    Setting(
        "grpc",
        address,
        "127.0.0.1:50051",
        "HOST:PORT",
        "where the gRPC door listens; port 0 takes a free one",
    ),
    Setting(
        "http",
        _address_or_off,
        "127.0.0.1:8080",
        "HOST:PORT",
        "where the HTTP door listens; off: it does not",
    ),
    *BACKEND,
    Setting("workers", number(1, 256), "1", "N", "processes that share the two ports"),
    Setting(
        "tls-cert",
        Path,
        None,
        "FILE",
        "certificate chain for both doors, PEM; read anew when it changes",
    ),
    Setting("tls-key", Path, None, "FILE", "its private key, PEM; read anew when it changes"),
    Setting(
        "tls-client-ca",
        Path,
        None,
        "FILE",
        "authorities, PEM: each client must have a certificate of one; read anew when it changes",
    ),
    Setting(
        "tokens-file",
        Path,
        None,
        "FILE",
        "bearer tokens, one of which each call needs: a line NAME TOKEN each; read anew when it "
        "changes",
    ),
    Setting(
        "without-tokens",
        switch,
        "off",
        "on|off",
        "on: listen on addresses other than loopback, and ask for no token",
    ),
    Setting("reflection", switch, "on", "on|off", "gRPC reflection: tells clients the schema"),
    Setting("channelz", switch, "off", "on|off", "gRPC channelz: tells clients of connections"),
    Setting(
        "max-json-bytes",
        number(1, _MAX_JSON_BYTES),
        str(Limits.json_bytes),
        "N",
        "longest JSON text, read or written",
    ),
    Setting(
        "max-image-bytes",
        number(1, _MAX_IMAGE_BYTES),
        str(Limits.image_bytes),
        "N",
        "largest image that a backend may answer with",
    ),
    Setting(
        "max-stream-items",
        number(1, _LARGE),
        str(Limits.stream_items),
        "N",
        "most items on one stream of ConvertCalls",
    ),
    Setting(
        "max-calls",
        number(1, _LARGE),
        str(Limits.calls),
        "N",
        "most calls in progress, of both doors, of one worker",
    ),
    Setting(
        "max-connections",
        number(1, _LARGE),
        str(Limits.connections),
        "N",
        "most connections to a door of one worker",
    ),
    Setting(
        "max-metadata-bytes",
        number(1024, 1024 * 1024),
        str(Limits.metadata_bytes),
        "N",
        "largest metadata of a call, or header of an HTTP request",
    ),
    Setting(
        "max-call-seconds",
        seconds(),
        str(Limits.call_seconds),
        "SECONDS",
        "longest call, whatever its own deadline",
    ),
    Setting(
        "idle-seconds",
        seconds(),
        str(Limits.idle_seconds),
        "SECONDS",
        "close a connection that has had no call for so long",
    ),
    Setting(
        "drain-delay-seconds",
        seconds(),
        "1",
        "SECONDS",
        "at SIGTERM, how long new calls are taken after health says NOT_SERVING, until load "
        "balancers have heard it",
    ),
    Setting(
        "drain-seconds",
        seconds(),
        "30",
        "SECONDS",
        "then, how long the calls in progress may take",
    ),
    Setting(
        "log-format", choice("text", "json"), "text", "text|json", "form of the log, on stderr"
    ),
    Setting("log-calls", switch, "off", "on|off", "a line of the log for each call"),
    Setting(
        "metrics", switch, "off", "on|off", "metrics: GET /metrics of the HTTP door, and by OTLP"
    ),
    Setting(
        "traces",
        switch,
        "off",
        "on|off",
        "traces, by OTLP: where to, the variables OTEL_EXPORTER_OTLP_... of OpenTelemetry say",
    ),
)
"""The settings of `imagecall serve`."""


def add_settings(parser: argparse.ArgumentParser, settings: Sequence[Setting]) -> None:
    """Adds the flags."""
    for setting in settings:
        shown = "" if setting.default is None else f" (default: {setting.default})"
        parser.add_argument(
            f"--{setting.name}",
            metavar=setting.shown,
            help=setting.help + shown,
        )


def read_settings(
    given: Mapping[str, Any],
    settings: Sequence[Setting],
    environment: Mapping[str, str],
    file: Path | None = None,
) -> argparse.Namespace:
    """The value of each setting, under its name with underscores.

    Args:
        given: what the command line says; names have underscores there too.
        settings: which there are.
        environment: what the environment says.
        file: what stands behind both.

    Raises SettingError with a sentence that names where the setting was set.
    """
    in_file = _read_file(file, settings) if file else {}
    values = argparse.Namespace()
    for setting in settings:
        key = setting.name.replace("-", "_")
        sources = (
            (given.get(key), f"--{setting.name}"),
            (environment.get(setting.variable) or None, f"${setting.variable}"),
            (in_file.get(setting.name), f'"{setting.name}" in {file}'),
            (setting.default, ""),
        )
        text, where = next(
            ((text, where) for text, where in sources if text is not None), (None, "")
        )
        try:
            value = None if text is None else setting.read(text)
        except argparse.ArgumentTypeError as error:
            raise SettingError(f"{where}: {error}") from None
        setattr(values, key, value)
    return values


def _read_file(file: Path, settings: Sequence[Setting]) -> dict[str, str]:
    try:
        found = tomllib.loads(file.read_text())
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise SettingError(f"the settings in {file} cannot be read: {reason}") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingError(f"the settings in {file} are not TOML: {error}") from None
    names = {setting.name for setting in settings}
    for name, value in found.items():
        if name not in names:
            raise SettingError(
                f'there is no setting "{name}", which {file} has; see imagecall serve --help'
            )
        if not isinstance(value, str | int | float):
            raise SettingError(f'"{name}" in {file} must be a string, a number, true or false')
    return {name: _text(value) for name, value in found.items()}


def _text(value: str | float | bool) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else str(value)
