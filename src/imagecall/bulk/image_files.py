"""Files of images in a folder, named by the id of the item and a number.

No value of the data becomes part of a path: of an id, letters, digits, "-", "_" and "." stay, and
every other character becomes "_". A file is complete or not there: it is written under a temporary
name first. Nothing is written through a symbolic link.
"""

import filecmp
import hashlib
import os
import re
import sqlite3
import string
import tempfile
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeAlias

from imagecall.bulk.outputs import umask
from imagecall.formats import image_format

DEFAULT_NAME: Final = "{id}-{n}.{ext}"

_FIELDS: Final = ("id", "n", "ext")
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._-]")
_MAX_ID: Final = 100
_NO_ID: Final = "image"
_EXTENSIONS: Final = {"jpeg": "jpg", None: "bin"}
_RESERVED: Final = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\.|\Z)", re.IGNORECASE)
"""Names that Windows does not take for a file, with any extension."""


State: TypeAlias = Literal["new", "there already", "repeated"]


class Written(NamedTuple):
    """Outcome for an image.

    Attributes:
        path: path of the file.
        state: "new"; "there already": the same file is from before; "repeated": the same image of
            the same item was written in this run.
    """

    path: Path
    state: State


class NotWritten(Exception):
    """Raised for an image whose file cannot be written; the text is a sentence."""


def name_fault(template: str) -> str | None:
    """Sentence about a faulty template of names; None for a right one."""
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(template)]
        name = template.format(id="a", n=1, ext="png")
    except (ValueError, LookupError, AttributeError, TypeError):
        return f"{template!r} must be a name with {{id}}, {{n}} and {{ext}}"
    if not {field for field in fields if field is not None} <= set(_FIELDS):
        return f"{template!r} has another field than {{id}}, {{n}} and {{ext}}"
    if name != os.path.basename(name) or "\\" in name or "\0" in name or name in ("", ".", ".."):
        return f"{template!r} must be the name of a file, without a folder"
    return None


class ImageFiles:
    """Writer of the images of one run.

    Args:
        folder: folder of the files, made for the first of them if it is missing.
        template: name of a file, with {id}, {n} and {ext}.
        force: True to replace files that are there from before.
    """

    def __init__(self, folder: Path, template: str, force: bool) -> None:
        self._folder = folder
        self._template = template
        self._force = force
        self._names = _Names()

    def write(self, id: str, image: bytes, label: str = "") -> Written:
        """Writes an image of an item, with a label of its own between id and number.

        An image that the item had before is not written again. Raises NotWritten, and OSError for a
        folder that cannot be made.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        stem = _safe(id) + label
        digest = hashlib.sha256(image).digest()
        if id and (name := self._names.find(stem, digest)):
            return Written(self._folder / name, "repeated")
        known = image_format(image)
        extension = _EXTENSIONS.get(known, known)
        number = self._names.next_number(stem)
        name = self._template.format(id=stem, n=number, ext=extension)
        name = f"_{name}" if _RESERVED.match(name) else name
        if not self._names.take(name):
            raise NotWritten(f"{name} is the name of an earlier image: use {{n}} in --name")
        written = self._save(self._folder / name, image)
        self._names.add(stem, digest, name)
        return written

    def _save(self, path: Path, image: bytes) -> Written:
        try:
            handle, temporary = tempfile.mkstemp(prefix=".imagecall-", dir=self._folder)
            try:
                with open(handle, "wb") as file:
                    file.write(image)
                return Written(path, self._place(Path(temporary), path))
            finally:
                Path(temporary).unlink(missing_ok=True)
        except OSError as error:
            raise NotWritten(f"{path.name} cannot be written: {error.strerror}") from None

    def _place(self, temporary: Path, path: Path) -> State:
        """Moves a file to its path. Raises NotWritten if another file is there."""
        temporary.chmod(0o666 & ~umask())
        if self._force:
            os.replace(temporary, path)
            return "new"
        try:
            _move(temporary, path)
        except FileExistsError:
            if _is_same(temporary, path):
                return "there already"
            raise NotWritten(f"{path.name} is there already: --force replaces it") from None
        return "new"


def _move(temporary: Path, path: Path) -> None:
    """Moves a file. Raises FileExistsError rather than replace another."""
    try:
        os.link(temporary, path)  # Unlike a rename, a link replaces nothing.
    except FileExistsError:
        raise
    except OSError:  # A file system without links.
        if os.path.lexists(path):
            raise FileExistsError from None
        os.replace(temporary, path)


def _is_same(temporary: Path, path: Path) -> bool:
    is_file = path.is_file() and not path.is_symlink()
    return is_file and filecmp.cmp(temporary, path, shallow=False)


def _safe(id: str) -> str:
    """Part of a name for an id; "image" for none."""
    return _UNSAFE.sub("_", id[:_MAX_ID]).lstrip(".-") or _NO_ID


class _Names:
    """Names that were used, in a temporary database: they may be more than memory holds.

    Names that differ only in case are the same.
    """

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        for statement in (
            "PRAGMA journal_mode = OFF",
            "CREATE TABLE numbers (stem TEXT PRIMARY KEY, last INTEGER) WITHOUT ROWID",
            "CREATE TABLE names (name TEXT PRIMARY KEY) WITHOUT ROWID",
            "CREATE TABLE images (stem TEXT, digest BLOB, name TEXT, PRIMARY KEY (stem, digest))"
            " WITHOUT ROWID",
        ):
            self._database.execute(statement)

    def find(self, stem: str, digest: bytes) -> str | None:
        """Name of an image of an item that was written; None for none."""
        row = self._database.execute(
            "SELECT name FROM images WHERE stem = ? AND digest = ?", (stem.lower(), digest)
        ).fetchone()
        return row[0] if row else None

    def next_number(self, stem: str) -> int:
        """Next number of the images of an item, from 1."""
        row = self._database.execute(
            "INSERT INTO numbers VALUES (?, 1)"
            " ON CONFLICT (stem) DO UPDATE SET last = last + 1 RETURNING last",
            (stem.lower(),),
        ).fetchone()
        return int(row[0])

    def take(self, name: str) -> bool:
        """Takes a name. Returns False if it is taken."""
        row = ("INSERT OR IGNORE INTO names VALUES (?)", (name.lower(),))
        return self._database.execute(*row).rowcount == 1

    def add(self, stem: str, digest: bytes, name: str) -> None:
        """Adds an image that was written."""
        row = (stem.lower(), digest, name)
        self._database.execute("INSERT OR IGNORE INTO images VALUES (?, ?, ?)", row)
