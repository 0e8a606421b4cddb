"""JSON text: what is refused, and that the diagnosis and the parser agree on it."""

import random
import time

import pytest

from imagecall.errors import ConversionError
from imagecall.json.diagnosis import diagnose
from imagecall.json.text import (
    closing_brackets,
    elements,
    join_elements,
    join_members,
    members,
    parse,
)
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
    assert time.monotonic() - start < 10  # Two orders above what it takes, for slow machines.


def test_a_beginning_with_many_escaped_quotes_is_closed_soon() -> None:
    start = time.monotonic()
    assert closing_brackets(b'[{"a":"' + b'\\"' * 500_000) == b"}]"
    assert time.monotonic() - start < 10
