"""JSON values for comparison: the spelling of numbers counts, the order of keys does not."""

import json
from typing import Any


def json_value(text: bytes | str) -> Any:
    """Parses a JSON text; a number becomes a tuple of its spelling."""
    return json.loads(text, parse_int=_number, parse_float=_number)


def _number(spelling: str) -> tuple[str, str]:
    return "number", spelling
