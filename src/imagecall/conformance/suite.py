"""The suite: all rules in their order, and the outcome of each for a server."""

from collections.abc import AsyncGenerator, Collection
from dataclasses import dataclass
from typing import Final

import grpc
from google.protobuf.message import DecodeError

from imagecall.conformance import (
    conversion_rules,
    error_rules,
    event_rules,
    response_rules,
    server_rules,
    stream_rules,
)
from imagecall.conformance.rule import Finding, Rule
from imagecall.conformance.session import Session, Skipped

RULES: Final = (
    *error_rules.RULES,
    *stream_rules.RULES,
    *event_rules.RULES,
    *response_rules.RULES,
    *conversion_rules.RULES,
    *server_rules.RULES,
)
"""Rules in the order of their checks: those that need the fewest images first."""

PASSED: Final = "passed"
FAILED: Final = "failed"
SKIPPED: Final = "skipped"
_MOST_FINDINGS: Final = 5


@dataclass(frozen=True)
class Outcome:
    """Outcome of a rule for a server.

    Attributes:
        rule: the rule.
        findings: faults of the server, the first few.
        reason: reason that the rule was not checked. "": it was.
    """

    rule: Rule
    findings: tuple[Finding, ...] = ()
    reason: str = ""

    @property
    def result(self) -> str:
        """ "passed", "failed" or "skipped"."""
        return FAILED if self.findings else SKIPPED if self.reason else PASSED


async def run(session: Session, only: Collection[str] = ()) -> AsyncGenerator[Outcome, None]:
    """Checks the rules one after the other, or those whose names are in `only`.

    Raises ImagecallError if the server cannot be reached.
    """
    await session.connect()
    for rule in RULES:
        if not only or rule.name in only:
            yield await _outcome(rule, session)


async def _outcome(rule: Rule, session: Session) -> Outcome:
    findings: list[Finding] = []
    reason = ""
    try:
        async for finding in rule.check(session):
            findings.append(finding)
            if len(findings) == _MOST_FINDINGS:
                break
    except Skipped as skipped:
        reason = str(skipped)
    except grpc.aio.AioRpcError as error:
        findings.append(Finding(f"{error.code().name}: {error.details()}", "an answer"))
    except DecodeError:
        findings.append(Finding("bytes that are no message of the method", "an answer"))
    return Outcome(rule, tuple(findings), reason)
