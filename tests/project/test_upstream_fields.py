"""The schema beside the models of the SDKs that the tests use."""

from tests.upstream_fields import findings


def test_each_key_of_the_pinned_sdks_has_a_field_or_a_reason() -> None:
    assert list(findings()) == []
