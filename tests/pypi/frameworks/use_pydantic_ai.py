"""HOST:PORT. An agent of Pydantic AI, whose second turn names the first image by its id."""

import asyncio
import sys
from typing import Any

from pydantic_ai import Agent
from pydantic_ai.capabilities import NativeTool
from pydantic_ai.models.openai import OpenAIResponsesModel
from pydantic_ai.native_tools import ImageGenerationTool
from pydantic_ai.providers.openai import OpenAIProvider
from report import report

provider = OpenAIProvider(base_url=f"http://{sys.argv[1]}/v1", api_key="none")
agent = Agent(
    OpenAIResponsesModel("gpt-5", provider=provider),
    capabilities=[NativeTool(ImageGenerationTool(size="1024x1024"))],
)


@agent.tool_plain
def weather(city: str) -> str:
    """The weather of a city."""
    return f"{city}: sunny"


def found(response: Any, output: str) -> tuple[list[bytes], str]:
    return [image.data for image in response.images], output


async def main() -> None:
    plain = await agent.run("a fox")
    async with agent.run_stream("a fox") as stream:
        output = await stream.get_output()
        streamed, history = stream.response, stream.all_messages()
    again = await agent.run("make it bluer", message_history=history)
    report(
        plain=found(plain.response, plain.output),
        streamed=found(streamed, output),
        again=found(again.response, again.output),
    )


asyncio.run(main())
