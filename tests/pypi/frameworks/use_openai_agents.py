"""HOST:PORT. An agent of the OpenAI Agents SDK, which runs until an answer has a message."""

import asyncio
import sys
from typing import Any

from agents import (
    Agent,
    ImageGenerationTool,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI
from report import ONE_TOOL, report

set_tracing_disabled(True)


@function_tool
def weather(city: str) -> str:
    """The weather of a city."""
    return f"{city}: sunny"


client = AsyncOpenAI(base_url=f"http://{sys.argv[1]}/v1", api_key="none", max_retries=0)
agent = Agent(
    name="painter",
    instructions="You draw.",
    model=OpenAIResponsesModel(model="m", openai_client=client),
    tools=[weather, ImageGenerationTool(tool_config=ONE_TOOL)],
)


def found(run: Any) -> tuple[list[str], str]:
    items = [item.raw_item for item in run.new_items]
    calls = [item for item in items if getattr(item, "type", "") == "image_generation_call"]
    return [call.result for call in calls], run.final_output


async def main() -> None:
    plain = await Runner.run(agent, "a fox", max_turns=2)
    streamed = Runner.run_streamed(agent, "a fox", max_turns=2)
    async for _ in streamed.stream_events():
        pass
    bluer = {"role": "user", "content": "make it bluer"}
    again = await Runner.run(agent, [*streamed.to_input_list(), bluer], max_turns=2)
    report(plain=found(plain), streamed=found(streamed), again=found(again))


asyncio.run(main())
