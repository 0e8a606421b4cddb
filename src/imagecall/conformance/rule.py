"""Rule of conformance: its name, its place in the schema, and its check."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from google.protobuf.descriptor_pool import Default

from imagecall.conformance.session import Session

README: Final = "proto/README.md"
_PACKAGE: Final = "imagecall.v1"


class Finding(NamedTuple):
    """Fault of a server.

    Attributes:
        came: value or behaviour of the server, and the answer that has it.
        expected: value or behaviour that the rule requires.
    """

    came: str
    expected: str


Check: TypeAlias = Callable[[Session], AsyncIterator[Finding]]
"""Yields the faults. Raises Skipped where the server, or a limit, allows no check."""


@dataclass(frozen=True)
class Rule:
    """Rule that a server of the schema follows.

    Attributes:
        name: stable name, in lower case with dashes.
        sentence: the rule, in one sentence.
        place: name in the schema whose comment states the rule, such as StreamEnd.ending; or the
            heading of a section of proto/README.md.
        check: finds the faults of a server.
    """

    name: str
    sentence: str
    place: str
    check: Check

    @property
    def where(self) -> str:
        """File that states the rule, and the place in the file."""
        if " " in self.place:
            return f"{README}, {self.place}"
        outermost = self.place.partition(".")[0]
        file = Default().FindFileContainingSymbol(f"{_PACKAGE}.{outermost}")
        return f"{file.name}, {self.place}"
