"""File of settings in TOML, with the settings' names as its keys."""

from pathlib import Path
from typing import Any

from imagecall.access.setting import Setting, SettingError, settings_of


def read_file(file: Path, kind: type[Any]) -> dict[str, str | list[str]]:
    """Reads a file: the texts of settings of a dataclass, by their names.

    A relative path is joined to the folder of the file. Raises SettingError.
    """
    settings = {definition.name: definition for definition in settings_of(kind)}
    values = _values(file)
    for name, value in values.items():
        if name not in settings:
            raise SettingError(
                f'{file} has "{name}", which is not a setting; see imagecall serve --help'
            )
        if settings[name].separator:
            if not _is_texts(value):
                raise SettingError(f'"{name}" in {file} must be a string, or a list of strings')
        elif not isinstance(value, str | int | float):
            raise SettingError(f'"{name}" in {file} must be a string, a number, true or false')
    directory = file.absolute().parent
    return {name: _text(settings[name], value, directory) for name, value in values.items()}


def _values(file: Path) -> dict[str, Any]:
    import tomllib  # Not for a command without a file of settings: it takes a while to load.

    try:
        return tomllib.loads(file.read_text())
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise SettingError(f"the settings in {file} cannot be read: {reason}") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingError(f"the settings in {file} are not TOML: {error}") from None


def _is_texts(value: object) -> bool:
    values = value if isinstance(value, list) else [value]
    return all(isinstance(text, str) for text in values)


def _text(
    definition: Setting, value: str | float | bool | list[str], directory: Path
) -> str | list[str]:
    if isinstance(value, str) and definition.read is Path:
        return str(directory / value)
    if isinstance(value, bool):
        return "on" if value else "off"
    return value if isinstance(value, list) else str(value)
