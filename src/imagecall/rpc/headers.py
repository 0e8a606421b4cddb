"""Further headers of requests to a backend: those that the operator sets, and some of the caller.

No error message here quotes a header: its value, or a value in place of the name, may be a secret.
"""

import re
from collections.abc import Iterable
from typing import Final, NamedTuple, TypeAlias

FORWARDED: Final = (
    "Idempotency-Key",
    "HTTP-Referer",
    "X-Title",
    "OpenAI-Organization",
    "OpenAI-Project",
)
"""Headers of a caller that are forwarded to the API by default."""

AUTHORIZATION: Final = "authorization"

_OURS: Final = frozenset(
    {
        "accept",
        "accept-encoding",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "traceparent",
        "tracestate",
        "x-request-id",
    }
)
_HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Hop-by-hop headers: RFC 9110, section 7.6.1."""

_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_METADATA_NAME: Final = re.compile(r"(?!grpc-)[0-9a-z_.-]+(?<!-bin)")
_CREDENTIAL: Final = re.compile("auth|cookie|credential|key|password|secret|signature|token")

Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]


class Header(NamedTuple):
    """Header that the operator sets.

    Attributes:
        name: name as it is sent.
        value: printable ASCII.
        from_file: True for a header from a file of secrets.
    """

    name: str
    value: str
    from_file: bool = False

    @property
    def is_secret(self) -> bool:
        """True for a header from a file of secrets, or with the name of a credential."""
        return self.from_file or bool(_CREDENTIAL.search(self.name.lower()))


def read_header(text: str) -> Header:
    """Reads "NAME: VALUE". Raises ValueError."""
    name, colon, value = text.partition(":")
    if not colon:
        raise ValueError("a header is not NAME: VALUE")
    header = Header(name, value.strip(" \t"))
    _check(header)
    return header


def read_headers(text: str) -> Iterable[Header]:
    """Reads a file with one header a line; skips blank lines and lines that begin with #.

    Raises ValueError.
    """
    for number, line in enumerate(map(str.strip, text.splitlines()), start=1):
        if line and not line.startswith("#"):
            try:
                yield read_header(line)._replace(from_file=True)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None


def read_forwarded(text: str) -> str:
    """Reads the name of a header that is forwarded. Raises ValueError."""
    _check_name(text)
    check_metadata_name(text)
    return text


def check_metadata_name(name: str) -> None:
    """Raises ValueError for a header that cannot be gRPC metadata."""
    if not _METADATA_NAME.fullmatch(name.lower()) or name.lower() == "user-agent":
        raise ValueError("the name of a header cannot be a name of gRPC metadata")


def by_name(headers: Iterable[Header], api_key: str) -> dict[str, Header]:
    """Returns the headers by their names in lower case.

    Raises ValueError for a header that cannot be sent, that is there twice, or that the API key
    sets.
    """
    named: dict[str, Header] = {}
    for header in headers:
        _check(header)
        name = header.name.lower()
        if name in named:
            raise ValueError("a header for the backend is set twice")
        if name == AUTHORIZATION and api_key:
            raise ValueError("the header authorization and the API key exclude each other: set one")
        named[name] = header
    return named


def forwarded(headers: Iterable[tuple[str, str | bytes]], names: frozenset[str]) -> Metadata:
    """Returns a caller's headers, or metadata, that have one of the names, in lower case.

    Leaves out a value that is not printable ASCII, as it cannot be sent unchanged.
    """
    return tuple(
        (name, value)
        for name, value in ((name.lower(), value) for name, value in headers)
        if name in names and isinstance(value, str) and _is_value(value)
    )


def lower(names: Iterable[str]) -> frozenset[str]:
    """Returns names in lower case, for comparison."""
    return frozenset(name.lower() for name in names)


def _check(header: Header) -> None:
    _check_name(header.name)
    if not header.value:
        raise ValueError("a header has no value")
    if not _is_value(header.value):
        raise ValueError("the value of a header is not printable ASCII")


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError("the name of a header is empty, or has characters that are not allowed")
    for names, reason in (
        (_OURS, "is set for each request"),
        (_HOP_BY_HOP, "belongs to a connection, not to a request"),
    ):
        if name.lower() in names:
            raise ValueError(f'the header "{name.lower()}" {reason}')


def _is_value(text: str) -> bool:
    return text.isascii() and text.isprintable()
