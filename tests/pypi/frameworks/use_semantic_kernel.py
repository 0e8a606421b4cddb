"""HOST:PORT. A Responses agent of Semantic Kernel, which has no image content for such items.

The images are those of the response behind its message, which a stream does not have. Its thread is
kept by the client, as the embedded backend stores none.
"""

import asyncio
import sys
from typing import Any

from openai import AsyncOpenAI
from report import FUNCTION, ONE_TOOL, report
from semantic_kernel.agents import OpenAIResponsesAgent

agent = OpenAIResponsesAgent(
    ai_model_id="gpt-5",
    client=AsyncOpenAI(base_url=f"http://{sys.argv[1]}/v1", api_key="none", max_retries=0),
    name="painter",
    instructions="You draw.",
    tools=[FUNCTION, ONE_TOOL],
    store_enabled=False,
)


def found(answer: Any) -> tuple[list[str], str]:
    output = answer.message.inner_content.output
    calls = [item for item in output if item.type == "image_generation_call"]
    return [call.result for call in calls], answer.message.content


async def main() -> None:
    plain = await agent.get_response(messages="a fox")
    words = [part.message.content async for part in agent.invoke_stream(messages="a fox")]
    again = await agent.get_response(messages="make it bluer", thread=plain.thread)
    report(plain=found(plain), streamed=([], "".join(words)), again=found(again))


asyncio.run(main())
