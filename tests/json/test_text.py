"""JSON text: what is refused, and that the diagnosis and the parser agree on it."""

import json
import random
import time
from collections.abc import Iterator
from typing import Any

import pytest

from imagecall.errors import ConversionError
from imagecall.json.diagnosis import diagnose
from imagecall.json.text import (
    MAX_ESCAPES,
    MAX_VALUES,
    check_values,
    closing_brackets,
    count_values,
    elements,
    join_elements,
    join_members,
    members,
    parse,
)
from imagecall.sizes import SCANNED
from tests.cases import CASES, REFUSED_JSON, Case, Refusal
from tests.mutations import mutations

UNDIAGNOSED = str(diagnose(b"{}"))


@pytest.mark.parametrize("case", [*CASES, *REFUSED_JSON])
def test_what_the_parser_rejects_has_a_reason_and_what_it_accepts_has_none(
    case: Case | Refusal,
) -> None:
    text = case.path.read_bytes()[:5000]
    for mutated in (text, *mutations(text, random.Random(len(text)), 400)):
        try:
            parse(mutated)
        except ConversionError as error:
            assert str(error) != UNDIAGNOSED, mutated
        else:
            assert str(diagnose(mutated)) == UNDIAGNOSED, mutated


def test_members_and_elements_are_taken_apart_and_put_together_verbatim() -> None:
    text = b'{"a":1.50,"b\\u0041":[ 1, {"x" :"\\u00e9"}],"c":"\\/"}'
    assert members(text)["bA"] == b'[ 1, {"x" :"\\u00e9"}]'
    assert join_members(members(text)) == text.replace(b"\\u0041", b"A")
    assert join_elements(elements(b"[1e5,[ ], -0]")) == b"[1e5,[ ],-0]"


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"type":"x",' + b",".join(b'"%d":1' % n for n in range(200_000)) + b',"1":2}',
        b'{"a":"' + b"x" * 20_000_000,
        b"[" + b"1," * 2_000_000 + b"x]",
        b'{"a":"' + b'\\"' * 500_000 + b":" * 20_000,
    ],
    ids=["arrays", "objects", "keys", "string", "numbers", "quotes"],
)
def test_hostile_text_is_refused_soon(text: bytes) -> None:
    start = time.monotonic()
    with pytest.raises(ConversionError):
        parse(text)
    assert time.monotonic() - start < 30  # Two orders above what it takes, for slow machines.


def test_a_beginning_with_many_escaped_quotes_is_closed_soon() -> None:
    start = time.monotonic()
    assert closing_brackets(b'[{"a":"' + b'\\"' * 500_000) == b"}]"
    assert time.monotonic() - start < 30


def counted(value: Any) -> int:
    """Members and elements of all objects and arrays of a value."""
    inner = list(value.values() if isinstance(value, dict) else value)
    return len(inner) + sum(counted(each) for each in inner if isinstance(each, dict | list))


def texts_of_many_slices() -> Iterator[bytes]:
    """JSON texts in which slices end in strings, escapes and empty containers."""
    source = random.Random(7)
    parts = ["[]", "{}", "[ ]", '{"a":[]}', "1", '"x"', '"[,]"', "[[1],2]"]
    parts += [r'"\\"', r'"\""', r'"\\\",["']
    parts += ['"' + "\\\\" * n + '"' for n in (1000, 1001)]
    for padding in range(8):
        chosen = source.choices(parts, k=2000)
        chosen.insert(1000, '"' + "x" * (SCANNED - padding) + '\\"' * SCANNED + '"')
        yield ("[" + " " * padding + ",".join(chosen) + "]").encode()


@pytest.mark.parametrize("text", [*texts_of_many_slices()], ids=lambda text: f"{len(text)}")
def test_the_values_of_a_text_are_counted_outside_its_strings(text: bytes) -> None:
    assert count_values(text) == counted(json.loads(text))
    assert parse(text) == json.loads(text)
    assert closing_brackets(text[:-1]) == b"]"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[" + b"[]," * MAX_VALUES + b"0]", "values"),
        (b"[" + b'"",' * MAX_VALUES + b"0]", "values"),
        (b"[" + b"[[[[0]]]]," * 25_000 + b"0]", "values"),
        (b'["' + b"\\n" * (MAX_ESCAPES + 1) + b'"]', "escapes"),
    ],
    ids=["arrays", "strings", "nested", "escapes"],
)
def test_what_costs_much_for_its_size_is_refused_before_it_is_parsed(
    text: bytes, message: str
) -> None:
    with pytest.raises(ConversionError, match=message) as caught:
        check_values(text)
    assert caught.value.reason == "TOO_MANY_VALUES"


@pytest.mark.parametrize(
    "text",
    [
        b"[" + b"-0.0123456789," * (MAX_VALUES - 1) + b"0]",
        b'["' + b"[{,:" * MAX_VALUES + b'"]',
        b'["' + b'\\"' * 1_000_000 + b'"]',
    ],
    ids=["embedding", "marks in a string", "escapes"],
)
def test_what_is_large_for_its_values_is_parsed(text: bytes) -> None:
    assert parse(text) == json.loads(text)


@pytest.mark.parametrize("unit", [b"x", b'\\"', b"\\u00e9", b"\\\\"])
@pytest.mark.parametrize("end", [b"\x01", b"\\x", b"\\u00"])
def test_a_fault_in_a_string_of_many_slices_is_found(unit: bytes, end: bytes) -> None:
    text = b'{"a":"' + unit * (2 * SCANNED // len(unit) + 3) + end
    assert "at byte 5" in str(diagnose(text + b'"}'))
    bad_utf8 = diagnose(text[: -len(end)] + b"\xff")
    assert bad_utf8.reason == "NOT_UTF8"
    assert str(len(text) - len(end)) in str(bad_utf8)
