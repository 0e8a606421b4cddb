"""Tables of proto/README.md, made from the schema; `python -m tests.tables` writes them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from imagecall.conformance.rule import Rule
from imagecall.conformance.suite import RULES
from imagecall.errors import CODES, REASONS_BY_HTTP_STATUS

_SCHEMA: Final = Path(__file__).parents[1] / "proto"
README: Final = _SCHEMA / "README.md"
_REASONS: Final = _SCHEMA / "imagecall/v1/conversion_error.proto"
_VALUE: Final = re.compile(r"((?:  //[^\n]*\n)+)  ERROR_REASON_(\w+) = ")
_REASONS_PLACE: Final = re.compile(r"(<!-- reasons: begin -->\n).*?(<!-- reasons: end -->)", re.S)
_RULES_PLACE: Final = re.compile(r"(<!-- rules: begin -->\n).*?(<!-- rules: end -->)", re.S)


def reasons() -> str:
    """A row for each ErrorReason: its name, gRPC code, HTTP statuses of an API, and comment."""
    return "\n".join(
        ["| reason | gRPC status | status of an API | meaning |", "|---|---|---|---|", *_rows(), ""]
    )


def _rows() -> Iterator[str]:
    for comment, reason in _VALUE.findall(_REASONS.read_text()):
        if reason in CODES:
            of_api = [str(status) for status, r in REASONS_BY_HTTP_STATUS.items() if r == reason]
            meaning = " ".join(line.strip(" /") for line in comment.splitlines())
            yield f"| `{reason}` | `{CODES[reason]}` | {', '.join(of_api)} | {meaning} |"


def rules() -> str:
    """A row for each rule of conformance: its name, sentence and place."""
    rows = [f"| `{rule.name}` | {rule.sentence} | {_place(rule)} |" for rule in RULES]
    return "\n".join(["| rule | sentence | place |", "|---|---|---|", *rows, ""])


def _place(rule: Rule) -> str:
    return "above" if " " in rule.place else f"`{rule.place}`"


def written() -> str:
    """The text of proto/README.md with its tables made anew."""
    text = _REASONS_PLACE.sub(lambda place: place[1] + reasons() + place[2], README.read_text())
    return _RULES_PLACE.sub(lambda place: place[1] + rules() + place[2], text)


if __name__ == "__main__":
    README.write_text(written())
