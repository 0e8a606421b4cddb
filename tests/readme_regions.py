"""The lines of the programs of tests/interop that the README of each language shows."""

import re
import textwrap
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[1]
README: Final = ROOT / "README.md"

_REGION: Final = re.compile(r"^[^\n]*README: begin[^\n]*\n(.*?)^[^\n]*README: end", re.M | re.S)
_SHOWN: Final = re.compile(r"<!-- (tests/interop/\S+) -->\n\n```\w+\n(.*?)```", re.S)
_MADE: Final = {"node_modules", "gen", "dist", "target", "cmake-build"}


class Region(NamedTuple):
    """Lines, and the file that they are of, from the top level."""

    file: str
    lines: str


def guides() -> dict[str, str]:
    """The text of the README of each language, by the name of its folder."""
    return {path.parent.name: path.read_text() for path in ROOT.glob("tests/interop/*/README.md")}


def shown() -> list[Region]:
    """The lines that these texts show."""
    return [Region(*match) for text in guides().values() for match in _SHOWN.findall(text)]


def marked() -> list[Region]:
    """Those that the programs mark."""
    found = []
    for path in sorted((ROOT / "tests/interop").rglob("*")):
        if path.is_file() and path.suffix != ".md" and not _MADE & set(path.parts):
            text = path.read_bytes().decode(errors="replace")
            for lines in _REGION.findall(text):
                name = path.relative_to(ROOT).as_posix()
                found.append(Region(name, textwrap.dedent(lines).strip("\n") + "\n"))
    return found
