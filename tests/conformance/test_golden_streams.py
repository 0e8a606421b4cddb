"""The golden streams: our server sends them, and the rules accept them."""

from typing import Any

import pytest

from imagecall.conformance import event_rules, response_rules, stream_rules
from imagecall.conformance.answer import PlainAnswer, StreamAnswer
from imagecall.conformance.session import Skipped
from tests import golden_streams
from tests.golden_streams import REQUESTS, ROOT

RULES = (*stream_rules.RULES, *event_rules.RULES, *response_rules.RULES)


class Recorded:
    """A session whose answers are a golden stream."""

    def __init__(self, name: str) -> None:
        request = REQUESTS[name]["request"]
        [tool] = request["tools"]
        partial_images = tool["image_generation_tool"].get("partial_images", 0)
        answer = StreamAnswer(name, partial_images, "include_other_events" in REQUESTS[name])
        answer.messages = [m.SerializeToString() for m in golden_streams.read(name)]
        answer.has_status = True
        self.answer = answer

    async def streams(self) -> list[StreamAnswer]:
        return [self.answer]

    async def answers(self) -> list[StreamAnswer | PlainAnswer]:
        return [self.answer]


async def test_our_server_sends_the_golden_streams() -> None:
    for name, stream in (await golden_streams.answers()).items():
        golden = golden_streams.comparable(golden_streams.read(name))
        assert golden_streams.comparable(stream) == golden, name


@pytest.mark.parametrize("name", REQUESTS)
async def test_the_rules_accept_a_golden_stream(name: str) -> None:
    session: Any = Recorded(name)
    for rule in RULES:
        if name == "no_image" and rule.name == "image":
            continue  # Its request allows none.
        try:
            assert not [finding async for finding in rule.check(session)], rule.name
        except Skipped as skipped:
            pytest.fail(f"{rule.name}: {skipped}")


@pytest.mark.parametrize("name", REQUESTS)
def test_the_files_of_a_golden_stream_agree(name: str) -> None:
    for file, data in golden_streams.files_of(name, golden_streams.read(name)).items():
        assert (ROOT / name / file).read_bytes() == data


def test_each_directory_is_a_golden_stream() -> None:
    assert {path.name for path in ROOT.iterdir()} == set(REQUESTS)
