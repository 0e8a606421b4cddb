"""Reports of the suite: a table for people, JSON, and JUnit XML."""

import json
from collections.abc import Sequence
from typing import Final
from xml.etree import ElementTree

from imagecall.conformance.suite import FAILED, PASSED, SKIPPED, Outcome
from imagecall.errors import printable

_INDENT: Final = " " * 9
_RESULTS: Final = (PASSED, FAILED, SKIPPED)


def row(outcome: Outcome) -> str:
    """Row of the table: the result, the rule, and what came and was expected if it failed."""
    rule = outcome.rule
    result = outcome.result.upper() if outcome.findings else outcome.result
    lines = [f"{result:<8} {rule.name:<16} {rule.sentence}"]
    for finding in outcome.findings:
        lines += [
            f"came:     {printable(finding.came)}",
            f"expected: {printable(finding.expected)}",
        ]
    if outcome.findings:
        lines.append(f"rule:     {rule.where}")
    if outcome.reason:
        lines.append(f"not checked: {printable(outcome.reason)}")
    return f"\n{_INDENT}".join(lines)


def summary(outcomes: Sequence[Outcome], images: int) -> str:
    """Last line of the table: the number of each result, and the number of images."""
    counts = ", ".join(f"{_count(outcomes, result)} {result}" for result in _RESULTS)
    return f"{counts}; {images} images were requested"


def _count(outcomes: Sequence[Outcome], result: str) -> int:
    return sum(outcome.result == result for outcome in outcomes)


def as_json(outcomes: Sequence[Outcome], target: str, images: int) -> str:
    """The outcomes as a JSON object."""
    rules = [
        {
            "rule": outcome.rule.name,
            "sentence": outcome.rule.sentence,
            "where": outcome.rule.where,
            "result": outcome.result,
            "findings": [finding._asdict() for finding in outcome.findings],
            "reason": outcome.reason,
        }
        for outcome in outcomes
    ]
    counts = {result: _count(outcomes, result) for result in _RESULTS}
    return json.dumps({"server": target, "images": images, **counts, "rules": rules}, indent=1)


def as_junit(outcomes: Sequence[Outcome], target: str) -> bytes:
    """The outcomes as JUnit XML: a test case for each rule."""
    suite = ElementTree.Element(
        "testsuite",
        name=f"imagecall check {target}",
        tests=str(len(outcomes)),
        failures=str(_count(outcomes, FAILED)),
        skipped=str(_count(outcomes, SKIPPED)),
        errors="0",
    )
    for outcome in outcomes:
        case = ElementTree.SubElement(
            suite, "testcase", classname="imagecall.check", name=outcome.rule.name
        )
        if outcome.findings:
            failure = ElementTree.SubElement(case, "failure", message=outcome.rule.sentence)
            failure.text = row(outcome)
        elif outcome.reason:
            ElementTree.SubElement(case, "skipped", message=printable(outcome.reason))
    document: bytes = ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)
    return document
