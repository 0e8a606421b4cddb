"""Bearer tokens (RFC 6750) that a server accepts, each with the name of its holder."""

import hashlib
import hmac
import re
from pathlib import Path
from typing import Final

from imagecall.access.secret_file import read_secret
from imagecall.access.watched_files import WatchedFiles
from imagecall.errors import GenerationError

_LINE: Final = re.compile(r"(?P<name>\S+)[ \t]+(?P<token>[A-Za-z0-9._~+/-]+=*)")
_MIN_LENGTH: Final = 16
_BEARER: Final = "bearer "


class Tokens:
    """Tokens of a file, one per line as "NAME TOKEN"; blank lines and # comments are skipped.

    The tokens are reloaded when the file changes. Raises OSError with a sentence for a faulty file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._digests = WatchedFiles([path], self._read)

    def holder(self, authorization: str) -> str:
        """Returns the name of the holder of the token in an `authorization` header.

        Raises GenerationError: TOKEN_REQUIRED. The tokens are compared in constant time.
        """
        token = ""
        if authorization[: len(_BEARER)].lower() == _BEARER:
            token = authorization[len(_BEARER) :].strip()
        digest = _digest(token)
        holder_name = ""
        for name, accepted in self._digests.get():
            if hmac.compare_digest(digest, accepted):
                holder_name = name
        if holder_name and token:
            return holder_name
        message = "no token that this server accepts: send the metadata or header authorization: "
        raise GenerationError("TOKEN_REQUIRED", message + "Bearer TOKEN")

    def _read(self) -> list[tuple[str, bytes]]:
        subject = f"the file of tokens, {self._path}"
        lines = read_secret(self._path, "tokens").splitlines()
        tokens = []
        for number, line in enumerate(map(str.strip, lines), start=1):
            if not line or line.startswith("#"):
                continue
            match = _LINE.fullmatch(line)
            if match is None:
                raise OSError(f"line {number} of {subject}, is not NAME TOKEN")
            if len(match["token"]) < _MIN_LENGTH:
                raise OSError(
                    f"the token in line {number} of {subject}, "
                    f"has less than {_MIN_LENGTH} characters"
                )
            tokens.append((match["name"], _digest(match["token"])))
        if not tokens:
            raise OSError(f"{subject}, has no tokens")
        return tokens


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="replace")).digest()
