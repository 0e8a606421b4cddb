"""Secrets are masked in every spelling that JSON has for them."""

import json

import pytest

from imagecall.backends.secret_words import (
    WINDOW,
    has_secret,
    secrets_of,
    without_secrets,
    without_secrets_in_place,
)
from imagecall.rpc.headers import Header

KEY = 'sk-/planted"\\0123456789+abcdef'
SECRETS = secrets_of(KEY, ())
ESCAPED = "".join(f"\\u{ord(letter):04x}" for letter in KEY)


def nested(text: str, times: int) -> str:
    """Returns the text in a JSON string, which is in another JSON string, and so on."""
    return nested(json.dumps(text)[1:-1], times - 1) if times else text


SPELLINGS = {
    "plain": KEY,
    "in a JSON string": nested(KEY, 1),
    "in JSON in a JSON string": nested(KEY, 2),
    "with an escaped solidus": nested(KEY, 1).replace("/", r"\/"),
    "with an escaped solidus in a JSON string": nested(nested(KEY, 1).replace("/", r"\/"), 1),
    "with one escape": KEY.replace("-", r"\u002d"),
    "with escapes in capitals": KEY.replace("+", r"\u002B").replace("-", r"\u002D"),
    "all escapes": ESCAPED,
    "all escapes in a JSON string": nested(ESCAPED, 1),
    "all escapes in JSON in a JSON string": nested(ESCAPED, 2),
    "all escapes, three times in JSON": nested(ESCAPED, 3),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_secret_is_masked_in_each_spelling(name: str) -> None:
    data = f'{{"a":"bad key {SPELLINGS[name]}.","b":"{SPELLINGS[name]}"}}'.encode()
    assert has_secret(data, SECRETS)
    assert without_secrets(data, SECRETS) == b'{"a":"bad key [key].","b":"[key]"}'
    in_place = without_secrets_in_place(data, SECRETS)
    assert len(in_place) == len(data)
    assert in_place.replace(b"*", b"") == b'{"a":"bad key [key].","b":"[key]"}'


@pytest.mark.parametrize("before", range(WINDOW - len(ESCAPED) - 1, WINDOW + 2, 37))
def test_a_secret_is_masked_wherever_a_window_of_a_large_text_ends(before: int) -> None:
    data = b"x" * before + ESCAPED.encode()
    assert without_secrets(data, SECRETS) == b"x" * before + b"[key]"


@pytest.mark.parametrize(
    "text", ["", "\\u0073k-/plant", KEY[:-1], ESCAPED[:-1], "\\\\u0073k", KEY[1:]]
)
def test_a_text_without_a_whole_secret_stays_as_it_is(text: str) -> None:
    assert without_secrets(text.encode(), SECRETS) == text.encode()
    assert without_secrets_in_place(text.encode(), SECRETS) == text.encode()


def test_the_longer_of_two_secrets_is_masked_first() -> None:
    headers = [Header("authorization", f"Bearer {KEY}-and-more")]
    text = f"{KEY} {KEY}-and-more".encode()
    assert without_secrets(text, secrets_of(KEY, headers)) == b"[key] [key]"
