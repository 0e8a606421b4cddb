"""Definition of a setting: a field of a frozen dataclass with a flag, a parser and a help text.

A setting is defined once, as a field `max_calls: int = setting(1000, "max-calls", …)`. The flags,
the environment variables, the keys of the file and the tables of the README derive from that field.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import Field, field, fields, is_dataclass
from typing import Any, Final, NamedTuple

from imagecall.rpc.addresses import is_address

_PREFIX: Final = "IMAGECALL_"
_KEY: Final = "setting"
_PREFIXED: Final = "prefix"
_WEEK: Final = 7 * 24 * 3600


class SettingError(Exception):
    """A setting with a value that cannot be used."""


class Setting(NamedTuple):
    """A setting of a command.

    Attributes:
        name: flag, without its leading dashes.
        read: converts a text to the value. Raises argparse.ArgumentTypeError.
        default: default value as a text; None without a default.
        metavar: placeholder of the value in the help.
        help: phrase for the help.
        separator: separator of several values in the environment and in the default. "": the
            setting has one value. With several values, the flag can be repeated, the file can have
            a list, and the value is a tuple.
    """

    name: str
    read: Callable[[str], Any]
    default: str | None
    metavar: str
    help: str
    separator: str = ""

    @property
    def variable(self) -> str:
        """Name of the environment variable."""
        return _PREFIX + self.name.upper().replace("-", "_")

    @property
    def key(self) -> str:
        """Name of the value among the parsed arguments of a command line."""
        return self.name.replace("-", "_")


def setting(
    default: Any,
    name: str,
    read: Callable[[str], Any],
    metavar: str,
    help: str,
    separator: str = "",
) -> Any:
    """Defines a dataclass field as a setting; Setting describes the arguments."""
    definition = Setting(name, read, _text(default), metavar, help, separator)
    return field(default=default, metadata={_KEY: definition})


def prefixed(prefix: str) -> dict[str, str]:
    """Metadata of a field with a dataclass of settings: the prefix of their names."""
    return {_PREFIXED: prefix}


def _text(default: Any) -> str | None:
    match default:
        case None | ():
            return None
        case tuple():
            return ", ".join(default)
        case bool():
            return "on" if default else "off"
        case float():
            return f"{default:g}"
    return str(default)


def settings_of(kind: type[Any], prefix: str = "") -> Iterator[Setting]:
    """Yields the settings of a dataclass, and of dataclasses in its fields, in order."""
    for entry in fields(kind):
        if is_dataclass(entry.type):
            yield from settings_of(entry.type, _prefix_of(entry, prefix))  # type: ignore[arg-type]  # a class, not an instance
        else:
            yield _setting_of(entry, prefix)


def build(kind: type[Any], value_of: Callable[[Setting], Any], prefix: str = "") -> Any:
    """Builds a dataclass of settings, with the value of each setting from `value_of`."""
    return kind(
        **{
            entry.name: build(entry.type, value_of, _prefix_of(entry, prefix))  # type: ignore[arg-type]  # a class
            if is_dataclass(entry.type)
            else value_of(_setting_of(entry, prefix))
            for entry in fields(kind)
        }
    )


def _prefix_of(group: Field[Any], prefix: str) -> str:
    return prefix + str(group.metadata.get(_PREFIXED, ""))


def _setting_of(entry: Field[Any], prefix: str) -> Setting:
    definition: Setting = entry.metadata[_KEY]
    return definition._replace(name=prefix + definition.name)


def address(text: str) -> str:
    """Reads HOST:PORT."""
    if not is_address(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT with a port of 0 to 65535")
    return text


def address_or_off(text: str) -> str | None:
    """Reads HOST:PORT, or "off" as None."""
    return None if text == "off" else address(text)


def sentence(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Wraps a reader whose ValueErrors are sentences about the setting."""

    def reading(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return reading


def number(lowest: int, highest: int) -> Callable[[str], int]:
    """Reads a whole number from `lowest` to `highest`."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and lowest <= int(text[:20]) <= highest):
            message = f"{text!r} is not a number from {lowest} to {highest}"
            raise argparse.ArgumentTypeError(message)
        return int(text)

    return read


def seconds(highest: int = _WEEK) -> Callable[[str], float]:
    """Reads a duration in seconds, above 0 and up to `highest`."""

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
    """Reads one of the `choices`."""

    def read(text: str) -> str:
        if text not in choices:
            raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(choices)}")
        return text

    return read


def switch(text: str) -> bool:
    """Reads "on" or "off"."""
    return choice("on", "off")(text) == "on"
